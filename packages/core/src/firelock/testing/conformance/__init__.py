"""The kit that tests a storage, the servers on it, a lock provider, a serializer or a retry policy.

Read `kit` first, which all parts share, and then `scene`, which the tests of a storage use. `flow_scene` adds
batches and memos, and `race` adds concurrent callers. Then read the tests in `storage/`, in the order of its
class. `model/` applies random operations to a storage and to the in-memory storage; `operations/` contains
the operations that have many correct results. `server/`, `locks`, `serializers` and `retries` are separate
kits. `reporting` is the part that pytest loads.
"""
