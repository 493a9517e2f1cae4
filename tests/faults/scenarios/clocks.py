"""F09, F10: wall clocks that are wrong, and a storage's clock that jumps."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import attrs

from firelock import Every, Firelock, JobContext
from firelock.clock import SECOND
from firelock.values import State
from tests.faults.checker import check
from tests.faults.ledger import read_ledger
from tests.faults.scenarios.base import NotHere, Size, forgetting, scenario, stage
from tests.faults.scenarios.kills import kill_whole
from tests.faults.scenarios.recurring import runs_of
from tests.faults.servers import eventually

_SOURCE = Path(__file__).parents[1] / "wallclock.c"
_HOUR = 3_600
_WRONG = ({"off": _HOUR, "gain": 0.01}, {"off": -_HOUR, "gain": -0.01})  # of each server in turn
_DEFINITIONS = 5
_EACH_SECOND = Every(timedelta(seconds=1))


# ---- wall clocks -----------------------------------------------------------------------------------------


@scenario("wrong-clocks", "F09", full=Size(60, 20), short=Size(40, 1), schemes=["redis"])
def wrong_clocks(place, size):
    """One server's wall clock is an hour ahead and gains, the other's is behind and loses: no harm is done.

    `rounds` kills, while recurring jobs fire each second: the bound of recovery holds, instants fire once.
    """
    chance = random.Random(9)
    wrong = [_with_clock(place, **one) for one in _WRONG]
    with stage(place) as on:
        places = [attrs.evolve(on.place, variables=variables) for variables in wrong]
        servers = [on.server(place=one) for one in places]
        on.up()
        names = [f"definition-{number}" for number in range(_DEFINITIONS)]
        for name in names:
            on.task("work").recur(name, _EACH_SECOND, 0.0)
        for number in range(size.rounds):
            on.keep_busy(size.jobs, lambda: chance.uniform(0.05, 0.3), by=size.jobs)
            on.up()
            on.await_starts(on.enqueue(1, 0.0))
            time.sleep(chance.uniform(0.2, 0.7))
            victim = number % 2
            kill_whole(on, servers[victim])
            killed_at = time.monotonic()
            servers[victim] = on.replace(servers[victim], place=places[victim])
            time.sleep(max(0.0, killed_at + place.recovery_bound + 0.3 - time.monotonic()))
        for name in names:
            on.fire.recurring.remove(name)
        report = on.finish()
        runs = {name: runs_of(on.fire.storage, name) for name in names}
        fired = [one for each in runs.values() for one in each]
        late = max((one.created_at - (one.nominal_at or 0)) / SECOND for one in fired)
        stamps = max(abs(one.changed_at - one.created_at) / SECOND for one in on.records())
    assert max(report.recovery, default=0) <= place.within(place.recovery_bound), report.lines()
    _assert_each_instant_once(runs)
    assert late < place.within(5), late
    assert stamps < 120, stamps
    return [
        *report.lines(),
        f"bound {place.recovery_bound:.1f} s; instants {len(fired)}: missing 0, twice 0",
        f"an instant fired {late:.1f} s late at most",
        f"between two instants written by different servers at most {stamps:.0f} s",
    ]


def _with_clock(place, *, off, gain):
    """Return the variables under which a program has such a wall clock.

    Raises:
        NotHere: there is no compiler, or programs here cannot be made to load a library.
    """
    library, compiler = place.folder / "wallclock.so", shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        raise NotHere("wall clocks are changed by a library, and there is no compiler to make it")
    if not library.exists():
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl"], check=True)
    variables = {
        "LD_PRELOAD": str(library), "FAULTS_WALL_CLOCK_OFF": str(off), "FAULTS_WALL_CLOCK_GAIN": str(gain),
    }  # fmt: skip
    asked = [sys.executable, "-S", "-c", "import time; print(time.time())"]
    told = subprocess.run(
        asked, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True, check=True
    )
    if abs(float(told.stdout) - time.time() - off) > 60:
        raise NotHere("programs here do not take their wall clock from a library")
    return variables


def _assert_each_instant_once(runs):
    for name, each in runs.items():
        instants = sorted(one.nominal_at or 0 for one in each)
        expected = list(range(instants[0], instants[-1] + 1, SECOND))
        assert instants == expected, (name, instants)


# ---- the storage's clock -----------------------------------------------------------------------------------

_JUMP = 300 * SECOND


@scenario("clock-jumps", "F10", full=Size(30, 10), short=Size(20, 1))
def clock_jumps(place, size):
    """The storage's clock jumps back five minutes, and forward: no instant fires twice, no job is lost.

    It is moved by the hook that storages have for tests, under two servers in this process. Going back, no
    session is taken for lost; going forward, each is, and its jobs run again. `rounds` times, `jobs` jobs.
    """
    place = attrs.evolve(place, timings={**place.timings, "FIRELOCK_KEEP_DELETED": "0"})
    ledger = place.ledger()
    apps = [Firelock(place.storage, settings=place.settings) for _ in range(2)]
    acknowledged = set()
    back_repeats = 0

    def repeats():
        return check(apps[0], acknowledged, read_ledger(place.ledger_folder)).repeats

    def jump(by):
        for app in apps:
            app.storage.clock_offset += by

    def await_end():
        eventually(lambda: _unended(apps[0]) == 0, 30, "all jobs have ended")
        # A session that has run out may be taken for lost as long as it is not renewed.
        eventually(lambda: _renewed(apps[0]) == len(apps), 30, "no server's session has run out")

    def await_run():
        eventually(lambda: _run_now(apps[0]) > 0, 10, "jobs run")

    def enqueue():
        acknowledged.update(job.id for job in works[0].enqueue_many([(0.2,)] * size.jobs))

    works = [_define(app, ledger) for app in apps]
    try:
        with apps[0].server(workers=4), apps[1].server(workers=4):
            works[0].recur("each second", _EACH_SECOND, 0.0)
            for _ in range(size.rounds):
                enqueue()
                await_run()
                before = repeats()
                jump(-_JUMP)
                time.sleep(place.settings.session_timeout + place.settings.sweep)
                enqueue()
                await_end()
                back_repeats += repeats() - before
                for _ in range(2):
                    enqueue()
                    await_run()
                    with forgetting(ledger, [os.getpid()]):
                        jump(_JUMP)
                        enqueue()
                        await_end()
            apps[0].recurring.remove("each second")
            await_end()
        report = check(apps[0], acknowledged, read_ledger(place.ledger_folder))
        report.assert_well()
        ticks = [one.nominal_at for one in runs_of(apps[0].storage, "each second")]
    finally:
        for app in apps:
            app.close()
    assert back_repeats == 0, back_repeats
    assert len(set(ticks)) == len(ticks), sorted(ticks)
    return [
        *report.lines(),
        f"back {size.rounds} times: repeats 0; forward {2 * size.rounds} times: all explained",
        f"recurring instants {len(ticks)}, twice 0",
    ]


def _define(app, ledger):
    @app.task(name="work")
    def work(job: JobContext, seconds: float) -> None:
        ledger.write("start", job=job.id, attempt=job.attempt, fence=job.fence)
        time.sleep(seconds)
        ledger.write("end", job=job.id, attempt=job.attempt, fence=job.fence)

    return work


def _run_now(app):
    return app.jobs.counts().by_state.get(State.PROCESSING, 0)


def _renewed(app):
    """Return how many sessions will be renewed in time; 0 while there are others that are not over."""
    now = app.storage.clock()
    alive = [one.expires_at > now for one in app.storage.list_sessions() if one.is_alive]
    return len(alive) if all(alive) else 0


def _unended(app):
    counts = app.jobs.counts().by_state
    return sum(counts.get(state, 0) for state in (State.ENQUEUED, State.PROCESSING))
