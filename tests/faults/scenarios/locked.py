"""F57: rows locked by applications, while processes are killed and expired jobs are removed."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from itertools import count

from firelock import Limit
from firelock.errors import StorageUnavailable
from firelock.model.state import State
from tests.faults.row_locks import locking
from tests.faults.scenarios.base import Size, scenario, stage
from tests.faults.scenarios.kills import kill_one, kill_whole

_TENANTS, _MEMBERS, _FILLERS = 8, 10, 50
_AHEAD = 600  # jobs that may wait
_HOLD, _REST = 20.0, 10.0  # seconds
_MILLISECONDS = 0.004


@scenario("kill-locked", "F57", full=Size(20_000, 200), short=Size(200, 2))
def kill_locked(place, size):
    """`kill -9` ends servers while random rows are locked for 20 s every 30 s, and expired jobs are removed.

    There are jobs with limits, batches with a continuation, and jobs with steps, on three servers. On SQLite,
    another program holds a write transaction for the same time instead. Redis has no row locks.
    """
    chance, is_short = random.Random(57), size.rounds <= 2
    hold, rest = (1.5, 0.2) if is_short else (_HOLD, _REST)
    with stage(place) as on, locking(place, hold=hold, rest=rest) as stop:
        batches: list[str] = []
        make, numbers, made = _maker(on, chance, batches), count(), 0
        servers = [on.server(app="locked", workers=6, processes=2) for _ in range(3)]
        on.up(within=60)
        kills, began = 0, time.monotonic()
        while kills < size.rounds or made < size.jobs:
            if made < size.jobs and on.unfinished() < _AHEAD:
                made += make(next(numbers))
            if kills * size.jobs <= made * size.rounds and kills < size.rounds:
                victim = kills % 3
                children = servers[victim].children()
                if kills % 2 and children:
                    kill_one(on, chance.choice(children))
                else:
                    kill_whole(on, servers[victim])
                    servers[victim] = on.replace(servers[victim], app="locked", workers=6, processes=2)
                kills += 1
            time.sleep(chance.uniform(0.0, 0.1 if is_short else 0.5))
        rows, times = stop()
        report = on.finish(600)
        parked = on.log_count("has waited")
        held = _most_held(on.events())
        left = [view for view in on.fire.limits.list(limit=500) if view.running or view.waiting]
        unended = [record for record in on.records(batches) if record.state is not State.SUCCEEDED]
    lines = [
        *report.lines(),
        f"rows locked {rows} in {times} transactions, ends reported as parked {parked}",
        f"of one key held concurrently at most {held} of 2, still held at the end {len(left)}",
        f"batches {len(batches)}, not succeeded {len(unended)}",
        f"the kills took {time.monotonic() - began:.0f} s",
    ]
    assert held <= 2, lines
    assert not left, lines
    assert not unended, lines
    return lines


def _maker(on, chance, batches):
    """Return a function that stores some jobs and a batch, and returns the number of jobs."""

    def limited(tenant: int, seconds: float) -> None: ...

    def timed(seconds: float) -> None: ...

    def filler() -> None: ...

    fire = on.fire
    limits = [Limit("tenant:{tenant}", concurrent=2)]
    limited = fire.task(name="limited", remote=True, limits=limits)(limited)
    member, stepped = (fire.task(name=name, remote=True)(timed) for name in ("member", "stepped"))
    filler = fire.task(name="filler", remote=True, keep=1)(filler)

    def fill(name):
        with fire.batch(name) as batch:
            jobs = [batch.add(member, _MILLISECONDS) for _ in range(_MEMBERS)]
            return batch, [*jobs, batch.then(member, _MILLISECONDS)]

    def make(number):
        tenants = [(chance.randrange(_TENANTS), _MILLISECONDS) for _ in range(_MEMBERS)]
        jobs = _until_stored(lambda: limited.enqueue_many(tenants))
        jobs += _until_stored(lambda: stepped.enqueue_many([(_MILLISECONDS,)] * 5))
        batch, members = _until_stored(lambda: fill(f"batch {number}"))
        jobs += members
        on.acknowledged.update(job.id for job in jobs)
        batches.append(batch.id)
        _until_stored(lambda: filler.enqueue_many([()] * _FILLERS))
        return len(jobs)

    return make


def _until_stored(store):
    """Retry while another program's transaction makes SQLite refuse the call, which then stores nothing."""
    while True:
        try:
            return store()
        except StorageUnavailable as error:
            if not error.is_untouched:
                raise


def _most_held(events):
    """Return the maximum number of concurrent holders of one key, from the events of their runs."""
    killed = defaultdict(list)  # by process; the system reuses numbers
    for event in events:
        if event.what == "kill":
            for pid in event.note.split(","):
                killed[int(pid)].append(event.at)
    ended = {(event.job, event.pid, event.fence): event.at for event in events if event.what == "end"}
    changes = defaultdict(list)
    for event in events:
        if event.what == "start" and event.note:
            until = ended.get((event.job, event.pid, event.fence))
            if until is None:
                until = min(at for at in killed[event.pid] if at >= event.at)
            changes[event.note] += [(event.at, 1), (until, -1)]
    most = 0
    for of_key in changes.values():
        held = 0
        for _, change in sorted(of_key):
            held += change
            most = max(most, held)
    return most
