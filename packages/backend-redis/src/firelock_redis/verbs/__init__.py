"""The Python part of each verb: it prepares the arguments of a script and reads the reply.

Storing and changing jobs: `insert`, `changes`, `moves`. The others in the order of the contract: `memos`,
with batches and streams; `limits`, with unique keys; `sessions`, `upkeep`, `find`, `logs`, `locks`,
`records`.
"""
