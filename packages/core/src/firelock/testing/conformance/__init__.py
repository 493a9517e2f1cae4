"""The kit that proves a storage, the servers on it, a keeper of locks, a serializer or a retry policy.

Read `kit` first (what every part shares), then `scene` (what tests of a storage are written in), then the
duties in `storage`, in the order of its class. `model` does random steps to a storage and to the memory.
`reporting` is what pytest is told.
"""
