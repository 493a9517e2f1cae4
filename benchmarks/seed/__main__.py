"""`python -m benchmarks.seed JOBS --storage URL`: fill a storage with a year of a shop's jobs."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from contextlib import closing

from benchmarks.seed.shop import fire
from benchmarks.seed.story import RANDOM_SEED, Seeded, seed
from firelock.model.state import State
from firelock.plugins.loader import open_storage
from firelock.storage import Storage

_SHOWN_EVERY = 0.2  # seconds


def main() -> None:
    """Write the jobs to the storage; Ctrl-C stops without leaving incomplete jobs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seed", description=__doc__)
    parser.add_argument("jobs", type=int, help="number of jobs (minimum: 1,000)")
    parser.add_argument(
        "--storage", metavar="URL", required=True, help="for example sqlite:///shop.db?synchronous=normal"
    )
    parser.add_argument(
        "--random-seed",
        type=int,
        default=RANDOM_SEED,
        help="seed of the random numbers; another seed creates other jobs",
    )
    parser.add_argument(
        "--yes", action="store_true", help="add the jobs even if the storage already has some"
    )
    options = parser.parse_args()
    if options.jobs < 1_000:
        parser.error("the number of jobs must be at least 1,000")
    began = time.monotonic()
    with closing(open_storage(options.storage)) as storage:
        storage.migrate()
        _check_free(storage, is_sure=options.yes)
        written = _fill(storage, options.jobs, options.random_seed)
        jobs, seconds = written.jobs, time.monotonic() - began
        print(f"{jobs:,} jobs in {seconds:,.1f} s, {jobs / seconds:,.0f} per second; now in {storage.url}:")
        for state, count in sorted(storage.counts().by_state.items(), key=lambda pair: -pair[1]):
            print(f"{count:12,}  {state}")
    sys.exit(0 if jobs == options.jobs else 130)


def _check_free(storage: Storage, *, is_sure: bool) -> None:
    by_state = storage.counts().by_state
    if any(session.is_alive for session in storage.list_sessions()):
        sys.exit(f"A server uses {storage.url} and would run the fictional jobs; stop it first.")
    if by_state.get(State.ENQUEUED):
        sys.exit(f"{storage.url} has enqueued jobs, which the seed would claim; use another storage.")
    if any(by_state.values()) and not is_sure:
        sys.exit(f"{storage.url} already has jobs; to add the seed to them, pass --yes.")


def _fill(storage: Storage, jobs: int, random_seed: int) -> Seeded:
    interrupts: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    written, shown = Seeded(0), time.monotonic()
    try:
        with closing(seed(storage, fire.tasks(), jobs, random_seed=random_seed)) as steps:
            for written in steps:
                if time.monotonic() - shown > _SHOWN_EVERY and sys.stderr.isatty():
                    shown = time.monotonic()
                    print(
                        f"\r{written.jobs:,} of {jobs:,} jobs, {written.rollups:,} rollups",
                        end="",
                        file=sys.stderr,
                    )
                if interrupts:
                    break
    finally:
        signal.signal(signal.SIGINT, previous)
    return written


if __name__ == "__main__":
    main()
