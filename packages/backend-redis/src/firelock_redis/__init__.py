"""A storage for Redis and Valkey: one server, a primary with Sentinels, or a cluster.

Read `storage` first: it lists every verb in the order of the contract, and the class in `verbs/` that has
it. That class prepares the verb's arguments and reads its reply; a script in `scripts/` does the work
within the server. `layout/` says where a job is and how it is written there, and `connections/` is what
lies between a verb and the client library. `plugin` offers the storage to Firelock.
"""
