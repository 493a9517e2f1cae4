"""Measure the cost, delays and throughput of retention: `python -m benchmarks.retention --help`."""
