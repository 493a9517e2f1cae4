"""F01–F04: killed processes."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.faults.checker import quantiles
from tests.faults.crashing import CRASHED
from tests.faults.program import run_program
from tests.faults.scenarios.base import Size, scenario, stage
from tests.faults.servers import eventually, is_running, kill

_QUIET = 3.5  # seconds between two kills, after which the bound of a recovery can be checked
_LEASE = 30.0  # the session timeout in seconds, for which nothing may have to wait
_SOON = 1.0  # seconds in which an otherwise idle machine runs the jobs of a worker process again
_APART, _WORKERS = 4, 10  # jobs in job processes per round; workers of each server in that scenario


def kill_whole(on, server):
    """Kill all processes of a server together, and write this to the ledger."""
    begun = time.monotonic()
    pids = server.kill()
    on.note("kill", *pids, at=begun)  # before the kill: another server may already run its jobs
    on.note("died", *pids)


def kill_one(on, pid, *dying):
    """Kill one process, and write to the ledger which others die with it."""
    begun = time.monotonic()
    kill(pid)
    on.note("kill", pid, *dying, at=begun)
    on.note("died", pid)


@scenario("kill-servers", "F01", full=Size(20_000, 200), short=Size(600, 3))
def kill_servers(place, size):
    """`kill -9` ends whole servers at random times. Each of the two servers is replaced immediately.

    There might be no other server to take over, so the recovery is reported and not checked.
    """
    chance = random.Random(1)
    with stage(place) as on:
        on.enqueue(size.jobs, 0.01)
        servers = [on.server(), on.server()]
        for _ in range(size.rounds):
            on.up()
            time.sleep(chance.uniform(0.0, 1.0))
            victim = chance.randrange(2)
            kill_whole(on, servers[victim])
            servers[victim] = on.replace(servers[victim])
            on.keep_busy(200, 0.01)
        began = time.monotonic()
        report = on.finish(300)
        tail = time.monotonic() - began
    late = sum(seconds > place.recovery_bound for seconds in report.recovery)
    return [
        *report.lines(),
        f"bound if another server survives {place.recovery_bound:.1f} s, later {late}",
        f"the rest took {tail:.1f} s",
    ]


@scenario("kill-servers-in-turn", "F01", full=Size(60, 200), short=Size(60, 1))
def kill_servers_in_turn(place, size):
    """`kill -9` ends whole servers at intervals that let another one take over. The recovery bound holds."""
    chance = random.Random(2)
    with stage(place) as on:
        on.enqueue(size.jobs, lambda: chance.uniform(0.05, 0.3))
        servers = [on.server(), on.server()]
        for number in range(size.rounds):
            on.up()
            eventually(lambda: _all_run(on, servers, chance), 20, "both servers run jobs")
            time.sleep(chance.uniform(0.0, 0.5))
            victim = number % 2
            kill_whole(on, servers[victim])
            killed_at = time.monotonic()
            servers[victim] = on.replace(servers[victim])
            time.sleep(max(0.0, killed_at + _QUIET - time.monotonic()))
        report = on.finish(300)
    late = sum(seconds > place.recovery_bound for seconds in report.recovery)
    assert late == 0, report.lines()
    return [*report.lines(), f"bound {place.recovery_bound:.1f} s, later {late}"]


def _all_run(on, servers, chance):
    """Return whether each worker process has started a job, with jobs for a process that started late."""
    on.keep_busy(60, lambda: chance.uniform(0.05, 0.3), by=60)
    starters = {int(path.stem) for path in Path(on.place.ledger_folder).glob("*.jsonl")}
    return all(starters.intersection(server.children()) for server in servers)


@scenario("kill-worker-processes", "F02", full=Size(20_000, 200), short=Size(600, 4))
def kill_worker_processes(place, size):
    """`kill -9` ends one of two worker processes. Its jobs run again before the session would expire."""
    chance = random.Random(3)
    with stage(place, session_timeout=_LEASE) as on:
        on.enqueue(size.jobs, 0.01)
        server = on.server(workers=8, processes=2)
        for _ in range(size.rounds):
            on.up()
            eventually(lambda: _every_child_runs(on, server), 20, "both worker processes run jobs")
            time.sleep(chance.uniform(0.0, 0.5))
            kill_one(on, chance.choice(server.children()))
        report = on.finish(300)
        suspects = {record.id for record in on.records() if record.crashes >= 2}
    durations = [one.seconds for one in report.recoveries if one.job not in suspects]
    p50, p99, most = quantiles(durations)
    # The time depends on the machine and is only reported. The new process needs time to start, but less than
    # a session timeout.
    assert p99 <= _LEASE / 2, report.lines()
    late = sum(seconds > _SOON for seconds in durations)
    return [
        *report.lines(),
        f"without {len(suspects)} jobs that ran alone: p50 {p50:.2f} s, p99 {p99:.2f} s, max {most:.2f} s",
        f"later than {_SOON:g} s, the limit on an idle machine: {late} of {len(durations)}",
    ]


def _every_child_runs(on, server):
    on.keep_busy(300, 0.01)
    starters = {int(path.stem) for path in Path(on.place.ledger_folder).glob("*.jsonl")}
    return len(server.children()) == server.processes and starters.issuperset(server.children())


@scenario("kill-supervisors", "F03", full=Size(120, 50), short=Size(60, 1))
def kill_supervisors(place, size):
    """`kill -9` ends only the supervisor. Its child processes end within 2 s, and another server takes over.

    Some of the jobs run in job processes. There are enough workers that the jobs of two servers never occupy
    the last one. Otherwise a recovered job would wait for it.
    """
    chance = random.Random(4)
    durations = []
    apart = []
    with stage(place) as on:
        servers = [on.server(workers=_WORKERS), on.server(workers=_WORKERS)]
        for number in range(size.rounds):
            on.enqueue(size.jobs, lambda: chance.uniform(0.05, 0.3))
            apart += on.enqueue(_APART, lambda: chance.uniform(0.2, 1.0), task="apart")
            on.up()
            eventually(lambda: _all_run(on, servers, chance), 20, "both servers run jobs")
            time.sleep(chance.uniform(0.0, 0.8))
            victim = servers[number % 2]
            family = victim.family()
            kill_one(on, victim.pid, *family)
            durations.append(_await_end(family, place.within(2)))
            on.note("died", *family)
            servers[number % 2] = on.replace(victim, workers=_WORKERS)
            time.sleep(_QUIET)
        report = on.finish(300)
        apart += [record.id for record in on.records() if record.crashes >= 2]  # they ran alone
        for server in servers:
            assert server.stop() == 0
        eventually(lambda: not left_over(place), place.within(2), "no process that a server started is left")
    late = [one.job for one in report.recoveries if one.seconds > place.within(place.recovery_bound)]
    assert not set(late).difference(apart), report.lines()  # a job process needs time to start
    return [*report.lines(), f"worker processes ended within {max(durations):.2f} s, orphans 0"]


def _await_end(pids, within):
    return eventually(
        lambda: not any(map(is_running, pids)), within, "all processes that the supervisor started have ended"
    )


def left_over(place):
    """Return the commands of processes that write to this place's ledger."""
    mark = f"FAULTS_LEDGER={place.ledger_folder}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes().split(b"\0") and is_running(int(path.name)):
                found.append((path / "cmdline").read_text())
        except OSError:
            continue
    return found


@scenario("host-failure", "F01", full=Size(40, 4), short=Size(6, 3))
def host_failure(place, size):
    """All processes are killed together, repeatedly, while the same jobs run. No job fails because of this.

    Jobs that ran when the host was lost twice are suspects and run alone, each in a job process.
    """
    with stage(place, session_timeout=1.0, heartbeat=0.3, sweep=0.2, poll=0.1) as on:
        ids = on.enqueue(size.jobs, 0.05, task="held")
        for number in range(size.rounds):
            server = on.server(workers=size.jobs)
            on.await_starts(ids, times=number + 1)
            kill_whole(on, server)
            on.servers.clear()
        (place.ledger_folder / "released").touch()
        on.server(workers=size.jobs)
        began = time.monotonic()
        report = on.finish(300)
        took = time.monotonic() - began
        crashes = {record.crashes for record in on.records()}
    assert crashes == {size.rounds}, crashes
    return [
        *report.lines(),
        f"{size.jobs} jobs finally ran alone: all ended within {took:.1f} s",
    ]


@scenario("crash-points", "F04", full=Size(1_000, 12), short=Size(6, 2))
def crash_points(place, size):
    """A server with a client dies before or after the n-th call of each method.

    Another one finishes the rest. `jobs` is the maximum number of points, and `rounds` is the maximum number
    of calls per method.
    """
    results = run_program(place, "crashing", size.jobs, size.rounds)
    wrong = [result for result in results if result[2]]
    assert wrong == [], wrong
    assert results[0][1] == 0, "the program failed without a death"
    reached = sum(code == CRASHED for _, code, _ in results)
    failed = [result for result in results if result[1] not in {0, CRASHED}]
    assert failed == [], failed
    verbs = {point[0] for point, _, _ in results if point is not None}
    return [f"points {len(results) - 1} of {len(verbs)} methods, died {reached}, lost 0, stuck 0, illegal 0"]
