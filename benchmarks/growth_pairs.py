"""Compare a storage that has many jobs with one that has few: `python -m benchmarks.growth_pairs`.

python -m benchmarks.growth_pairs --storage sqlite --stored 10000000 --waiting 1000000 --pairs 20
python -m benchmarks.growth_pairs --storage redis --stored 2000 --waiting 2000 --pairs 1 --jobs 1000

The large storage is filled once. In each pair, both storages get the same work, and the one that goes first
alternates. The small storage is a new one in each pair. The output has the median quotient of each figure,
large / small, and its quartiles.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import growth, growth_postgresql, ours, places
from benchmarks.entry import Figures, Load
from benchmarks.pairs import format_row, ratio
from benchmarks.postgresql_server import PostgresqlServer

RESULTS = Path(__file__).parent / "results"
STORAGES = ("sqlite", "postgresql", "redis")
READS = 5  # of each list; the first one warms the caches
UPKEEP_RUNS = 10  # each run folds up to 20,000 changes into the counts of a database


def fill(place: places.Place, load: Load) -> None:
    """Store the finished and the waiting jobs in an empty storage."""
    begin(place, load)
    with ours.opened(place.url) as app:
        waiting = app.noop.using(queue=growth.WAITING)
        if isinstance(place.server, PostgresqlServer):
            waiting.enqueue_many([(number,) for number in range(growth.SOURCES)])
            growth_postgresql.fill(place.server, prefix="firelock_", stored=load.stored, waiting=load.waiting)
        else:
            if place.server is None:
                growth.multiply(place.folder / "jobs.db", stored=load.stored)
            else:
                ours.enqueue_bulk_of(app, jobs=load.stored, size=ours.CHUNK)
                ours.drained(app, load, jobs=load.stored)
            for number in range(0, load.waiting, 100_000):
                waiting.enqueue_many([(one,) for one in range(number, min(number + 100_000, load.waiting))])
        counts = app.fire.jobs.counts()
        if counts.succeeded < load.stored or counts.enqueued != load.waiting:
            message = f"{load.stored} finished and {load.waiting} waiting jobs should be stored, not {counts}"
            raise RuntimeError(message)


def begin(place: places.Place, load: Load) -> None:
    """Run the first jobs of an empty storage, and let a database collect its statistics.

    Every measurement is made once with few jobs. Otherwise the small storage would not have the 1,000 queues
    in its first measurement, and the large one would have them from its previous measurements.
    """
    with ours.opened(place.url) as app:
        ours.enqueue_bulk_of(app, jobs=growth.SOURCES, size=ours.CHUNK)
        ours.drained(app, load, jobs=growth.SOURCES)
        ours.grown_verbs(app, replace(load, jobs=growth.SOURCES, singles=growth.SOURCES // 10))
        if isinstance(place.server, PostgresqlServer):
            growth_postgresql.settle(place.server)


def measured(place: places.Place, load: Load) -> Figures:
    """Return the rates of enqueueing, running and reading first pages.

    Each measurement begins after all data of the previous one has been written to the disk, and the reads
    begin after a database has updated its statistics, as autovacuum does within a minute. At first, the
    measuring process does the upkeep that the stopped server of the previous pair has left; otherwise, it
    would do this work during the measurements, and only in the large storage.
    """

    def flush() -> None:
        if isinstance(place.server, PostgresqlServer):
            place.server.query("checkpoint")
        os.sync()

    with ours.opened(place.url) as app:
        for _ in range(UPKEEP_RUNS):
            app.fire.storage.promote(1)
        verbs = ours.grown_verbs(app, load, flush=flush)
        if isinstance(place.server, PostgresqlServer):
            place.server.query("analyze")
        ours.slowest_list_ms(app)
        pages = [ours.slowest_list_ms(app) for _ in range(READS)]
        return verbs | {"pages_per_s": 1000 / min(pages)}


@contextmanager
def few(storage: str, folder: Path, load: Load) -> Iterator[places.Place]:
    """Run a storage with few jobs in a new folder."""
    with places.opened(storage, folder) as place:
        begin(place, load)
        yield place


def compare(storage: str, load: Load, pairs: int) -> None:
    """Print each pair, and then the quotients of all."""
    many: list[Figures] = []
    small: list[Figures] = []
    with ExitStack() as stack:
        large = stack.enter_context(places.opened(storage, load.directory / "large"))
        fill(large, load)
        for number in range(pairs):
            with few(storage, load.directory / f"small-{number}", load) as place:
                for each in (large, place) if number % 2 else (place, large):
                    (many if each is large else small).append(measured(each, load))
            shares = {name: many[-1][name] / small[-1][name] for name in many[-1]}
            sys.stdout.write(f"{number + 1}: {' '.join(f'{n} {one:.3f}' for n, one in shares.items())}\n")
            sys.stdout.flush()
    for name in many[0]:
        row = ratio(name, [figures[name] for figures in many], [figures[name] for figures in small])
        sys.stdout.write(f"{format_row(row)}\n")


def main() -> int:
    """Read the options and run the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth_pairs", description=__doc__)
    parser.add_argument("--storage", choices=STORAGES, default="sqlite")
    parser.add_argument("--stored", type=int, default=1_000_000, help="finished jobs (default: 1,000,000)")
    parser.add_argument("--waiting", type=int, default=1_000_000, help="waiting jobs (default: 1,000,000)")
    parser.add_argument("--jobs", type=int, default=50_000, help="jobs of each measurement (default: 50,000)")
    parser.add_argument("--pairs", type=int, default=20, help="pairs (default: 20)")
    parser.add_argument("--core", type=int, help="the core of client, server and storage (default: the last)")
    options = parser.parse_args()
    core = max(os.sched_getaffinity(0)) if options.core is None else options.core
    os.sched_setaffinity(0, {core})
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="growth-", dir=RESULTS) as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user
        load = Load(
            jobs=options.jobs, singles=max(1, options.jobs // 20), stored=options.stored,
            waiting=options.waiting, churned=0, samples=0, seconds=0, directory=Path(folder),
        )  # fmt: skip
        compare(options.storage, load, options.pairs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
