"""SQLite: one file, shared by every process of one host.

Read `database` first (connections, transactions), then `engine` (the verbs that run for every job).
`datagrams` tells other processes of work, `health` says how the file is, `opening` makes a storage of a URL.
"""
