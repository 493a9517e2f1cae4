"""F43, F45: recurring jobs while servers die, and after a time without servers."""

from __future__ import annotations

import time
from datetime import timedelta
from itertools import chain, pairwise

import attrs

from firelock import Cron, Every, Firelock
from firelock.model.clock import SECOND, micros
from firelock.model.state import State
from firelock.storage import JobFilter
from firelock.testing.conformance.scene import pages
from tests.faults.scenarios.base import Size, scenario, stage
from tests.faults.scenarios.kills import kill_whole
from tests.faults.servers import eventually

_MINUTE = 60 * SECOND
_HOUR = 60 * _MINUTE
_SERVERS = 3


@scenario("kill-recurring", "F43", full=Size(50, 120), short=Size(10, 4))
def kill_recurring(place, size):
    """Definitions fire every second while servers are killed every two seconds. Each due time gets one job.

    No time is missed. There are `jobs` definitions for `rounds` seconds on three servers.
    """
    schedules = [Every(timedelta(seconds=1)), Cron("* * * * * *")]
    with stage(place) as on:
        servers = [on.server() for _ in range(_SERVERS)]
        on.up()
        names = [f"definition-{number}" for number in range(size.jobs)]
        for number, name in enumerate(names):
            on.task("work").recur(name, schedules[number % 2], 0.0)
        began = time.monotonic()
        for number in range(size.rounds // 2):
            time.sleep(max(0.0, began + 2 * (number + 1) - time.monotonic()))
            victim = servers[number % _SERVERS]
            kill_whole(on, victim)
            servers[number % _SERVERS] = on.replace(victim)
        on.up()
        last = on.fire.storage.clock() // SECOND * SECOND
        eventually(lambda: _all_fired_until(on, last), 20, "every due time so far has fired")
        for name in names:
            on.fire.recurring.remove(name)
        on.await_end(60)
        runs = {name: runs_of(on.fire.storage, name) for name in names}
        late = max(run.created_at - (run.nominal_at or 0) for one in runs.values() for run in one)
    for name, one in runs.items():
        due_times = [run.nominal_at or 0 for run in one]
        gaps = [after - before for before, after in pairwise(sorted(due_times))]
        assert set(gaps) <= {SECOND}, (name, [gap for gap in gaps if gap != SECOND])
        assert {run.state for run in one} == {State.SUCCEEDED}, name
    fired = sum(map(len, runs.values()))
    return [
        f"definitions {size.jobs}, {size.rounds} s, kills {size.rounds // 2}: due times {fired}",
        f"missing 0, duplicate 0, jobs that did not succeed 0; fired at most {late / SECOND:.1f} s late",
    ]


def _all_fired_until(on, due_at):
    return all(job.last_at is not None and micros(job.last_at) >= due_at for job in on.fire.recurring)


def runs_of(storage, recurring_id):
    """Return every job that a definition has created."""
    return list(chain.from_iterable(pages(storage, JobFilter(recurring_id=recurring_id), 500)))


# ---- no servers ------------------------------------------------------------------------------------------


@attrs.frozen
class _Missed:
    """A definition, and how many jobs it creates when it is checked an hour later."""

    name: str
    schedule: Cron | Every
    jobs: int


# The clock moves from hh:mm:30 to an hour later. Sixty due times have passed; the last one is only 30 s late,
# so it is not a misfire.
_MISSED = [
    _Missed("once", Cron("* * * * *", misfire="once"), 1),
    _Missed("all", Cron("* * * * *", misfire="all", misfire_limit=100), 60),
    _Missed("newest", Cron("* * * * *", misfire="all", misfire_limit=10), 11),
    _Missed("skip", Cron("* * * * *", misfire="skip"), 1),
    _Missed("every", Every(timedelta(minutes=1), misfire="all", misfire_limit=100), 60),
    _Missed("overlap", Cron("* * * * *", misfire="all", misfire_limit=100, overlap="skip"), 1),
]


@scenario("scheduler-down", "F45", full=Size(0, 20), short=Size(0, 2))
def scheduler_down(place, size):
    """No server fires for an hour of the storage's clock. Each misfire policy creates the expected jobs."""
    fire = Firelock(place.storage, settings=place.settings)

    @fire.task(name="tick")
    def tick() -> None: ...

    storage = fire.storage
    storage.clock_offset += 30 * SECOND - storage.clock() % _MINUTE  # half past a minute
    counts = {}
    for number in range(size.rounds):
        for one in _MISSED:
            tick.recur(f"{one.name}-{number}", one.schedule)
        storage.clock_offset += _HOUR
        with fire.server(workers=2):
            eventually(lambda: _none_is_due(storage), 20, "everything due has fired")
        for one in _MISSED:
            runs = runs_of(storage, f"{one.name}-{number}")
            assert len(runs) == one.jobs, (one, len(runs))
            newest = max(run.nominal_at or 0 for run in runs)
            assert newest == storage.clock() // _MINUTE * _MINUTE, (one, newest)
            counts[one.name] = len(runs)
            fire.recurring.remove(f"{one.name}-{number}")
    fire.close()
    return [f"an hour down, {size.rounds} times; jobs of each policy: {counts}"]


def _none_is_due(storage):
    return storage.due_records("recurring", 1) == []
