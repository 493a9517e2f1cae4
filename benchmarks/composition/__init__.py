"""What batches, steps and waits cost, beside jobs that use none: `python -m benchmarks.composition --help`.

What is compared takes turns in one run, and of each pair the quotient counts: the median of all pairs is told
between its quarters.
"""
