"""Where rows come from: benchmarks, readers of their files, what methods make of data before training, probes, fixtures."""
