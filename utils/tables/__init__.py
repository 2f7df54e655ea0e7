"""Tables: the numbers of many runs side by side, with what is needed to believe them."""
