"""Measure other jobs while rows of some jobs are locked, as by a long transaction of an application."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import attrs

from benchmarks import places
from benchmarks.isolation import ends, tasks
from benchmarks.pairs import Row
from benchmarks.places import Place
from benchmarks.plan import Plan
from benchmarks.servers import Server
from firelock import Firelock, Job, State

NUMBERS = (1, 10, 100)
SECONDS = 25.0  # duration of the locks; the times before and after are half as long
_BACKLOG, _CHUNK = 4_000, 500
_LONGEST = 120.0  # seconds in which the locked jobs must end afterwards

_JOBS = "SELECT 1 FROM firelock_jobs WHERE id IN ({}) FOR UPDATE"
_BATCHES = "SELECT 1 FROM firelock_batches WHERE id IN ({}) FOR UPDATE"
_LIMITS = "SELECT 1 FROM firelock_limit_keys WHERE key IN ({}) FOR UPDATE"
_UNIQUE = "SELECT 1 FROM firelock_unique_keys WHERE key IN ({}) FOR UPDATE"


@attrs.frozen
class Scene:
    """Jobs that run until a gate opens, and the rows that are locked before."""

    jobs: Sequence[Job[Any]]  # each ends when its row is unlocked
    statement: str
    locked: Sequence[str]
    afterwards: Callable[[], bool] = lambda: True  # whether dependent jobs have run too


def with_locked_rows(plan: Plan) -> Iterator[Row]:
    """Yield the other jobs' rate with and without locked rows, and the durations of claims."""
    seconds = max(3.0, SECONDS * plan.scale)
    for name, make in _SCENES.items():
        for number in NUMBERS:
            yield from _measure(plan, name, make, number, seconds)


def _measure(
    plan: Plan,
    name: str,
    make: Callable[[tasks.Tasks, str, int], Scene],
    number: int,
    seconds: float,
) -> Iterator[Row]:
    folder = plan.folder / f"{name.replace(' ', '-')}-{number}"
    gates = folder / "gates"
    gates.mkdir(parents=True)
    gates.chmod(0o777)
    with places.opened(plan.storage, folder / "place") as place, places.client(place.url) as fire:
        declared = tasks.declare(fire)
        scene = make(declared, "gate", number)
        with (
            places.serving(
                place, "benchmarks.isolation.app:fire", processes=2,
                BENCHMARK_MEASURES=str(gates), BENCHMARK_GATES=str(gates), FIRELOCK_ASYNC_WORKERS="200",
            ) as (server,),
            _fed(fire, declared) as others,
        ):  # fmt: skip
            _await(server, lambda: _all_in(scene.jobs, State.PROCESSING), "the jobs were running")
            free = [_window(others, seconds / 2)]
            with locked(place, plan.storage, scene):
                (gates / "gate").touch()
                busy = _window(others, seconds)
            _await(server, lambda: _all_in(scene.jobs, State.SUCCEEDED), "the locked jobs had ended")
            _await(server, scene.afterwards, "the jobs that waited for them had run")
            free.append(_window(others, seconds / 2))  # the tables have grown in the meantime
    ran = [line for line in tasks.runs(gates) if line.startswith("gate ")]
    if len(ran) != number or len(set(ran)) != number:
        message = f"{number} jobs ran {len(ran)} times: {sorted(ran)[:5]}"
        raise RuntimeError(message)
    base = fmean(one.rate for one in free)
    yield {
        "what": f"other jobs/s with {number} x {name}, compared with none", "ratio": busy.rate / base,
        "median": busy.rate, "base": base,
    }  # fmt: skip
    waited, usual = _claims(gates, [busy]), _claims(gates, free)
    yield {
        "what": f"claim with {number} x {name}, p99, ms", "ratio": waited / usual,
        "median": waited, "base": usual,
    }  # fmt: skip


@attrs.frozen
class Window:
    """A period, and the number of other jobs that ended in it."""

    began: float  # monotonic
    ended: float
    number: int

    @property
    def rate(self) -> float:
        """The jobs per second."""
        return self.number / (self.ended - self.began)


class Others:
    """The load: jobs that do nothing, of which some thousands always wait."""

    def __init__(self, fire: Firelock, declared: tasks.Tasks) -> None:
        self._fire, self._noop = fire, declared.noop
        self._is_over = threading.Event()
        self._sent = 0
        self.ended = 0  # at the last check

    def feed(self) -> None:
        """Keep jobs in the queue until `stop` is called."""
        while not self._is_over.is_set():
            counts = self._fire.jobs.counts()
            self.ended = counts[State.SUCCEEDED]
            if counts[State.ENQUEUED] < _BACKLOG:
                self._noop.enqueue_many([()] * _CHUNK)
            else:
                self._is_over.wait(0.02)

    def stop(self) -> None:
        """End the load."""
        self._is_over.set()


@contextmanager
def _fed(fire: Firelock, declared: tasks.Tasks) -> Iterator[Others]:
    others = Others(fire, declared)
    thread = threading.Thread(target=others.feed, name="feeder")
    thread.start()
    try:
        yield others
    finally:
        others.stop()
        thread.join()


def _window(others: Others, seconds: float) -> Window:
    began, before = time.monotonic(), others.ended
    time.sleep(seconds)
    return Window(began, time.monotonic(), others.ended - before)


def _claims(gates: Path, windows: Sequence[Window]) -> float:
    """Return the 99th percentile of the claims' durations, in milliseconds."""
    took = [
        1_000 * seconds
        for one in ends.read_measures(gates)
        for at, seconds in one["exchanges"]
        if any(window.began <= at <= window.ended for window in windows)
    ]
    return ends.quantile(took, 0.99)


def _await(server: Server, condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _LONGEST
    server.wait_until(lambda: condition() or time.monotonic() > deadline, what=what)
    if not condition():
        raise server.failed(f"{_LONGEST:.0f} s passed before {what}")


def _all_in(jobs: Sequence[Job[Any]], state: State) -> bool:
    return all(job.refresh().state is state for job in jobs)


@contextmanager
def locked(place: Place, storage: str, scene: Scene) -> Iterator[None]:
    """Lock the rows of the scene in the same way as a transaction of another program."""
    connection: Any
    if storage == "postgresql":
        import psycopg

        connection = psycopg.connect(place.url)
    else:
        import pymysql
        from sqlalchemy import make_url

        url = make_url(place.url)
        connection = pymysql.connect(
            host=url.host,
            port=int(url.port or 0),
            user=url.username,
            password=url.password or "",
            database=url.database,
        )
    with closing(connection), connection.cursor() as cursor:
        statement = scene.statement.format(", ".join(["%s"] * len(scene.locked)))
        if storage != "postgresql":
            statement = statement.replace("WHERE key", "WHERE `key`")
        cursor.execute(statement, list(scene.locked))
        found = len(cursor.fetchall())
        if found != len(scene.locked):
            message = f"locked {found} rows instead of {len(scene.locked)}"
            raise RuntimeError(message)
        yield
        connection.rollback()


# ---- locked rows -------------------------------------------------------------------------------------------


def running_jobs(declared: tasks.Tasks, gate: str, number: int) -> Scene:
    """Return jobs that run until the gate opens; their own rows are locked."""
    jobs = declared.held.enqueue_many([(gate, each) for each in range(number)])
    return Scene(jobs, _JOBS, [job.id for job in jobs])


def _children(declared: tasks.Tasks, gate: str, number: int) -> Scene:
    jobs = declared.held.enqueue_many([(gate, each) for each in range(number)])
    children = [job.then(declared.after) for job in jobs]
    return Scene(jobs, _JOBS, [child.id for child in children], lambda: _all_in(children, State.SUCCEEDED))


def _parents(declared: tasks.Tasks, gate: str, number: int) -> Scene:
    jobs = declared.held.enqueue_many([(gate, each) for each in range(number)])
    children = [job.then(declared.after) for job in jobs]
    return Scene(jobs, _JOBS, [job.id for job in jobs], lambda: _all_in(children, State.SUCCEEDED))


def _batches(declared: tasks.Tasks, gate: str, number: int) -> Scene:
    jobs: list[Job[Any]] = []
    batches: list[Any] = []
    for each in range(number):
        with declared.fire.batch(f"batch {each}") as batch:
            jobs.append(declared.held.enqueue(gate, each))
        batches.append(batch)
    return Scene(
        jobs, _BATCHES, [batch.id for batch in batches],
        lambda: all(batch.refresh().state is State.SUCCEEDED for batch in batches),
    )  # fmt: skip


def _unique(declared: tasks.Tasks, gate: str, number: int) -> Scene:
    jobs = declared.unique.enqueue_many([(gate, each) for each in range(number)])
    return Scene(
        jobs, _UNIQUE, [f"unique {job.unique_key}" for job in jobs]
    )  # keys begin with the task's name


def _limits(declared: tasks.Tasks, gate: str, number: int) -> Scene:
    jobs = declared.limited.enqueue_many([(gate, each) for each in range(number)])
    return Scene(jobs, _LIMITS, [f"number:{each}" for each in range(number)])


def _memos(declared: tasks.Tasks, gate: str, number: int) -> Scene:
    jobs = declared.stepped.enqueue_many([(gate, each) for each in range(number)])
    return Scene(jobs, _JOBS, [job.id for job in jobs])


_SCENES: dict[str, Callable[[tasks.Tasks, str, int], Scene]] = {
    "running job": running_jobs,
    "waiting child": _children,
    "parent": _parents,
    "batch": _batches,
    "unique key": _unique,
    "limit key": _limits,
    "job of a memo": _memos,
}
