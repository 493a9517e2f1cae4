"""SQLite: one file, shared by every process of one host.

Read `storage` first (the verbs that run for every job), then `database` (connections, transactions), `lanes`
(in which jobs wait for their keys) and `health` (how the file is).
"""
