"""F09, F10, F56: wrong wall clocks, wall clocks that are set, and a storage's clock that jumps."""

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
from firelock.model.clock import SECOND
from firelock.model.state import State
from tests.faults.checker import check
from tests.faults.ledger import read_ledger
from tests.faults.scenarios.base import NotHere, Size, scenario, stage
from tests.faults.scenarios.kills import kill_whole
from tests.faults.scenarios.recurring import runs_of
from tests.faults.servers import eventually

_SOURCE = Path(__file__).parents[1] / "wallclock.c"
_HOUR = 3_600
_WRONG = ({"off": _HOUR, "gain": 0.01}, {"off": -_HOUR, "gain": -0.01})  # the servers in order
_DEFINITIONS = 5
_EACH_SECOND = Every(timedelta(seconds=1))


# ---- wall clocks -----------------------------------------------------------------------------------------


@scenario("wrong-clocks", "F09", full=Size(60, 20), short=Size(40, 1), schemes=["redis"])
def wrong_clocks(place, size):
    """One server's wall clock is an hour ahead and fast, another's is behind and slow. No harm is done.

    There are `rounds` kills, while recurring jobs fire every second. The bound on recovery holds, and each
    due time fires once.
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
    _assert_each_due_time_once(runs)
    assert late < place.within(5), late
    assert stamps < 120, stamps
    return [
        *report.lines(),
        f"bound {place.recovery_bound:.1f} s; due times {len(fired)}: missing 0, duplicate 0",
        f"a due time fired at most {late:.1f} s late",
        f"timestamps of different servers differed by at most {stamps:.0f} s",
    ]


def _with_clock(place, *, off, gain):
    """Return the environment variables that give a program such a wall clock.

    Raises:
        NotHere: if there is no compiler, or if programs here cannot be made to load a library.
    """
    library, compiler = place.folder / "wallclock.so", shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        raise NotHere("the library that changes wall clocks cannot be built without a compiler")
    if not library.exists():
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl"], check=True)
    variables = {
        "LD_PRELOAD": str(library), "FAULTS_WALL_CLOCK_OFF": str(off), "FAULTS_WALL_CLOCK_GAIN": str(gain),
    }  # fmt: skip
    command = [sys.executable, "-S", "-c", "import time; print(time.time())"]
    printed = subprocess.run(
        command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True, check=True
    )
    if abs(float(printed.stdout) - time.time() - off) > 60:
        raise NotHere("programs here do not read their wall clock from a library")
    return variables


def _assert_each_due_time_once(runs):
    for name, each in runs.items():
        due_times = sorted(one.nominal_at or 0 for one in each)
        expected = list(range(due_times[0], due_times[-1] + 1, SECOND))
        assert due_times == expected, (name, due_times)


# ---- a wall clock that is set ------------------------------------------------------------------------------

_STEPS = (600, -1_200, 300)  # seconds, one after another
_LIBRARIES = ("libfaketime.so.1", "faketime/libfaketime.so.1")


@scenario("set-clock", "F56", full=Size(4, 10), short=Size(4, 1), schemes=["sqlite"])
def set_clock(place, size):
    """The wall clock of the host is set while two servers run. No session is lost, and no job runs twice.

    It is set forward by ten minutes, back by twenty and forward by five, `rounds` times, each time while
    `jobs` jobs run. Then a server that runs jobs is killed right after the clock was set back, and the other
    server runs them.
    """
    watch = place.folder / "wall-clock"
    variables = _settable_clock(place, watch)
    with stage(attrs.evolve(place, variables=variables)) as on:
        servers = {f"server-{number}": server for number, server in enumerate(on.serve(2), start=1)}
        eventually(lambda: on.log_count("Running jobs from now on") == 2, 30, "both servers run jobs")
        now = 0
        for step in _STEPS * size.rounds:
            on.await_starts(on.enqueue(size.jobs, 0.05, task="held"))
            logged = on.log_count("had its clock set")
            now += step
            _set(on, watch, now)
            eventually(
                lambda logged=logged: on.log_count("had its clock set") == logged + 2,
                30,
                "servers notice the change",
            )
            eventually(lambda: _renewed_now(on.fire) == 2, 30, "sessions are renewed")
            time.sleep(
                place.settings.session_timeout + 2 * place.settings.sweep
            )  # the servers may search for lost sessions again
            on.release()
            on.await_progress()
        report = on.finish(repeats="none")
        ids = on.enqueue(size.jobs, 0.05, task="held")
        on.await_starts(ids)
        _set(on, watch, now - 600)
        kill_whole(on, servers[on.record(ids[0]).server])
        killed_at = time.monotonic()
        eventually(lambda: on.log_count("was lost") == 1, 60, "the dead server is found")
        found = time.monotonic() - killed_at
        on.release()
        on.finish()
    return [
        *report.lines(),
        f"the clock was set {len(_STEPS) * size.rounds} times: sessions lost 0, repeats 0",
        f"a server killed after the clock was set back was found after {found:.1f} s",
    ]


def _settable_clock(place, watch):
    """Return the environment variables with which a program's wall clock is off by the seconds in a file.

    Raises:
        NotHere: if libfaketime is not installed, or if it changes monotonic clocks here.
    """
    folders = [Path("/usr/lib"), *Path("/usr/lib").glob("*-linux-gnu*")]
    found = [folder / name for folder in folders for name in _LIBRARIES if (folder / name).exists()]
    if not found:
        raise NotHere("the wall clock is set by libfaketime, which is not installed")
    variables = {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(watch),
        "FAKETIME_NO_CACHE": "1",  # read the file at every call
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # nor CLOCK_BOOTTIME, as checked below
        "FAKETIME_DISABLE_SHM": "1",  # killed programs would leave it behind
    }
    _write_offset(watch, 5_000)
    code = "import time; print(time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))"
    command = [sys.executable, "-S", "-c", code]
    printed = subprocess.run(
        command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True, check=True
    )
    here = (time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))
    off = [float(there) - now for there, now in zip(printed.stdout.split(), here, strict=True)]
    if abs(off[0] - 5_000) > 60 or abs(off[1]) > 60 or abs(off[2]) > 60:
        raise NotHere(f"libfaketime moves the clocks of programs by {off}, not only the wall clock")
    _write_offset(watch, 0)
    return variables


def _write_offset(watch, seconds):
    """Replace the file atomically, because a program that reads an incomplete file would end."""
    new = watch.with_suffix(".new")
    new.write_text(f"{seconds:+d}\n")
    new.replace(watch)


def _set(on, watch, seconds):
    """Move the wall clock of the servers, and the storage's clock in this process, by a number of seconds."""
    _write_offset(watch, seconds)
    on.fire.storage.clock_offset = seconds * SECOND


def _renewed_now(app):
    """Return the number of sessions that were renewed after the clock was set."""
    now, timeout = app.storage.clock(), app.settings.session_timeout
    ends = [(one.expires_at - now) / SECOND for one in app.storage.list_sessions() if one.is_alive]
    return sum(0 < left <= timeout + 1 for left in ends)


# ---- the storage's clock -----------------------------------------------------------------------------------

_JUMP = 300 * SECOND


@scenario("clock-jumps", "F10", full=Size(30, 10), short=Size(20, 1))
def clock_jumps(place, size):
    """The storage's clock jumps back five minutes, and forward. No due time fires twice; no job runs twice.

    The hook that storages have for tests moves the clock, while two servers run in this process. No session
    is considered lost in either case. This is repeated `rounds` times, with `jobs` jobs.
    """
    place = attrs.evolve(place, timings={**place.timings, "FIRELOCK_KEEP_DELETED": "0"})
    ledger = place.ledger()
    apps = [Firelock(place.storage, settings=place.settings) for _ in range(2)]
    acknowledged = set()

    def jump(by):
        for app in apps:
            app.storage.clock_offset += by

    def await_end():
        eventually(lambda: _unended(apps[0]) == 0, 30, "all jobs have ended")
        # An expired session can be considered lost until it is renewed.
        eventually(lambda: _renewed(apps[0]) == len(apps), 30, "no server's session has expired")

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
                jump(-_JUMP)
                time.sleep(place.settings.session_timeout + place.settings.sweep)
                enqueue()
                await_end()
                for _ in range(2):
                    enqueue()
                    await_run()
                    jump(_JUMP)
                    time.sleep(place.settings.session_timeout + place.settings.sweep)
                    enqueue()
                    await_end()
            apps[0].recurring.remove("each second")
            await_end()
        report = check(apps[0], acknowledged, read_ledger(place.ledger_folder))
        report.assert_well(repeats="none")
        ticks = [one.nominal_at for one in runs_of(apps[0].storage, "each second")]
    finally:
        for app in apps:
            app.close()
    assert len(set(ticks)) == len(ticks), sorted(ticks)
    return [
        *report.lines(),
        f"back {size.rounds} times, forward {2 * size.rounds} times: repeats 0",
        f"recurring due times {len(ticks)}, duplicate 0",
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
    """Return the number of unexpired sessions; 0 if an active session has expired."""
    now = app.storage.clock()
    alive = [one.expires_at > now for one in app.storage.list_sessions() if one.is_alive]
    return len(alive) if all(alive) else 0


def _unended(app):
    counts = app.jobs.counts().by_state
    return sum(counts.get(state, 0) for state in (State.ENQUEUED, State.PROCESSING))
