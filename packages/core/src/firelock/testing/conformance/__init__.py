"""The kit that proves a storage, the servers on it, a keeper of locks, a serializer or a retry policy.

Read `kit` first (what every part shares), then `scene` (what tests of a storage are written in; `flow_scene`
with batches and memos, `race` callers at the same time), then the duties in `storage/`, in the order of its
class. `model/` does random steps to a storage and to the memory, `steps/` those where many answers are right.
`server/`, `locks`, `serializers` and `retries` are kits of their own. `reporting` is what pytest is told.
"""
