"""Programs that check statements in our documentation about other systems; each runs the other system.

Run them manually with `python -m benchmarks.claims`; neither tests nor CI run them. `programs/` contains one
program per claim, whose first line is the claim. A program fails if its claim is false.
"""
