"""From a command line to a finished run folder: settings, loading, training, scoring, oracles."""
