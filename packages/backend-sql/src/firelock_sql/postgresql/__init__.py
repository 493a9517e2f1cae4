"""PostgreSQL, by psycopg 3.

Read `storage` first, and `exchange`: its statements do each verb in one round trip. Then `database`
(transactions), `connect` (what errors mean, poolers), `listener` (LISTEN and NOTIFY), `claim_start` (where
claims look while a snapshot is held open), `health`. What has forms of its own here as well: `lanes`,
`unique_lock`, `memos`, `suspensions`, `deltas`.
"""
