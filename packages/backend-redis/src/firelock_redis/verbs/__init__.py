"""The arguments and the reply of each verb's script.

One job's way: `insert`, `changes`. Then `sessions`, `upkeep`, `find`, `records`, `locks`, `logs`; `keys` of
limits and unique jobs; `memos`, with batches and streams.
"""
