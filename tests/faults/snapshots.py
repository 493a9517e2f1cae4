"""The counts of batches and their members, read in one snapshot."""

from __future__ import annotations

from collections import Counter, defaultdict

import attrs
from redis import Redis

from firelock.storage import BatchCounts, State
from firelock_redis.layout.encoding import state_of
from firelock_redis.storage import RedisStorage
from firelock_sql.connections.transaction import Text
from firelock_sql.storage import SqlStorage
from firelock_sql.verbs.batches import read_batch_counts

_STATES = Text("""
SELECT m.batch_id, j.state, COUNT(*) FROM firelock_members m JOIN firelock_jobs j ON j.id = m.job_id
WHERE m.batch_id IN :ids GROUP BY m.batch_id, j.state
""")

_LETTERS = """
local reply = {}
for place, id in ipairs(ARGV) do
  local counts = redis.call(
    'HMGET', KEYS[1] .. ':b:' .. id, 'total', 'active', 'waiting', 'succeeded', 'failed', 'deleted')
  local letters = {}
  for number, member in ipairs(redis.call('ZRANGE', KEYS[1] .. ':bm:' .. id, 0, -1)) do
    letters[number] = string.sub(redis.call('HGET', KEYS[1] .. ':jobs', member), 1, 1)
  end
  reply[place] = { table.concat(letters), counts }
end
return reply
"""


@attrs.frozen
class Snapshot:
    """A batch in one snapshot."""

    id: str
    counts: BatchCounts
    found: Counter[State]

    @property
    def is_exact(self):
        """Whether the counts equal the members, regardless of which members wait."""
        counts, found = self.counts, self.found
        ended = (counts.succeeded, counts.failed, counts.deleted)
        left = counts.total - counts.ended
        return (
            counts.total == found.total()
            and ended == (found[State.SUCCEEDED], found[State.FAILED], found[State.DELETED])
            and min(counts.active, counts.waiting) >= 0
            and left <= counts.active + counts.waiting <= counts.total
        )

    @property
    def is_at_rest(self):
        """Whether no member is active or waiting."""
        return self.is_exact and self.counts.active == self.counts.waiting == 0


def snapshots_of(storage, ids):
    """Return the batches, each read in one snapshot; missing ones are omitted."""
    if isinstance(storage, SqlStorage):
        return _of_tables(storage, list(ids))
    assert isinstance(storage, RedisStorage), storage
    return _of_keys(storage, list(ids))


def _of_tables(storage, ids):
    def work(tx):
        found = defaultdict(Counter)
        all_counts = read_batch_counts(tx, ids)
        for batch, state, number in tx.all(_STATES, ids=ids):
            found[batch][State(state)] = number
        return [Snapshot(id, counts, found[id]) for id, counts in all_counts.items()]

    return storage._database.read(work) if ids else []  # noqa: SLF001 - the other query is not a method


def _of_keys(storage, ids):
    assert storage.database.partitions.number == 1, "snapshots need a single partition"
    (base,) = storage.database.partitions.bases
    with Redis.from_url(storage.connect_url.partition("?")[0], decode_responses=True) as redis:
        reply = redis.eval(_LETTERS, 1, base, *ids)
    return [
        Snapshot(id, BatchCounts(*map(int, counts)), Counter(map(state_of, letters)))
        for id, (letters, counts) in zip(ids, reply, strict=True)
        if counts[0] is not None
    ]
