"""Workers and a client of a job system, with the records that their jobs write; a worker can be killed.

The adapter is a module with COMMAND, which starts a worker. The module itself is the client: run with a
number of jobs and optional arguments, it stores the jobs, and can print how many seconds this took. Both read
their settings from environment variables, whose names are in `peers.records`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from benchmarks import contenders, places, servers
from benchmarks.peers import records
from benchmarks.peers.peer import Peer
from benchmarks.plan import Plan
from benchmarks.servers import ROOT

CHECK_SECONDS = 0.05
Records = Sequence[tuple[str, int, int, float]]


@attrs.frozen
class Contestant:
    """A measured system, and its Python."""

    name: str
    module: str
    """Its adapter."""
    python: str = sys.executable
    environment: Mapping[str, str] = attrs.field(factory=dict)


def ready(name: str, module: str, peer: Peer) -> Contestant | None:
    """Install a peer if necessary and return it; if that is not possible, print a message and return None."""
    readied = contenders.ready(peer)
    if readied is None:
        print(f"{name} is left out, because it is not installed.", file=sys.stderr)
        return None
    return Contestant(name, module, str(readied.python), readied.environment)


@attrs.frozen
class Outcome:
    """The records that jobs wrote, and information about a killed worker."""

    records: Records
    killed_at: float
    """The time of the kill; 0 if no worker was killed."""
    killed: frozenset[int]
    """The processes of the killed worker."""
    client_seconds: float
    """The seconds that the client reported for storing the jobs; 0 if it did not report them."""

    def times(self, wanted: str) -> list[float]:
        """Return the times of one kind of record, in order."""
        return sorted(at for kind, _, _, at in self.records if kind == wanted)


def run(
    plan: Plan,
    one: Contestant,
    arguments: Sequence[object],
    is_done: Callable[[Path, int], bool],
    *,
    quiet: float,
    workers: int = 2,
    kill_from: int = 0,
    values: Mapping[str, object],
) -> Outcome:
    """Return the records of a run, which ends when it is done or has no new record for `quiet` seconds.

    Args:
        plan: the folder and the storage.
        one: the measured system.
        arguments: the arguments of the client.
        is_done: a function that is called with the file and its number of lines whenever the file grows.
        quiet: seconds without a new record after which the run ends.
        workers: the number of workers.
        kill_from: the number of lines after which a busy worker is killed and restarted; 0 for never.
        values: environment variables.
    """
    folder = plan.folder / f"{one.name.replace(' ', '-')}-{time.monotonic_ns()}"
    with places.opened(plan.storage, folder) as place:
        path = folder / "records"
        variables = {
            records.RECORDS: path, records.URL: place.url, "FIRELOCK_STORAGE": place.url, "PYTHONPATH": ROOT,
            **one.environment, **values,
        }  # fmt: skip
        environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
        options: dict[str, Any] = {"cwd": ROOT, "env": environment}
        program = f"import {one.module} as one; print(*one.COMMAND, sep='\\n')"
        printed = subprocess.run(
            [one.python, "-c", program], check=True, capture_output=True, text=True, **options
        )
        client = [one.python, "-m", one.module, *map(str, arguments)]
        stored = subprocess.run(client, check=True, stdout=subprocess.PIPE, text=True, **options).stdout
        with (folder / "workers.log").open("wb") as log:

            def start(number: int) -> subprocess.Popen[bytes]:
                own = {**options, "env": {**environment, records.WORKER: str(number)}}
                return servers.start(printed.stdout.split(), stdout=log, stderr=log, **own)

            running = [start(number) for number in range(workers)]
            killed_at, killed = 0.0, frozenset[int]()
            try:
                for lines in _lines(path, partial(is_done, path), quiet):
                    if kill_from and not killed_at and lines >= kill_from:
                        for number, worker in enumerate(running):
                            victims = frozenset(servers.Server(worker, folder / "workers.log").pids())
                            if _kill_if_busy(worker, victims, path):
                                killed_at, killed = time.time(), victims
                                running[number] = start(number)
                                break
                return Outcome(records.read(path), killed_at, killed, float(stored or 0))
            finally:
                for worker in running:
                    servers.end(worker, grace=5)


def _lines(path: Path, is_done: Callable[[int], bool], quiet: float) -> Iterator[int]:
    """Yield the number of lines every 50 ms, until the run is done or has no new line for `quiet` seconds."""
    last, known_lines = time.monotonic(), 0
    while time.monotonic() - last < quiet:
        lines = path.read_bytes().count(b"\n") if path.exists() else 0
        if lines > known_lines:
            last, known_lines = time.monotonic(), lines
            if is_done(lines):
                return
        yield lines
        time.sleep(CHECK_SECONDS)


def _kill_if_busy(worker: subprocess.Popen[bytes], pids: frozenset[int], path: Path) -> bool:
    """Kill a worker with all its processes if it is running jobs; it is stopped during the check."""
    _send(pids, signal.SIGSTOP)
    if not pids & set(open_in(records.read(path))):
        _send(pids, signal.SIGCONT)
        return False
    _send(pids, signal.SIGKILL)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    return True


def _send(pids: frozenset[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def open_in(found: Records) -> Counter[int]:
    """Return the number of unfinished jobs of each process."""
    counts = Counter[int]()
    for what, _, pid, _ in found:
        if what in {"start", "end"}:
            counts[pid] += 1 if what == "start" else -1
    return +counts
