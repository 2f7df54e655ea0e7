"""Tools for those who develop the project."""
