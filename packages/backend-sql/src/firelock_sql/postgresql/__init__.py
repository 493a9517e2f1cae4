"""PostgreSQL, through psycopg 3.

Read `storage` first, and `statements`, whose SQL does each verb in one round trip. Then read `database`
(transactions), `pipeline` (statements that share round trips), `connect` (errors, poolers), `listener`
(LISTEN and NOTIFY), `claim_start` (where claims start reading while a snapshot is held open) and `health`.
These have their own form on PostgreSQL: `lanes`, in which jobs wait for their limit keys, `tags`,
`unique_lock`, `memos`, `suspensions`, and `deltas`, which count batches.
"""
