"""One file per benchmark: its numbers, as pure functions of saved tables."""
