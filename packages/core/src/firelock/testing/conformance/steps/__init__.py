"""Random steps of which a seed is the whole story: on limits, unique keys, batches, and jobs that wait.

Where many answers are right, as with whose turn it is, there is no model to compare with: `judge` says
whether one was just. `seeded` is what the runs share.
"""
