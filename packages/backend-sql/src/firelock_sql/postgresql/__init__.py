"""PostgreSQL, through psycopg 3.

First read `storage`, and `statements`, whose SQL runs each verb in one round trip. Then read `database`
(transactions), `pipeline` (statements that share round trips), `connect` (errors and poolers), `listener`
(LISTEN and NOTIFY), `claim_start` (the start positions of claims while a snapshot is open) and `health`. Some
parts have a special form for PostgreSQL: `lanes`, in which jobs wait for their limit keys, `tags`,
`unique_lock`, `memos`, `suspensions`, and `deltas`, which contain changes to the counts of batches.
"""
