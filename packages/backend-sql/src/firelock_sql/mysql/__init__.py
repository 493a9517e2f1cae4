"""MySQL and MariaDB, by PyMySQL or mysqlclient.

Read `storage` first (the verbs that run for every job), then `pipeline`, by which its statements share round
trips, `database` (transactions), `connect` (which server it is, what errors mean), `health`. What has forms
of its own here as well: `lanes`, `memos`, `suspensions`, `deltas`.
"""
