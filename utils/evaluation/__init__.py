"""Scoring and generating for an evaluation, what is measured, how two runs are compared."""
