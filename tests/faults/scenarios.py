"""The scenarios by name: each takes its place and a size and returns a report or raises what is wrong."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence

from firelock import Firelock
from firelock.job import FINAL_STATES
from tests.faults.checker import Report, check
from tests.faults.ledger import read_ledger
from tests.faults.servers import Place, Server, eventually, recovery_bound

__all__ = ["SCENARIOS", "Scenario", "client", "finish"]

Scenario = Callable[[Place, int, int], list[str]]  # place, jobs, kills → lines of figures
SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    """Register a scenario under its name."""

    def register(function: Scenario) -> Scenario:
        SCENARIOS[name] = function
        return function

    return register


def client(place: Place) -> Firelock:
    """Return an app that enqueues into the place's storage: stubs, the code runs in the servers."""
    fire = Firelock(place.storage)

    def work(number: int, seconds: float) -> int: ...  # type: ignore[empty-body]
    def awork(number: int, seconds: float) -> int: ...  # type: ignore[empty-body]

    fire.task(name="tests.faults.app.work", remote=True)(work)
    fire.task(name="tests.faults.app.awork", remote=True)(awork)
    return fire


def enqueue_work(fire: Firelock, jobs: int, seconds: float) -> set[str]:
    """Return the ids of so many acknowledged jobs."""
    info = fire.registry.get("tests.faults.app.work")
    assert info is not None
    from firelock.task import Task

    task: Task[[int, float], int] = Task(fire.client, info)
    return {job.id for job in task.enqueue_many([(number, seconds) for number in range(jobs)])}


def unfinished(fire: Firelock) -> int:
    """Return how many stored jobs have not ended."""
    counts = fire.jobs.counts().by_state
    return sum(count for state, count in counts.items() if state not in FINAL_STATES)


def finish(fire: Firelock, place: Place, acknowledged: set[str], within: float) -> Report:
    """Wait until every job has ended and return the report."""
    eventually(lambda: unfinished(fire) == 0, within, "all jobs have ended")
    return check(fire, acknowledged, read_ledger(place.ledger_folder))


def are_up(fire: Firelock, servers: Sequence[Server]) -> bool:
    """Tell whether each child of the servers holds a session."""
    pids = {
        record.session.pid
        for view in fire.servers.list()
        for record in view.sessions
        if record.is_alive
    }
    return all(server.children() and pids.issuperset(server.children()) for server in servers)


@scenario("kill-servers")
def kill_servers(place: Place, jobs: int, kills: int) -> list[str]:
    """F01: `kill -9` of whole servers at random moments, two at work, each replaced at once."""
    fire, ledger = client(place), place.ledger()
    acknowledged = enqueue_work(fire, jobs, 0.01)
    servers = [Server(place, f"server-{number}") for number in range(2)]
    chance = random.Random(1)
    try:
        for number in range(kills):
            eventually(
                lambda: bool(servers[0].children()) and bool(servers[1].children()), 20, "servers are up"
            )
            time.sleep(chance.uniform(0.2, 1.2))
            victim = chance.randrange(2)
            pids = [servers[victim].pid, *servers[victim].children()]
            ledger.write("kill", note=",".join(map(str, pids)))
            servers[victim].kill()
            servers[victim] = Server(place, f"server-{number + 2}")
            if unfinished(fire) < 200:
                acknowledged |= enqueue_work(fire, 1_500, 0.01)
        report = finish(fire, place, acknowledged, 120)
    finally:
        for server in servers:
            server.kill()
        fire.close()
    late = [span for span in report.recovery if span > recovery_bound()]
    assert report.is_clean, report.lines()
    return [*report.lines(), f"bound {recovery_bound():.1f} s, later {len(late)}"]


@scenario("kill-children")
def kill_children(place: Place, jobs: int, kills: int) -> list[str]:
    """F02: `kill -9` of an executing child alone: its jobs are back without waiting for any lease."""
    fire, ledger = client(place), place.ledger()
    acknowledged = enqueue_work(fire, jobs, 0.01)
    server = Server(place, "server", workers=8, processes=2)
    chance = random.Random(2)
    try:
        for _ in range(kills):
            eventually(lambda: len(server.children()) == 2, 20, "both children are up")
            time.sleep(chance.uniform(0.2, 1.0))
            victims = server.children()
            if not victims:
                continue
            victim = chance.choice(victims)
            ledger.write("kill", note=str(victim))
            _kill_one(victim)
            if unfinished(fire) < 200:
                acknowledged |= enqueue_work(fire, 1_500, 0.01)
        report = finish(fire, place, acknowledged, 120)
    finally:
        server.kill()
        fire.close()
    assert report.is_clean, report.lines()
    return report.lines()


def _kill_one(pid: int) -> None:
    import os

    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
