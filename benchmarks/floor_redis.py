"""The floor on Redis: the same durable work per job as in Firelock, and nothing else.

It uses a connection of redis-py with hiredis, two Lua scripts and ten threads, without a framework, hooks or
validation. The work per job is that of the floor on SQLite. A record with its arguments is stored as ready.
It is claimed (state, attempt, session, fence, time) in queue order, and settled (state, times, result, one
history entry, expiry) only if state, session and fence are unchanged. Each state has a sorted set of its jobs
in order of time, whose size is the count. One script settles the previous batch and claims the next.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain, islice
from typing import Any
from urllib.parse import urlsplit

from redis import Connection
from typing_extensions import override

from benchmarks import floor_served, growth, redis_server
from benchmarks.entry import Figures, Load, run
from benchmarks.floor import RETENTION, SESSION, drain, job_ids, micros, noop
from benchmarks.storage_server import HOST

# KEYS   1 base
# ARGV   1 now, 2 queue, then for each job: id, arguments
# reply  the number of jobs
INSERT = """
local base, now, queue, jobs = KEYS[1], ARGV[1], ARGV[2], (#ARGV - 2) / 2
local head = 'enqueued 0 benchmarks.noop ' .. queue .. ' 0 ' .. now .. ' '
local place = redis.call('INCRBY', base .. ':seq', jobs) - jobs
local records, ready, listed = {}, {}, {}
for at = 1, 2 * jobs, 2 do
  local id = ARGV[at + 2]
  records[at], records[at + 1] = id, head .. ARGV[at + 3]
  ready[at], ready[at + 1] = place + (at + 1) / 2, id
  listed[at], listed[at + 1] = now, id
end
redis.call('HSET', base .. ':jobs', unpack(records))
redis.call('ZADD', base .. ':ready:' .. queue, unpack(ready))
redis.call('ZADD', base .. ':enqueued', unpack(listed))
return jobs
"""

# KEYS   1 base
# ARGV   1 session, 2 now, 3 limit, 4 how the records of the ended jobs must begin: state, session, fence;
#        then for each ended job: id, new record, ended_at
# reply  'refused', or nothing, or how the claimed records begin, and a text of two lines a job: its id, the
#        rest of its record
EXCHANGE = """
local base, session, now, head = KEYS[1], ARGV[1], ARGV[2], ARGV[4]
local jobs, held = base .. ':jobs', base .. ':held:' .. session
if #ARGV > 4 then
  local ids, records, listed = {}, {}, {}
  for at = 5, #ARGV, 3 do ids[(at - 2) / 3] = ARGV[at] end
  local stored = redis.call('HMGET', jobs, unpack(ids))
  for number, id in ipairs(ids) do
    if not stored[number] or string.sub(stored[number], 1, #head) ~= head then return 'refused' end
    records[2 * number - 1], records[2 * number] = id, ARGV[3 * number + 3]
    listed[2 * number - 1], listed[2 * number] = ARGV[3 * number + 4], id
  end
  redis.call('HSET', jobs, unpack(records))
  redis.call('ZREM', held, unpack(ids))
  redis.call('ZADD', base .. ':succeeded', unpack(listed))
end
local popped = redis.call('ZPOPMIN', base .. ':ready:default', ARGV[3])
if #popped == 0 then return nil end
local ids, records, listed, lines = {}, {}, {}, {}
for at = 1, #popped, 2 do ids[(at + 1) / 2] = popped[at] end
head = 'processing ' .. session .. ' ' .. redis.call('INCR', base .. ':fence') .. ' '
local stored = redis.call('HMGET', jobs, unpack(ids))
for number, id in ipairs(ids) do
  local record = stored[number]
  local space = string.find(record, ' ', 10, true)
  local rest = string.sub(record, 10, space - 1) + 1 .. string.sub(record, space)
  records[2 * number - 1], records[2 * number] = id, head .. now .. ' ' .. rest
  listed[2 * number - 1], listed[2 * number] = now, id
  lines[2 * number - 1], lines[2 * number] = id, rest
end
redis.call('HSET', jobs, unpack(records))
redis.call('ZADD', held, unpack(listed))
redis.call('ZREM', base .. ':enqueued', unpack(ids))
return {head, table.concat(lines, '\\n')}
"""

BASE = "{floor}"
CONNECT: Callable[..., Any] = Connection  # redis-py leaves this class untyped
Claimed = tuple[str, str, int]
Ended = tuple[str, str, int]


class Floor(floor_served.Floor):
    """A queue with one connection and two scripts."""

    def __init__(self, port: int) -> None:
        self._connection = CONNECT(host=HOST, port=port, protocol=2)
        self._connection.connect()
        self._insert = self.call("SCRIPT", "LOAD", INSERT)
        self._exchange = self.call("SCRIPT", "LOAD", EXCHANGE)
        self._ids = job_ids()
        self._head: bytes = b""

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()

    def call(self, *words: object) -> object:
        """Return the reply to a command; raise it if it is an error."""
        self._connection.send_packed_command(self._connection.pack_command(*words))
        return self._connection.read_response(disable_decoding=True)

    @override
    def enqueue(self, *, jobs: int, batch: int, queue: str = "default") -> None:
        """Store additional ready jobs, `batch` per round trip."""
        numbers = iter(range(jobs))
        while numbered := list(islice(numbers, batch)):
            words = chain.from_iterable((next(self._ids), f"[{number}]") for number in numbered)
            self.call("EVALSHA", self._insert, 1, BASE, micros(), queue, *words)

    def exchange(self, ended: Sequence[Ended], limit: int) -> list[Claimed]:
        """Settle the ended jobs and claim up to `limit` ready ones, in one round trip."""
        now = micros()
        words = chain.from_iterable(ended)
        reply = self.call("EVALSHA", self._exchange, 1, BASE, SESSION, now, limit, self._head, *words)
        if reply is None:
            return []
        if not isinstance(reply, list):
            message = f"a settle was {reply!r}"
            raise TypeError(message)
        self._head, text = reply
        lines = str(text, "utf-8").split("\n")
        return [(lines[place], lines[place + 1], now) for place in range(0, len(lines), 2)]

    @override
    def drain(self) -> None:
        drain(self.exchange, work)

    @override
    def assert_counts(self, **expected: int) -> None:
        keys = {"enqueued": "enqueued", "processing": f"held:{SESSION}", "succeeded": "succeeded"}
        found = {state: self.count("ZCARD", key) for state, key in keys.items()}
        counts = {state: jobs for state, jobs in found.items() if jobs}
        stored = self.count("HLEN", "jobs")
        if counts != expected or stored != sum(expected.values()):
            message = f"expected {expected}, found {counts} and {stored} records"
            raise RuntimeError(message)

    @override
    def read_ends(self, *, since: int) -> tuple[int, int, int]:
        ended = self.count("ZCOUNT", "succeeded", since, "+inf")
        return ended, self.read_end(since, "+inf"), self.read_end("+inf", since, "REV")

    def count(self, command: str, key: str, *words: object) -> int:
        """Return the number that a command returns."""
        return int(str(self.call(command, f"{BASE}:{key}", *words)))

    def read_end(self, first: object, last: object, *order: str) -> int:
        """Return the end, in micros, of the first job that ended between two times."""
        words = (first, last, "BYSCORE", *order, "LIMIT", 0, 1, "WITHSCORES")
        reply = self.call("ZRANGE", f"{BASE}:succeeded", *words)
        return int(reply[1]) if isinstance(reply, list) and reply else 0


def work(inbox: queue.SimpleQueue[Claimed | None], outbox: queue.SimpleQueue[Ended]) -> None:
    """Run each job from the inbox, and put the values to settle it into the outbox."""
    while (claimed := inbox.get()) is not None:
        job_id, record, claimed_at = claimed
        attempt, _, common = record.partition(" ")
        arguments = common.split(" ", 4)[4]  # after the task, the queue, the priority and the creation time
        started_at = micros()
        noop(arguments)
        ended_at = micros()
        entry = f"{attempt} {claimed_at} {started_at} {ended_at} floor"
        outbox.put((job_id, f"succeeded {entry} {ended_at + RETENTION} null {common}", ended_at))


@contextmanager
def opened(url: str) -> Iterator[Floor]:
    """Open an empty queue, and close it after the block."""
    with closing(Floor(urlsplit(url).port or 0)) as floor:
        yield floor


def grown(load: Load) -> Figures:
    """Compare enqueueing and running with many finished and waiting jobs in the storage to those with few."""
    with redis_server.running(load.directory) as server, opened(server.url) as floor:
        empty = floor_served.verbs(server, floor, load)
        floor.enqueue(jobs=load.stored, batch=500)
        floor.drain()
        floor.enqueue(jobs=load.waiting, batch=500, queue=growth.WAITING)
        return growth.shares(empty, floor_served.verbs(server, floor, load))


SCENARIOS = {**floor_served.scenarios(redis_server.running, opened), "growth": grown}

if __name__ == "__main__":
    run(SCENARIOS)
