"""Records, and the rules that need no storage.

Read `state` and `job` first, then `lifecycle`: which state follows which, as a function of a job and an
event. What a job may have beside it: `batch`, `dependencies`, `limit`, `memo`, `meta`. What a storage reads
and answers: `storage`, `answers`, `session`, `record`, `report`. Tools without a rule of their own:
`clock`, `ids`, `text`, `metrics` (samples and their text format), `stored_json` and `aio`.
"""
