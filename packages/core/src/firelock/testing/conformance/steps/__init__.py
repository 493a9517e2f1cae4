"""Random steps of which a seed is the whole story: on limits, unique keys, batches, and jobs that wait.

Read `seeded` first, which the runs share. Where many answers are right, as with whose turn it is, there is no
model to compare with: `limit_steps` asks `judge` whether a claim was just, `unique_steps` asks the jobs who
has a key, `batch_steps` recounts, `memo_steps` notes beside the storage what is remembered.
"""
