"""One file per family of methods: a loss turns token tables into a scalar. What several share: retain.py, divergences.py."""
