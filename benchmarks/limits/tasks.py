"""The measured tasks; versions of Firelock without limits have those that do not use limits."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks import places
from benchmarks.places import Place
from benchmarks.servers import Server
from firelock import Firelock

VARIABLE = "FIRELOCK_BENCH_STARTS"
"""The environment variable with the file to which tasks write their starts."""
KEYS = 100
RATE, BURST = 500, 50

_files: dict[str, int] = {}


def write_start(note: str) -> None:
    """Write a line to the file; lines of several threads and processes do not mix."""
    if VARIABLE not in _files:
        _files[VARIABLE] = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_files[VARIABLE], note.encode() + b"\n")


def read_starts(path: Path) -> list[str]:
    """Return the written lines, in order."""
    return path.read_text().splitlines() if path.exists() else []


def declare(fire: Firelock) -> dict[str, Any]:
    """Declare the tasks in an app; return them by name."""

    def do_nothing(number: int) -> None: ...

    tasks = {"keyless": fire.task(name="keyless")(do_nothing)}
    try:
        from firelock import JobContext, Limit, Turns, Unique
    except ImportError:  # a version without limits
        return tasks

    def of_key(number: int) -> None: ...

    def with_key(number: int, key: int) -> None: ...

    def of_tenant(tenant: int) -> None:
        write_start(str(tenant))

    def rated(job: JobContext) -> None:
        assert job.claimed_at is not None
        write_start(f"{job.claimed_at.timestamp():.6f}")

    def declared(name: str, function: Any, **options: Any) -> None:  # noqa: ANN401 - a task's
        tasks[name] = fire.task(name=name, **options)(function)

    declared("never", of_key, limits=[Limit("never", concurrent=1_000)])
    declared("open", of_key, limits=[Limit("open", rate=1_000_000_000)])
    declared("full", of_key, limits=[Limit("full", concurrent=4)])
    declared("others", of_key, limits=[Limit("others", concurrent=1_000)])
    declared("turns", with_key, limits=[Turns("turns:{key}")])
    declared("keys", with_key, limits=[Limit("keys:{key}", concurrent=1_000)])
    declared("tenants", of_tenant, limits=[Turns("tenant:{tenant}")])
    declared("rated", rated, limits=[Limit("api", rate=RATE, per=1, burst=BURST)])
    declared("unique", with_key, unique=Unique("{key}"))
    return tasks


def calls(name: str, jobs: int, *, keys: int = KEYS) -> list[tuple[int, ...]]:
    """Return the arguments of a number of a task's jobs; tasks with keys use the keys in turn."""
    if name in {"turns", "keys", "unique"}:
        return [(number, number % keys) for number in range(jobs)]
    return [(number,) for number in range(jobs)]


def serving(place: Place, *, number: int = 1, processes: int = 1) -> AbstractContextManager[list[Server]]:
    """Run a number of servers with these tasks during the block."""
    starts = {VARIABLE: str(place.folder / "starts")}
    return places.serving(place, "benchmarks.limits.app:fire", number=number, processes=processes, **starts)
