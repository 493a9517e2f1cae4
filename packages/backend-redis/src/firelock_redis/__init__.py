"""A storage for Redis and Valkey: one server, a primary with Sentinels, or a cluster.

Read `storage` first. It lists every verb in the order of the contract, with the class in `verbs/` that
implements the verb. That class prepares the verb's arguments and reads its reply; a script in `scripts/` does
the work on the server. `layout/` defines the keys and the format in which a job is stored, and `connections/`
contains the code between a verb and the client library. `plugin` registers the storage with Firelock.
"""
