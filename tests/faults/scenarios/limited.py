"""F54: limits, rates and unique keys while processes are killed, compared with a separate ledger."""

from __future__ import annotations

import random
import time
from bisect import insort
from collections import defaultdict
from itertools import pairwise

import attrs

from firelock import Firelock, Limit, Unique
from tests.faults.scenarios.base import Size, scenario, stage
from tests.faults.scenarios.kills import kill_whole

_TENANTS, _DOCS = 8, 12
_CONCURRENT = {"shop": 5} | {f"shop/tenant:{tenant}": 2 for tenant in range(_TENANTS)}
_RATE, _BURST = 200, 20
_CLOCKS = 0.002  # difference in seconds between the storage's clock and the host's


@attrs.frozen
class Call:
    """A call for a unique job: its document, the returned job, and the time when the call returned."""

    doc: int
    job: str
    is_new: bool
    back: float


def _stubs(fire: Firelock):
    """Return stubs of the tasks with the same limits and unique keys."""

    def limited(tenant: int, seconds: float) -> None: ...

    def rated() -> None: ...

    def once(doc: int, seconds: float) -> None: ...

    limits = [Limit("shop", concurrent=5), Limit("shop/tenant:{tenant}", concurrent=2)]
    rate = Limit("api", rate=_RATE, per=1, burst=_BURST)
    return (
        fire.task(name="limited", remote=True, limits=limits)(limited),
        fire.task(name="rated", remote=True, limits=[rate])(rated),
        fire.task(name="once", remote=True, unique=Unique("doc:{doc}"))(once),
    )


@scenario("kill-limited", "F54", full=Size(20_000, 200), short=Size(300, 2))
def kill_limited(place, size):
    """`kill -9` ends servers, three at a time, that run jobs with limits, rates and keys.

    No limit is exceeded. Two fifths of the jobs hold two keys, two fifths have a rate, and one fifth are
    calls for unique jobs.
    """
    chance = random.Random(5)
    with stage(place) as on:
        limited, rated, once = _stubs(on.fire)
        unique_calls: list[Call] = []

        def call(number):
            for _ in range(number):
                doc = chance.randrange(_DOCS)
                job = once.enqueue(doc, 0.005)
                unique_calls.append(Call(doc, job.id, job.is_new, time.monotonic()))
                on.acknowledged.add(job.id)

        held = limited.enqueue_many([(chance.randrange(_TENANTS), 0.004) for _ in range(size.jobs * 2 // 5)])
        metered = rated.enqueue_many([() for _ in range(size.jobs * 2 // 5)])
        on.acknowledged.update(job.id for job in (*held, *metered))
        servers = [on.server(app="limited", workers=6) for _ in range(3)]
        calls = size.jobs // 5
        for round_ in range(size.rounds):
            on.up()
            began = time.monotonic()
            call(calls // size.rounds)
            time.sleep(max(0.0, began + chance.uniform(0.0, 1.0) - time.monotonic()))
            victim = round_ % 3
            kill_whole(on, servers[victim])
            servers[victim] = on.replace(servers[victim], app="limited", workers=6)
        report = on.finish(600)
        left = [view for view in on.fire.limits.list(limit=500) if view.running or view.waiting]
        events = on.events()
    spans = list(_held(events))
    most = {key: _most(spans, key) for key in _CONCURRENT}
    late = lateness(claim_spans(events), _RATE, _BURST)
    alive = list(twins(unique_calls, events))
    over = {key: number for key, number in most.items() if number > _CONCURRENT[key]}
    lines = [
        *report.lines(),
        f"holders: shop {most.pop('shop')} of 5, tenants {max(most.values())} of 2; above {len(over)}",
        f"rate: claimed up to {late * 1000:.1f} ms earlier than {_RATE}/s with a burst of {_BURST} permits",
        (
            f"unique: {len(unique_calls)} calls, {sum(one.is_new for one in unique_calls)} jobs, "
            f"overlapping {len(alive)}"
        ),
        f"keys still held or waited for at the end: {len(left)}",
    ]
    assert not over, lines
    assert late <= _CLOCKS, lines
    assert not alive, lines
    assert not left, lines
    return lines


def _held(events):
    """Yield each key of each run, with the time when the run started and when it ended or was killed."""
    killed = {}
    for event in events:
        if event.what == "kill":
            killed |= {int(pid): event.at for pid in event.note.split(",")}
    ended = {(event.job, event.pid, event.fence): event.at for event in events if event.what == "end"}
    for event in events:
        if event.what == "start":
            until = ended.get((event.job, event.pid, event.fence), killed.get(event.pid))
            assert until is not None, event
            for key in event.note.split()[2:]:  # after the times of the claim and the start
                yield key, event.at, until


def _most(periods, key):
    """Return the maximum number of concurrent holders of the key."""
    changes = sorted(
        change for one, since, until in periods if one == key for change in ((since, 1), (until, -1))
    )
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


def claim_spans(events):
    """Return the times between which each rated job was claimed: the claim's timestamp and the run's start.

    A claim reads the storage's clock before it commits, and a run starts after the commit. Both times are
    from the host's clock, because the ledger's clock is not adjusted when the host's is.
    """
    notes = [event.note.split() for event in events if event.what == "start" and event.note.endswith(" api")]
    return [(int(claimed) / 1_000_000, int(started) / 1_000_000) for claimed, started, *_ in notes]


def lateness(claims, rate, burst):
    """Return by how many seconds the rate must have been exceeded, or 0.0 if it might have been kept.

    A bucket of `burst` tokens, refilled with `rate` tokens per second, has at most `burst + rate * seconds`
    tokens for the claims that were made within a period. Only the claims whose whole interval is within the
    period were certainly made in it.
    """
    late = 0.0
    ends: list[float] = []  # of the claims that begin at or after `begin`, in order
    for begin, end in sorted(claims, reverse=True):
        insort(ends, end)
        late = max(late, *((n - burst) / rate - (until - begin) for n, until in enumerate(ends, start=1)))
    return late


def twins(calls, events):
    """Yield the unique jobs that were stored before the previous job for their document had ended.

    A job writes its end to the ledger before its server stores that end. Therefore the last run of the
    previous job must have ended before the call for the next job returned, even if that call took long.
    """
    runs, ends = {}, {}
    for event in events:
        if event.what == "start":
            runs[event.job] = max(runs.get(event.job, 0), event.fence)
        elif event.what == "end":
            ends[event.job, event.fence] = event.at
    by_doc = defaultdict(list)
    for one in calls:
        if one.is_new:
            by_doc[one.doc].append(one)
    for jobs in by_doc.values():
        for before, after in pairwise(jobs):
            ended = ends.get((before.job, runs.get(before.job)))
            if ended is None or ended > after.back:
                yield after
