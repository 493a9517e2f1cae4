"""Clients of flows that die: while filling a batch, cancelling one, or sending a signal. Each is a fork.

The process that forks them keeps no storage open. A client that should have died within a call but survived
does not count, and another client is tried.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import firelock.flows.batch_builder
from firelock import BatchFinished, Firelock, JobConflict
from firelock.model import lifecycle
from tests.faults.forked_processes import end_of, start_fork
from tests.faults.ledger import Ledger, read_ledger
from tests.faults.points import Points

CHUNK = 10  # members that these clients store at a time
MEMBERS = 40
HOLD = timedelta(seconds=3)
OVER = "over"  # a file in the ledger that stops the start of further clients
_AT_ONCE = 5  # concurrent clients
_TRIES = 200  # attempts at one point
_SWEPT = 5  # members that one call sweeps

CHUNKS = tuple(f"chunk {number}" for number in range(1, 6))
_WHENS = ("behind", "within", "before")  # used in turn
LET_GO = ("let-go:within", "let-go:behind")
SWEEPS = ("sweep:within", "sweep:behind")
SENDS = ("send:within", "send:behind")
POINTS = (*CHUNKS, *LET_GO, *SWEEPS, *SENDS)


def stubs(fire):
    """Return stubs of the tasks by name; their code is in `apps.flows`."""

    def member(batch: str, seconds: float, fails: bool) -> int: ...

    def total(batch: str, parts: list[int]) -> int: ...

    def callback(batch: str, kind: str) -> None: ...

    def order(number: int) -> list[int | None]: ...

    def waiter() -> int | None: ...

    def racer() -> int | None: ...

    tasks = (member, total, callback, order, waiter, racer)
    return {task.__name__: fire.task(name=task.__name__, remote=True)(task) for task in tasks}


class Dying(Points):
    """A point at the n-th of its calls, or at any call if no number is given."""

    def __init__(self, folder, point, number=None):
        super().__init__(folder, point)
        self._left = number

    def _is_last(self):
        if self._left is None:
            return True
        self._left -= 1
        return self._left == 0


def fill(url, folder, point, number):
    """Fill a batch in chunks; the ledger contains its id, and whether it was filled."""
    with Firelock(url) as fire:
        tasks, ledger = stubs(fire), Ledger(folder)
        firelock.flows.batch_builder.CHUNK = CHUNK
        batch = fire.batch("abandoned", hold=HOLD)
        ledger.write("filling", job=batch.id)
        Dying(folder, point, number).watch(fire.storage)
        with suppress(BatchFinished):  # on a busy machine, the batch may not be filled within its hold
            with batch:
                batch.then(tasks["callback"].using(on="finished"), batch.id, "finished")
                for _ in range(MEMBERS):
                    batch.add(tasks["member"], batch.id, 0.002, False)
            ledger.write("filled", job=batch.id)


def sweep(url, folder, point):
    """Cancel a batch and begin to sweep it."""
    with Firelock(url) as fire:
        tasks, ledger = stubs(fire), Ledger(folder)
        with fire.batch("cancelled") as batch:
            batch.then(tasks["callback"].using(on="deleted"), batch.id, "deleted")
            # The batch must not succeed before it is deleted, even if this process is slow.
            batch.add(tasks["member"].using(delay=timedelta(hours=1)), batch.id, 0.0, False)
            for _ in range(MEMBERS - 1):
                batch.add(tasks["member"], batch.id, 0.02, False)
        ledger.write("cancelled", job=batch.id)
        now = fire.storage.clock()
        fire.storage.apply([lifecycle.delete(batch.id, at=now, reason="by hand", expires_at=None)])
        Dying(folder, point).watch(fire.storage)
        while fire.storage.release(_SWEPT):
            pass


def send(url, folder, point, job_id, payload):
    """Send a decision and die at the point."""
    with Firelock(url) as fire:
        Dying(folder, point).watch(fire.storage)
        fire.signal("decision", int).send(job_id, payload, author="sender")


def send_again(url, folder, job_id, payload):
    """Send a decision that may have been sent already, then another decision; the ledger has the results."""
    with Firelock(url) as fire:
        decision, ledger = fire.signal("decision", int), Ledger(folder)
        is_first = decision.send(job_id, payload, author="sender")
        ledger.write("sent", job=job_id, note=f"{payload} {int(is_first)}")
        other = payload + 1
        ledger.write("sent", job=job_id, note=f"{other} {int(_is_sent(decision, job_id, other))}")


def _is_sent(decision, job_id, payload):
    try:
        return decision.send(job_id, payload, author="another")
    except JobConflict:
        return False


def make_waiter(url, folder):
    """Enqueue a job that waits for a decision; the ledger contains its id."""
    with Firelock(url) as fire:
        Ledger(folder).write("waiter", job=stubs(fire)["waiter"].enqueue().id)


def _forked(work, *arguments):
    return end_of(start_fork(lambda: work(*arguments)))


def _tried(url, folder, point, number, *, is_first):
    """Return the exit code of a client that should die at the point.

    If a filler does not die within its chunk, the next filler dies after its own.
    """
    if point in CHUNKS:
        chunk, when = int(point.split()[1]), _WHENS[number % len(_WHENS)] if is_first else "behind"
        return _forked(fill, url, folder, f"chunk:{when}", chunk)
    if point in LET_GO:
        return _forked(fill, url, folder, point, 1)
    if point in SWEEPS:
        return _forked(sweep, url, folder, point)
    waiters = folder / "waiters" / point
    waiters.mkdir(exist_ok=True, parents=True)
    assert _forked(make_waiter, url, waiters) == 0
    job_id = read_ledger(waiters)[-1].job
    code = _forked(send, url, folder, point, job_id, 2 * number)
    assert _forked(send_again, url, folder, job_id, 2 * number) == 0
    return code


def _play(url, ledger, points, rounds, path):
    """Start clients until enough of them have died at each point; write the numbers of attempts to a file."""
    tried = Counter()
    for number in range(rounds):
        for point in points:
            code, before = 0, tried[point]
            while code == 0 and not (ledger / OVER).exists():
                tried[point] += 1
                assert tried[point] - before < _TRIES, f"no client dies at {point}"
                code = _tried(url, ledger, point, number, is_first=tried[point] == before + 1)
            assert code <= 0, (point, code)
    path.write_text(json.dumps(tried))


def main(url, folder, points, rounds):
    """Play the points, several of them concurrently; return the number of clients tried at each."""
    ledger, players = Path(os.environ["FAULTS_LEDGER"]), {}
    for number in range(_AT_ONCE):
        path, share = folder / f"tried-{number}", points[number::_AT_ONCE]
        players[start_fork(partial(_play, url, ledger, share, rounds, path))] = path
    assert {end_of(pid) for pid in players} == {0}, "see the log"
    return {
        point: times for path in players.values() for point, times in json.loads(path.read_text()).items()
    }
