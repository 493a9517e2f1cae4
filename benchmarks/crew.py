"""Workers of some job system beside a client of it, what their jobs write down, and one that is killed.

The adapter, a module, offers COMMAND, which starts a worker, and is itself the client: run with a number of
jobs and perhaps more, it stores them, and may say how many seconds that took. Both read from the environment
what they need; `peers.spans` has the names.
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
from benchmarks.peers import spans
from benchmarks.peers.peer import Peer
from benchmarks.plan import Plan
from benchmarks.servers import ROOT

LOOK_SECONDS = 0.05
Spans = Sequence[tuple[str, int, int, float]]


@attrs.frozen
class Contestant:
    """One that is measured, and by what Python."""

    name: str
    module: str
    """Its adapter."""
    python: str = sys.executable
    environment: Mapping[str, str] = attrs.field(factory=dict)


def ready(name: str, module: str, peer: Peer) -> Contestant | None:
    """Return a peer, installed where it is not yet; None, and a word about it, where it cannot be."""
    readied = contenders.ready(peer)
    if readied is None:
        print(f"{name} is left out: it is not installed", file=sys.stderr)
        return None
    return Contestant(name, module, str(readied.python), readied.environment)


@attrs.frozen
class Seen:
    """What jobs wrote down, and what was done to their workers."""

    spans: Spans
    killed_at: float
    """0 where no worker was killed."""
    killed: frozenset[int]
    """Processes of the worker that was killed."""
    client_seconds: float
    """How long its client stored them, as it said; 0 where it did not."""

    def instants(self, what: str) -> list[float]:
        """Return when something was written down, in order."""
        return sorted(at for word, _, _, at in self.spans if word == what)


def run(
    plan: Plan,
    one: Contestant,
    words: Sequence[object],
    is_done: Callable[[Path, int], bool],
    *,
    quiet: float,
    workers: int = 2,
    kill_from: int = 0,
    values: Mapping[str, object],
) -> Seen:
    """Return what was seen until it is done, or until nothing more was written for so many seconds.

    Args:
        plan: where and on which storage.
        one: who.
        words: the client's.
        is_done: asked with the file and how many lines it has, whenever it has more.
        quiet: seconds.
        workers: how many.
        kill_from: one that has jobs in hand is killed, and begun anew, once so many lines are written; 0 for
            never.
        values: of the environment.
    """
    folder = plan.folder / f"{one.name.replace(' ', '-')}-{time.monotonic_ns()}"
    with places.opened(plan.storage, folder) as place:
        path = folder / "spans"
        told = {
            spans.SPANS: path, spans.URL: place.url, "FIRELOCK_STORAGE": place.url, "PYTHONPATH": ROOT,
            **one.environment, **values,
        }  # fmt: skip
        environment = {**os.environ, **{name: str(value) for name, value in told.items()}}
        options: dict[str, Any] = {"cwd": ROOT, "env": environment}
        ask = f"import {one.module} as one; print(*one.COMMAND, sep='\\n')"
        said = subprocess.run([one.python, "-c", ask], check=True, capture_output=True, text=True, **options)
        client = [one.python, "-m", one.module, *map(str, words)]
        stored = subprocess.run(client, check=True, stdout=subprocess.PIPE, text=True, **options).stdout
        with (folder / "workers.log").open("wb") as log:

            def start(number: int) -> subprocess.Popen[bytes]:
                own = {**options, "env": {**environment, spans.WORKER: str(number)}}
                return servers.start(said.stdout.split(), stdout=log, stderr=log, **own)

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
                return Seen(spans.read(path), killed_at, killed, float(stored or 0))
            finally:
                for worker in running:
                    servers.end(worker, grace=5)


def _lines(path: Path, is_done: Callable[[int], bool], quiet: float) -> Iterator[int]:
    """Yield how many lines are written, every 50 ms, until it is done, or no more were written for long."""
    last, seen = time.monotonic(), 0
    while time.monotonic() - last < quiet:
        lines = path.read_bytes().count(b"\n") if path.exists() else 0
        if lines > seen:
            last, seen = time.monotonic(), lines
            if is_done(lines):
                return
        yield lines
        time.sleep(LOOK_SECONDS)


def _kill_if_busy(worker: subprocess.Popen[bytes], pids: frozenset[int], path: Path) -> bool:
    """Kill a worker with all its processes if it has jobs in hand; it stands still for the look."""
    _send(pids, signal.SIGSTOP)
    if not pids & set(open_in(spans.read(path))):
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


def open_in(found: Spans) -> Counter[int]:
    """Return how many jobs each process has begun and not ended."""
    counts = Counter[int]()
    for what, _, pid, _ in found:
        if what in {"start", "end"}:
            counts[pid] += 1 if what == "start" else -1
    return +counts
