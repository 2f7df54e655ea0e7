"""The tools that people call, each `python scripts/NAME.py --help`."""
