"""The arguments and the reply of each verb's script.

One job's way: `insert`, `changes`; `moves`. Then in the order of the contract: `memos`, with batches and
streams; `limits`, with unique keys; `sessions`, `upkeep`, `find`, `logs`, `locks`, `records`.
"""
