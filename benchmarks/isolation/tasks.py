"""The tasks whose jobs are stored and run by servers."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from firelock import Firelock, JobContext, Limit, Unique, current_job

GATES = "BENCHMARK_GATES"
"""The environment variable with the folder of gates; a file in it opens the gate with its name."""

MEASURES = "BENCHMARK_MEASURES"
"""The environment variable with the folder of the servers' measurements."""

BRIEF = 0.010  # seconds
_CHECK_SECONDS = 0.05  # seconds between two checks of a gate


@attrs.frozen
class Tasks:
    """An application and its tasks."""

    fire: Firelock
    noop: Any
    brief: Any  # runs for `BRIEF` seconds
    after: Any  # runs after another job
    held: Any  # runs until its gate is open
    limited: Any  # the same, with a limit key per number
    unique: Any  # the same, with a unique key per number
    stepped: Any  # the same, and stores a step before its end


def declare(fire: Firelock, note_end: Callable[[str], None] | None = None) -> Tasks:
    """Declare the tasks; `note_end` is called with the id of each `noop` and `brief` job at its end."""

    def noop() -> None:
        if note_end is not None:
            note_end(current_job().id)

    def brief() -> None:
        time.sleep(BRIEF)
        noop()

    def after() -> None:
        _note_run("after")

    async def held(gate: str, number: int) -> None:
        await _opened(gate)
        _note_run(f"{gate} {number}")

    async def stepped(job: JobContext, gate: str, number: int) -> None:
        await _opened(gate)
        await job.astep("one", _nothing)
        _note_run(f"{gate} {number}")

    return Tasks(
        fire=fire,
        noop=fire.task(name="noop")(noop),
        brief=fire.task(name="brief")(brief),
        after=fire.task(name="after")(after),
        held=fire.task(name="held")(held),
        limited=fire.task(name="limited", limits=[Limit("number:{number}", concurrent=1)])(held),
        unique=fire.task(name="unique", unique=Unique("{gate}-{number}"))(held),
        stepped=fire.task(name="stepped")(stepped),
    )


def runs(folder: Path) -> list[str]:
    """Return a line for each run that has ended."""
    path = folder / "runs"
    return path.read_text().splitlines() if path.exists() else []


async def _nothing() -> None: ...


async def _opened(gate: str) -> None:
    path = Path(os.environ[GATES]) / gate
    while not path.exists():
        await asyncio.sleep(_CHECK_SECONDS)


def _note_run(line: str) -> None:
    descriptor = os.open(Path(os.environ[GATES]) / "runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)
