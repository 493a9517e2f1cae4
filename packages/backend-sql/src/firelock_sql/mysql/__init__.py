"""MySQL and MariaDB, through PyMySQL or mysqlclient.

Read `storage` first (the verbs that run for every job), then `pipeline` (statements that share round trips),
`database` (transactions), `connect` (products and errors) and `health`. Some parts have a special form for
MySQL: `lanes`, in which jobs wait for their limit keys, `memos`, `suspensions`, and `deltas`, which contain
changes to the counts of batches.
"""
