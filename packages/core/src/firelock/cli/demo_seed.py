"""`firelock demo --seed N`: a storage is filled with a year of a shop's jobs, to look at."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from firelock.cli.problem import Exit, Problem
from firelock.cli.screen import Cell, Screen, state_cell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from firelock.cli.seed_story import Seeded
    from firelock.storage import Storage
    from firelock.task import TaskInfo

__all__ = ["FEWEST", "MOST", "add_options", "seed_storage"]

FEWEST, MOST = 1_000, 10_000_000
_APP = "firelock.cli.demo_shop:fire"
_UNHURRIED = "synchronous=normal"  # no wait for the disk at each commit: what is made up can be made again
_SHOWN_EVERY = 0.2  # seconds


def add_options(parser: argparse.ArgumentParser) -> None:
    """The parser takes what a seed can be told."""
    group = parser.add_argument_group("a storage full of jobs, in place of the show")
    group.add_argument(
        "--seed", type=_jobs, metavar="N",
        help=f"fill --storage with N jobs of a year, {FEWEST:,} to {MOST:,}; no server runs them",
    )  # fmt: skip
    group.add_argument(
        "--random-seed",
        type=int,
        metavar="NUMBER",
        help="another number makes up other jobs; one makes the same",
    )
    group.add_argument(
        "--yes",
        action="store_true",
        dest="is_sure",
        help="also where the storage has jobs already; they stay",
    )


def _jobs(text: str) -> int:
    plain = text.replace("_", "").replace(",", "")
    jobs = int(plain) if plain.isascii() and plain.isdigit() and len(plain) <= len(str(MOST)) else 0
    if not FEWEST <= jobs <= MOST:
        message = f"{text!r} is no whole number from {FEWEST:,} to {MOST:,}"
        raise argparse.ArgumentTypeError(message)
    return jobs


# ---- seeding ---------------------------------------------------------------------------------------------


def seed_storage(options: argparse.Namespace, screen: Screen) -> int:
    """The storage that was named has the jobs.

    Only `--storage` names it, not the environment: nobody fills a storage in use by chance.
    """
    from firelock.cli.seed_story import RANDOM_SEED, seed  # noqa: PLC0415 - loaded for a seed only
    from firelock.plugins import open_storage  # noqa: PLC0415

    infos, default_url = _shop()
    url = options.storage or f"{default_url}?{_UNHURRIED}"
    began = time.monotonic()
    with closing(open_storage(url)) as storage, _stopping() as stop:
        _check_kind(storage)
        storage.migrate()
        _check_content(storage, is_sure=options.is_sure)
        if not screen.is_json:
            screen.line(f"{options.seed:,} jobs of a year for {storage.url}; Ctrl-C breaks off at whole jobs")
            screen.flush()
        number = RANDOM_SEED if options.random_seed is None else options.random_seed
        told = None
        with closing(seed(storage, infos, options.seed, random_seed=number)) as steps:
            for step in _shown(steps, options.seed, screen):
                told = step
                if stop.is_asked:
                    break
        screen.end_progress()
        seconds = time.monotonic() - began
        _conclude(screen, storage, told, seconds, is_whole=not stop.is_asked)
    return Exit.INTERRUPTED if stop.is_asked else Exit.DONE


def _shop() -> tuple[list[TaskInfo], str]:
    from firelock.cli.demo_shop import DEFAULT_URL, fire  # noqa: PLC0415 - it makes an app when it is imported

    return fire.tasks(), DEFAULT_URL


def _check_kind(storage: Storage) -> None:
    """The storage outlives this process.

    Raises:
        Problem: it does not.
    """
    from firelock.storage import Feature  # noqa: PLC0415 - loaded for a seed only

    if Feature.SHARED not in storage.features:
        message = f"{storage.url} is this process's own: what is made up would be gone with it."
        raise Problem(message, hint="Seed another storage, as --storage sqlite:///demo.db.", code=Exit.USAGE)


def _check_content(storage: Storage, *, is_sure: bool) -> None:
    """The storage is one to be filled.

    Raises:
        Problem: somebody works on it, or it has jobs and nobody said that this is known.
    """
    from firelock.values import State  # noqa: PLC0415 - loaded for a seed only

    by_state = {state: count for state, count in storage.counts().by_state.items() if count}
    stored = sum(by_state.values())
    if any(session.is_alive for session in storage.list_sessions()):
        message = f"A server works on {storage.url}: it would run what is made up."
        raise Problem(message, hint="Stop it, or seed another storage, as --storage sqlite:///other.db.")
    if waiting := by_state.get(State.ENQUEUED, 0):
        message = (
            f"{storage.url} has {_counted(waiting, 'enqueued job')}, which a seed would take for its own."
        )
        raise Problem(message, hint="Seed another storage, as --storage sqlite:///other.db.")
    if stored and not is_sure:
        message = f"{storage.url} has {_counted(stored, 'job')} already."
        raise Problem(message, hint="--yes adds to them; --storage sqlite:///other.db seeds another storage.")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class _Stop:
    """Whether Ctrl-C was pressed: what is under way is finished first."""

    def __init__(self) -> None:
        self.is_asked = False

    def __call__(self, *_: object) -> None:
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True


@contextmanager
def _stopping() -> Iterator[_Stop]:
    stop = _Stop()
    former = signal.signal(signal.SIGINT, stop)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, former)


def _shown(steps: Iterator[Seeded], jobs: int, screen: Screen) -> Iterator[Seeded]:
    """Pass on how far the seed is, and show it now and then."""
    began = shown = time.monotonic()
    for told in steps:
        now = time.monotonic()
        if now - shown >= _SHOWN_EVERY:
            shown = now
            screen.progress(_progress(told, jobs, now - began))
        yield told


def _progress(told: Seeded, jobs: int, seconds: float) -> str:
    if told.rollups:
        return f"{told.jobs:,} jobs stored; {told.rollups:,} rollups"
    pace = told.jobs / seconds
    left = int((jobs - told.jobs) / pace) if pace else 0
    return f"{told.jobs:,} of {jobs:,} jobs, {pace:,.0f} a second, {left // 60}:{left % 60:02} left"


# ---- afterwards ------------------------------------------------------------------------------------------


def _conclude(
    screen: Screen, storage: Storage, told: Seeded | None, seconds: float, *, is_whole: bool
) -> None:
    by_state = {str(state): count for state, count in storage.counts().by_state.items() if count}
    if screen.is_json:
        screen.json({
            "storage": storage.url, "is_whole": is_whole, "seconds": round(seconds, 1),
            "jobs": told.jobs if told else 0, "recurring": told.recurring if told else 0,
            "rollups": told.rollups if told else 0, "stored": by_state,
        })  # fmt: skip
        return
    jobs = told.jobs if told else 0
    screen.line(
        Cell(f"{jobs:,} jobs", "bold"), f" in {seconds:,.1f} s, {jobs / seconds:,.0f} a second  ", storage.url
    )
    if not is_whole:
        screen.line(Cell("Broken off: what is there is whole jobs, and no server holds any.", "yellow"))
    _show_counts(screen, by_state)
    if told and told.recurring:
        screen.line(f"{told.recurring} recurring jobs, 3 servers, 1 paused queue, {told.rollups:,} rollups.")
    _show_next(screen, storage)


def _show_counts(screen: Screen, by_state: Mapping[str, int]) -> None:
    for state, count in sorted(by_state.items(), key=lambda pair: -pair[1]):
        screen.line("  ", f"{count:>12,}", "  ", state_cell(state))


def _show_next(screen: Screen, storage: Storage) -> None:
    place = shlex.quote(storage.url)
    if "FIRELOCK_STORAGE" in os.environ:
        screen.line(Cell("  FIRELOCK_STORAGE was not looked at; --storage says where.", "bright_black"))
    screen.line()
    screen.line(Cell("Next", "bold"))
    screen.facts([
        (f"firelock dashboard --storage {place}", "look at them"),
        (f"firelock jobs list --state failed --storage {place}", "the same, here"),
        (f"firelock server {_APP} --storage {place}", "run what waits, and see it move"),
    ], indent=2)  # fmt: skip
