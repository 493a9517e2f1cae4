"""What our documents say of others: each claim a program that runs the other one and fails if it is not so.

`python -m benchmarks.claims` runs them, by hand; no test and no CI does. `programs/` has them, one a file;
the first line of each is the claim.
"""
