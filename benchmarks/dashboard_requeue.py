"""Measure requeueing many jobs while workers run other jobs: its duration, and its effect on the workers.

Another process continuously stores jobs, which a server with ten workers runs as fast as possible. The
operation alternately runs and pauses. The workers' rate while it runs is compared with the rates before and
after, so that a machine that becomes slower affects both equally. All processes share the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import attrs

from benchmarks import servers
from benchmarks.entry import exit_on_signal
from benchmarks.startup import COMMAND
from firelock import Firelock, State
from firelock.control.operations import Operation
from firelock.model import lifecycle
from firelock.model.session import ClaimHolder
from firelock.storage import ClaimRequest, ErrorInfo, JobFilter, NewSession

SECONDS = 2.0
"""The length of a window, in seconds; it is short, so that two successive windows have a similar load."""
SETTLING_SECONDS = 5.0
_FEW, _MANY = 10_000, 20_000
_CHUNK = 500
_ERROR = ErrorInfo("builtins.ValueError", "no", "fingerprint", "Traceback (most recent call last): …" * 20)


@attrs.frozen
class Requeued:
    """The results of the measurement."""

    jobs: int
    seconds: float  # duration of the operation without its pauses
    before: Sequence[float]  # the workers' rates in the pauses, jobs per second
    during: Sequence[float]  # the same while the operation ran

    @property
    def shares(self) -> list[float]:
        """Return the workers' rate of each window as a share of the rates before and after it."""
        around = zip(self.before, self.before[1:], strict=False)
        return [run / statistics.mean(pair) for run, pair in zip(self.during, around, strict=True)]


def text(found: Requeued) -> str:
    """Return the results as text."""
    shares = ", ".join(f"{share:.2f}" for share in found.shares)
    before, during = statistics.median(found.before), statistics.median(found.during)
    return (
        f"{found.jobs:,} jobs requeued in {found.seconds:.1f} s; workers {before:,.0f}/s before, "
        f"{during:,.0f}/s meanwhile, share of their rate "
        f"{statistics.median(found.shares):.2f} ({shares}); load {os.getloadavg()[0]:.1f}"
    )


def run(url: str, directory: Path, *, jobs: int) -> Requeued:
    """Measure requeueing on the run's own storage."""
    with _opened(url) as app, _feeding(url, directory), _serving(directory):
        fail(app, jobs)
        operation = app.fire.operations.start(
            "requeue", JobFilter(State.FAILED, queue=app.FAILING), by="benchmark"
        )
        time.sleep(SETTLING_SECONDS)
        before, during, seconds = [_watch(app, SECONDS)], [], 0.0
        while operation.is_running:
            operation, took, rate = _run_for(app, operation)
            seconds += took
            during.append(rate)
            before.append(_watch(app, SECONDS))
    if operation.changed != jobs:
        message = f"{jobs} jobs should have been requeued, {operation.changed} were: {operation}"
        raise RuntimeError(message)
    return Requeued(jobs, seconds, before, during)


def fail(app: ModuleType, number: int) -> None:
    """Store this number of failed jobs."""
    storage, holder = app.fire.storage, ClaimHolder("benchmark-session", "benchmark:1")
    for first in range(0, number, _CHUNK):
        app.charge.enqueue_many([(each,) for each in range(first, min(first + _CHUNK, number))])
    storage.begin_session(NewSession(holder.session, "server", holder.server, "benchmark", 1, 0, 100_000.0))
    while claimed := storage.claim(ClaimRequest([app.FAILING], _CHUNK, holder.session, storage.clock())).jobs:
        now = storage.clock()
        storage.apply([
            lifecycle.failed(job, holder, at=now, started_at=now, reason="no", error=_ERROR, expires_at=None)
            for job in claimed
        ])  # fmt: skip
    storage.end_session(holder.session, None, reason="done")


def _run_for(app: ModuleType, operation: Operation) -> tuple[Operation, float, float]:
    """Run the operation for a window; return it, its duration, and the workers' rate in the meantime."""
    stop, begun = threading.Event(), time.monotonic()
    ended: list[float] = []

    def work() -> None:
        app.fire.operations.run(operation.id, should_stop=stop.is_set, wait=stop.wait)
        ended.append(time.monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    rate = _watch(app, SECONDS, thread)
    stop.set()
    thread.join()
    return app.fire.operations.get(operation.id), ended[0] - begun, rate


def _watch(app: ModuleType, seconds: float, thread: threading.Thread | None = None) -> float:
    """Return the rate of the workers over a window, or until the thread ends."""
    begun, number = time.monotonic(), _count(app.fire, app.QUEUE, State.SUCCEEDED)
    if thread is None:
        time.sleep(seconds)
    else:
        thread.join(seconds)
    return (_count(app.fire, app.QUEUE, State.SUCCEEDED) - number) / (time.monotonic() - begun)


def _count(fire: Firelock, queue: str, state: State) -> int:
    return fire.jobs.counts().by_queue.get(queue, {}).get(state, 0)


@contextmanager
def _opened(url: str) -> Iterator[ModuleType]:
    os.environ["FIRELOCK_STORAGE"] = url
    from benchmarks import dashboard_app  # it reads the storage's URL when it is imported

    yield dashboard_app
    dashboard_app.fire.close()


@contextmanager
def _serving(directory: Path) -> Iterator[None]:
    command = [COMMAND, "server", "benchmarks.dashboard_app:fire", "--workers", "10", "--processes", "1"]
    command += ["--queues", "benchmark"]
    with servers.running(command, environment={}, log=directory / "server.log"):
        yield


@contextmanager
def _feeding(url: str, directory: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.dashboard_requeue", "--feed", url]
    with (directory / "feeder.log").open("wb") as log:
        process = servers.start(command, cwd=servers.ROOT, stdout=log, stderr=log)
        try:
            yield
        finally:
            servers.end(process)


def feed(app: ModuleType) -> None:
    """Keep jobs enqueued for the workers, endlessly."""
    number = 0
    while True:
        waiting = _count(app.fire, app.QUEUE, State.ENQUEUED)
        if waiting > _FEW:
            time.sleep(0.05)
            continue
        for _ in range(0, _MANY - waiting, _CHUNK):
            app.noop.enqueue_many([(number + each,) for each in range(_CHUNK)])
            number += _CHUNK


def main() -> None:
    """Store jobs for the measurement of another process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard_requeue", description=__doc__)
    parser.add_argument("--feed", required=True, metavar="URL", help="URL of the workers' storage")
    options = parser.parse_args()
    exit_on_signal()
    with _opened(options.feed) as app:
        feed(app)


if __name__ == "__main__":
    main()
