"""Readers of the files that benchmarks come in."""
