"""Numbers as pure functions of saved tables: benchmarks, measures, and what they share. report/ says which are shown."""
