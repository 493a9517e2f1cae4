"""What retention costs and delays, and whether it keeps pace: `python -m benchmarks.retention --help`."""
