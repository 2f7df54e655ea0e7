"""The vocabulary that data, losses and metrics share: rows, streams, requests, benchmarks, probes, metrics."""
