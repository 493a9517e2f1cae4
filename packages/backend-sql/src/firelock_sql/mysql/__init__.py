"""MySQL and MariaDB, by PyMySQL or mysqlclient.

Read `storage` first (the verbs that run for every job), then `pipeline`, by which its statements share round
trips, `database` (transactions), `connect` (which server it is, what errors mean), `health`. What has a form
of its own here: `lanes`, in which jobs wait for their keys, `memos`, `suspensions`, and `deltas`, by which
batches are counted.
"""
