"""The Python part of each verb: it prepares the arguments of a script and reads the reply.

`insert`, `changes` and `moves` store and change jobs. The other modules, in the order of the contract, are
`memos` (with batches and streams), `limits` (with unique keys), `sessions`, `upkeep`, `find`, `logs`, `locks`
and `records`.
"""
