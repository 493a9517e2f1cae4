"""SQLite: one file, shared by all processes on one host.

Read `storage` first (the verbs that run for every job), then `database` (connections and transactions),
`lanes` (in which jobs wait for their limit keys) and `health` (checks of the file).
"""
