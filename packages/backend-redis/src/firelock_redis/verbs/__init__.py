"""The arguments and the reply of each verb's script.

For one job: `insert`, `changes`, `moves`. The others in the order of the contract: `memos`, with batches and
streams; `limits`, with unique keys; `sessions`, `upkeep`, `find`, `logs`, `locks`, `records`.
"""
