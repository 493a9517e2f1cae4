"""The floor on Redis: the same durable work per job as Firelock does, and nothing else.

No framework, no hook, no validation: a connection of redis-py with hiredis, two Lua scripts, ten threads. The
work per job is that of the floor on SQLite: a record stored ready, with its arguments; claimed (state,
attempt, session, fence, instant) in its place in the queue; settled (state, instants, result, one history
entry, expiry) only where state, session and fence still hold; a sorted set a state lists the jobs in order of
time, its size is the count. One script settles the former batch and claims the next.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import chain, count, islice
from typing import Any

from redis import Connection

from benchmarks import counting, growth, redis_server
from benchmarks.entry import Figures, Load, run, timed
from benchmarks.redis_server import RedisServer

BATCH = 100
WORKERS = 10
SESSION = "floor-session"
RETENTION = 86_400_000_000

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


class Floor:
    """One connection and the two scripts."""

    def __init__(self, port: int) -> None:
        self._connection = CONNECT(host="127.0.0.1", port=port, protocol=2)
        self._connection.connect()
        self._insert = self.call("SCRIPT", "LOAD", INSERT)
        self._exchange = self.call("SCRIPT", "LOAD", EXCHANGE)
        self._ids = job_ids()
        self._head: bytes = b""

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()

    def call(self, *words: object) -> object:
        """Return the reply to one command; an error is raised."""
        self._connection.send_packed_command(self._connection.pack_command(*words))
        return self._connection.read_response(disable_decoding=True)

    def enqueue(self, *, jobs: int, batch: int, queue: str = "default") -> None:
        """Store so many ready jobs more, `batch` a round trip."""
        numbers = iter(range(jobs))
        while numbered := list(islice(numbers, batch)):
            words = chain.from_iterable((next(self._ids), f"[{number}]") for number in numbered)
            self.call("EVALSHA", self._insert, 1, BASE, micros(), queue, *words)

    def exchange(self, ended: Sequence[Ended], now: int) -> list[str]:
        """Settle the ended jobs and claim a batch of ready ones; return two lines for each: id, record."""
        words = chain.from_iterable(ended)
        reply = self.call("EVALSHA", self._exchange, 1, BASE, SESSION, now, BATCH, self._head, *words)
        if reply is None:
            return []
        if not isinstance(reply, list):
            message = f"a settle was {reply!r}"
            raise TypeError(message)
        self._head, lines = reply
        return str(lines, "utf-8").split("\n")

    def read_end(self, first: object, last: object, *order: str) -> int:
        """Return the end of the first job that ended between two instants, in micros."""
        words = (first, last, "BYSCORE", *order, "LIMIT", 0, 1, "WITHSCORES")
        reply = self.call("ZRANGE", f"{BASE}:succeeded", *words)
        if not isinstance(reply, list) or not reply:
            message = "no job has ended"
            raise RuntimeError(message)
        return int(reply[1])

    def drain(self) -> None:
        """Run all ready jobs on ten threads, in batches that settle the former one and claim the next."""
        inbox: queue.SimpleQueue[Claimed | None] = queue.SimpleQueue()
        outbox: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        threads = [threading.Thread(target=work, args=(inbox, outbox)) for _ in range(WORKERS)]
        for thread in threads:
            thread.start()
        lines = self.exchange([], now := micros())
        while lines:
            for place in range(0, len(lines), 2):
                inbox.put((lines[place], lines[place + 1], now))
            ended = [outbox.get() for _ in range(0, len(lines), 2)]
            lines = self.exchange(ended, now := micros())
        for _ in threads:
            inbox.put(None)
        for thread in threads:
            thread.join()


def micros() -> int:
    """Return microseconds since the epoch."""
    return time.time_ns() // 1000


def job_ids() -> Iterator[str]:
    """Yield time-ordered ids of 36 characters: milliseconds, a counter, this process's own random."""
    origin = os.urandom(6).hex()
    for number in count():
        instant = format(time.time_ns() // 1_000_000, "012x")
        yield f"{instant[:8]}-{instant[8:]}-7{number >> 12 & 0xFFF:03x}-8{number & 0xFFF:03x}-{origin}"


def noop(_arguments: str) -> None:
    """Do nothing: the job."""


def work(inbox: queue.SimpleQueue[Claimed | None], outbox: queue.SimpleQueue[Ended]) -> None:
    """Run every job of the inbox once and lay it in the outbox, ready to be settled."""
    while (claimed := inbox.get()) is not None:
        job_id, record, claimed_at = claimed
        attempt, _, common = record.partition(" ")
        arguments = common.split(" ", 4)[4]  # behind task, queue, priority and the instant it was stored
        started_at = micros()
        noop(arguments)
        ended_at = micros()
        entry = f"{attempt} {claimed_at} {started_at} {ended_at} floor"
        outbox.put((job_id, f"succeeded {entry} {ended_at + RETENTION} null {common}", ended_at))


def assert_counts(server: RedisServer, **expected: int) -> None:
    """Raise unless the sets of the states and the records themselves say so many jobs a state."""
    keys = {"enqueued": "enqueued", "processing": f"held:{SESSION}", "succeeded": "succeeded"}
    found = {state: int(server.call("ZCARD", f"{BASE}:{key}")) for state, key in keys.items()}
    counts = {state: jobs for state, jobs in found.items() if jobs}
    stored = int(server.call("HLEN", f"{BASE}:jobs"))
    if counts != expected or stored != sum(expected.values()):
        message = f"expected {expected}, found {counts} and {stored} records"
        raise RuntimeError(message)


def enqueued(load: Load, *, jobs: int, batch: int) -> Figures:
    """Measure storing so many jobs in batches of one size."""
    with redis_server.running(load.directory) as server, closing(Floor(server.port)) as floor:
        cpu = server.cpu_seconds()
        figures = timed(lambda: floor.enqueue(jobs=jobs, batch=batch), jobs=jobs)
        assert_counts(server, enqueued=jobs)
        return redis_server.with_storage(figures, server.cpu_seconds() - cpu, jobs=jobs)


def enqueue_bulk_100(load: Load) -> Figures:
    """Measure storing jobs in round trips of 100."""
    return enqueued(load, jobs=load.jobs, batch=100)


def enqueue_bulk(load: Load) -> Figures:
    """Measure storing jobs in round trips of 500."""
    return enqueued(load, jobs=load.jobs, batch=500)


def enqueue_one(load: Load) -> Figures:
    """Measure storing jobs with a round trip each."""
    return enqueued(load, jobs=load.singles, batch=1)


def drained(server: RedisServer, floor: Floor, *, jobs: int) -> Figures:
    """Measure running the ready jobs; the rate is taken between the first and the last end of one."""
    before, cpu = micros(), server.cpu_seconds()
    figures = timed(floor.drain, jobs=jobs)
    cpu = server.cpu_seconds() - cpu
    if (ended := server.call("ZCOUNT", f"{BASE}:succeeded", str(before), "+inf")) != str(jobs):
        message = f"{jobs} jobs should have ended, {ended} have"
        raise RuntimeError(message)
    first, last = floor.read_end(before, "+inf"), floor.read_end("+inf", before, "REV")
    figures["jobs_per_s"] = (jobs - 1) / (last - first) * 1e6
    return redis_server.with_storage(figures, cpu, jobs=jobs)


def process(load: Load) -> Figures:
    """Measure running jobs that were all stored before."""
    with redis_server.running(load.directory) as server, closing(Floor(server.port)) as floor:
        floor.enqueue(jobs=load.jobs, batch=500)
        figures = drained(server, floor, jobs=load.jobs)
        assert_counts(server, succeeded=load.jobs)
    return figures


def footprint(load: Load) -> Figures:
    """Count what a job costs of the wire and of the server's memory."""
    with (
        redis_server.running(load.directory) as server,
        counting.counting(server.port) as wire,
        closing(Floor(wire.port)) as floor,
    ):
        steps: dict[str, tuple[int, Callable[[], None]]] = {
            "one": (load.singles, lambda: floor.enqueue(jobs=load.singles, batch=1)),
            "bulk": (load.jobs, lambda: floor.enqueue(jobs=load.jobs, batch=500)),
            "process": (load.jobs + load.singles, floor.drain),
        }
        return counting.measure(steps, server, wire)


def growth_of(load: Load, floor: Floor, server: RedisServer) -> Figures:
    """Measure the three verbs beside whatever is stored."""
    bulk = timed(lambda: floor.enqueue(jobs=load.jobs, batch=500), jobs=load.jobs)
    processed = drained(server, floor, jobs=load.jobs)
    single = timed(lambda: floor.enqueue(jobs=load.singles, batch=1), jobs=load.singles)
    floor.drain()
    return growth.verbs(bulk, processed, single)


def grown(load: Load) -> Figures:
    """Compare the three verbs beside many finished and as many waiting jobs with the same beside few."""
    with redis_server.running(load.directory) as server, closing(Floor(server.port)) as floor:
        empty = growth_of(load, floor, server)
        floor.enqueue(jobs=load.stored, batch=500)
        floor.drain()
        floor.enqueue(jobs=load.stored, batch=500, queue="waiting")
        return growth.shares(empty, growth_of(load, floor, server))


SCENARIOS = {
    "enqueue_bulk_100": enqueue_bulk_100,
    "enqueue_bulk": enqueue_bulk,
    "enqueue_one": enqueue_one,
    "process": process,
    "footprint": footprint,
    "growth": grown,
}

if __name__ == "__main__":
    run(SCENARIOS)
