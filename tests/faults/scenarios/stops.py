"""F05–F07: servers that are stopped: normally, twice, or with little time."""

from __future__ import annotations

import random
import signal
import time

from tests.faults.checker import quantiles
from tests.faults.scenarios.base import Size, scenario, stage
from tests.faults.scenarios.kills import kill_whole
from tests.faults.servers import eventually

_HELD = ("held", "aheld", "pheld")  # tasks that run in a thread, on the event loop, and in a job process
_ONCE_RUN = (1, 0, 0)  # attempt, retries, crashes of a job whose interrupted runs were all handed back


@scenario("rolling-restart", "F05", full=Size(4_000, 200), short=Size(300, 3))
def rolling_restart(place, size):
    """Servers get TERM one after another under load, each after its successor started.

    Nothing is repeated.
    """
    chance = random.Random(5)
    exits = []
    with stage(place) as on:
        on.enqueue(size.jobs, lambda: chance.uniform(0.005, 0.1))
        servers = on.serve(2)
        for _ in range(size.rounds):
            servers.append(on.server())
            on.up()
            on.keep_busy(200, lambda: chance.uniform(0.005, 0.1), by=400)
            time.sleep(chance.uniform(0.0, 0.3))
            exits.append(_stop(on, servers.pop(0)))
        report = on.finish(repeats="none")
        burnt = [record for record in on.records() if record.attempt != 1]
    assert burnt == []
    return [*report.lines(), f"attempts all 1; servers ended within {max(exits):.2f} s"]


def _stop(on, server, number=signal.SIGTERM):
    """Stop the server and return how long it took."""
    began = time.monotonic()
    server.signal(number)
    assert server.process.wait(30) == 0
    on.servers.remove(server)
    return time.monotonic() - began


@scenario("exceed-grace-time", "F06", full=Size(4, 60), short=Size(2, 1))
def exceed_grace_time(place, size):
    """TERM arrives while jobs exceed the grace time. They are handed back, keep their attempt and rerun soon.

    There are `jobs` jobs of each kind: in threads, on the event loop, and in job processes.
    """
    soon = []
    apart = []
    with stage(place, grace=0.5) as on:
        old = on.server(workers=2 * size.jobs)
        for _ in range(size.rounds):
            kinds = {name: on.enqueue(size.jobs, 0.02, task=name) for name in _HELD}
            on.await_starts([job for ids in kinds.values() for job in ids])
            new = on.server(workers=2 * size.jobs)
            on.up(new)
            _stop(on, old)
            on.await_starts([job for ids in kinds.values() for job in ids], times=2)
            old = new
            soon += _pauses(on, [*kinds["held"], *kinds["aheld"]])
            apart += _pauses(on, kinds["pheld"])
            on.release()
        report = on.finish(repeats="any")
        records = on.records()
    assert {(record.attempt, record.retries, record.crashes) for record in records} == {_ONCE_RUN}
    bound = place.settings.poll + 0.5
    assert max(soon) <= place.within(bound), sorted(soon)
    return [
        f"jobs {report.jobs}, lost 0, stuck 0, attempts all 1",
        f"at work elsewhere: p50 {quantiles(soon)[0]:.2f} s, max {max(soon):.2f} s; bound {bound:.1f} s",
        f"in job processes, which have to start: at most {max(apart):.2f} s",
    ]


def _pauses(on, ids):
    """Return the time from each job's cancellation, or else from the first known time, to its start."""
    events = [event for event in on.events() if event.job in set(ids)]
    starts = {event.job: event.at for event in events if event.what == "start"}  # the last start
    cancelled = {event.job: event.at for event in events if event.what == "cancelled"}
    first = min(cancelled.values(), default=0.0) or min(event.at for event in events)
    return [starts[job] - cancelled.get(job, first) for job in ids]


@scenario("ignored-stop", "F06", full=Size(4, 20), short=Size(2, 1))
def ignored_stop(place, size):
    """Threads ignore TERM. Their jobs are handed back, the server ends, and late ends are refused."""
    exits = []
    with stage(place, grace=0.2) as on:
        for _ in range(size.rounds):
            old = on.server(workers=size.jobs)
            ids = on.enqueue(size.jobs, 0.02, task="unstoppable")
            on.await_starts(ids)
            exits.append(_stop(on, old))
            new = on.server(workers=size.jobs)
            on.await_starts(ids, times=2)
            on.release()
            _stop(on, new)
        report = on.finish(repeats="any")
        records = on.records()
    assert {(record.attempt, record.retries, record.crashes) for record in records} == {_ONCE_RUN}
    return [f"jobs {report.jobs}, lost 0, stuck 0, attempts all 1; servers ended within {max(exits):.2f} s"]


@scenario("stop-then-kill", "F07", full=Size(60, 100), short=Size(20, 1))
def stop_then_kill(place, size):
    """KILL follows a second after TERM, as with impatient orchestrators.

    Nothing is lost; running jobs repeat.
    """
    chance = random.Random(7)
    workers = 4
    with stage(place) as on:
        servers = [on.server(workers=workers), on.server(workers=workers)]
        killed = 0
        while killed < size.rounds:
            on.keep_busy(size.jobs, lambda: chance.uniform(0.01, 3.0), by=size.jobs)
            on.up()
            time.sleep(chance.uniform(0.2, 0.6))
            victim = servers.pop(0)
            victim.signal(signal.SIGTERM)
            time.sleep(1.0)
            if victim.process.poll() is None:
                kill_whole(on, victim)
                killed += 1
            # 0 if its jobs had ended within the second, so that the server had ended too
            assert victim.process.returncode in {0, -signal.SIGKILL}
            servers.append(on.replace(victim))
        report = on.finish(300)
    assert report.repeats <= workers * size.rounds, report.lines()
    return report.lines()


@scenario("repeated-stop-signals", "F07", full=Size(4, 100), short=Size(2, 1))
def repeated_stop_signals(place, size):
    """Two INTs speed up the stop, which exits with 0 and loses nothing; a third kills and exits with 1."""
    twice = []
    thrice = []
    with stage(place, grace=20) as on:
        for _ in range(size.rounds):
            server = on.server(workers=2 * size.jobs)
            ids = [job for name in _HELD for job in on.enqueue(size.jobs, 0.02, task=name)]
            on.await_starts(ids)
            twice.append(_interrupt(on, server, 2))
            server = on.server(workers=4 * size.jobs)
            unstoppable = on.enqueue(size.jobs, 0.02, task="unstoppable")
            on.await_starts(unstoppable)
            thrice.append(_interrupt(on, server, 3))
            server = on.server(workers=4 * size.jobs)
            on.await_starts(unstoppable, times=2)
            on.release()
            _stop(on, server)
        report = on.finish(repeats="any")
    assert max(twice) < 10, twice
    return [
        f"jobs {report.jobs}, lost 0, stuck 0",
        f"two signals: ended with 0 within {max(twice):.2f} s",
        f"three signals: ended with 1 within {max(thrice):.2f} s",
    ]


def _interrupt(on, server, times):
    """Interrupt a server this often, and return how long it took to end."""
    began = time.monotonic()
    for _ in range(times):
        server.signal(signal.SIGINT)
        time.sleep(0.3)
    expected = 0 if times < 3 else 1
    eventually(lambda: server.process.poll() is not None, 30, "the server ends")
    assert server.process.returncode == expected, server.process.returncode
    on.servers.remove(server)
    return time.monotonic() - began
