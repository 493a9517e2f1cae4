"""Measure the cost of limits, turns and unique keys: `python -m benchmarks.limits --help`.

The compared loads take turns in one run. Each pair yields a quotient, and the result is the median of all
pairs with its quartiles.
"""
