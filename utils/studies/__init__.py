"""Studies: one file says what a table is, one command makes it."""
