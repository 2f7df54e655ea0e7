"""Tables of bad inputs, a kind in each file: what is refused and how, and what is accepted all the same and why."""
