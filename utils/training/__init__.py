"""The trainer, and what a method may do besides its loss: choose what trains, change weights afterwards."""
