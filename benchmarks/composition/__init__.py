"""Measure the cost of batches, steps and waits in comparison: `python -m benchmarks.composition --help`.

The compared loads take turns in one run. Each pair yields a quotient, and the result is the median of all
pairs with its quartiles.
"""
