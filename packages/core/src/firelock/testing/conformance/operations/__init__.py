"""Random operations that depend only on a seed: on limits, unique keys, batches, and jobs that wait.

Read `seeded` first, which all runs share. If many results are correct, for example many orders of turns,
there is no model for comparison. Instead, `limit_operations` checks each claim with `judge`,
`unique_operations` determines the holder of a key from the jobs, `batch_operations` counts the members
itself, and `memo_operations` keeps its own copy of the memos.
"""
