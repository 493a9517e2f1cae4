"""PostgreSQL, by psycopg 3.

Read `storage` first, and `statements`, its SQL, which do each verb in one round trip. Then `database`
(transactions) and `pipeline`, by which their statements share round trips, `connect` (what errors mean,
poolers), `listener` (LISTEN and NOTIFY), `claim_start` (where claims look while a snapshot is held open),
`health`. What has a form of its own here: `lanes`, in which jobs wait for their keys, `tags`, `unique_lock`,
`memos`, `suspensions`, and `deltas`, by which batches are counted.
"""
