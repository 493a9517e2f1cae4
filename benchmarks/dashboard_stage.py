"""Storages with the shop's jobs, for measurements of pages and of operations.

The seeds created by `python -m benchmarks.seed` are kept next to the results, as an SQLite file, a Redis dump
or the folder of a database server. Each run uses a copy.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks import growth_postgresql, mariadb_server, postgresql_server, redis_server
from benchmarks.contenders import RESULTS

_KEPT = {"sqlite": "seed.db", "redis": "dump.rdb", "postgresql": "postgresql", "mariadb": "mariadb"}
STORAGES = tuple(_KEPT)


def seed_path(storage: str, jobs: int) -> Path:
    """Return the path of the seed with this number of jobs."""
    return RESULTS / f"seed-{jobs}-{_KEPT[storage]}"


@contextmanager
def filled(storage: str, jobs: int, seed: Path | None) -> Iterator[tuple[str, Path]]:
    """Yield the URL of a new storage with this number of jobs, and a folder; delete both after the block."""
    kept = seed or seed_path(storage, jobs)
    if not kept.exists():
        make(storage, jobs, kept)
    with tempfile.TemporaryDirectory(prefix="dashboard-", dir=RESULTS) as name:
        directory = Path(name)
        with _OPENED[storage](directory, kept) as url:
            yield url, directory


@contextmanager
def _sqlite(directory: Path, kept: Path) -> Iterator[str]:
    shutil.copy(kept, directory / "jobs.db")
    yield f"sqlite:///{directory / 'jobs.db'}"


@contextmanager
def _redis(directory: Path, kept: Path) -> Iterator[str]:
    data = directory / "data"
    data.mkdir()
    shutil.copy(kept, data / "dump.rdb")
    with redis_server.running(directory, "--dir", str(data)) as server:
        while server.read_info("persistence")["loading"] != "0":
            time.sleep(0.1)
        yield server.url


@contextmanager
def _postgresql(directory: Path, kept: Path) -> Iterator[str]:
    with postgresql_server.running(directory, kept=kept) as server:
        yield server.url


@contextmanager
def _mariadb(directory: Path, kept: Path) -> Iterator[str]:
    with mariadb_server.running(directory, kept=kept) as server:
        yield server.url


_OPENED: Mapping[str, Callable[[Path, Path], AbstractContextManager[str]]] = {
    "sqlite": _sqlite, "redis": _redis, "postgresql": _postgresql, "mariadb": _mariadb,
}  # fmt: skip


def make(storage: str, jobs: int, path: Path) -> None:
    """Create a seed at the path; this takes some minutes for a million jobs."""
    with tempfile.TemporaryDirectory(prefix="seed-", dir=RESULTS) as name:
        directory = Path(name)
        match storage:
            case "sqlite":
                _fill(f"sqlite:///{directory / 'jobs.db'}?synchronous=normal", jobs)
                shutil.move(directory / "jobs.db", path)
            case "redis":
                with redis_server.running(directory) as server:
                    _fill(server.url, jobs)
                    server.call("BGSAVE")
                    while server.read_info("persistence")["rdb_bgsave_in_progress"] != "0":
                        time.sleep(0.1)
                    shutil.move(directory / "redis" / "dump.rdb", path)
            case "postgresql":
                with postgresql_server.running(directory) as postgresql:
                    _fill(postgresql.url, jobs)
                    growth_postgresql.settle(postgresql)
                shutil.move(postgresql.folder / "data", path)
            case _:
                with mariadb_server.running(directory) as mariadb:
                    _fill(mariadb.url, jobs)
                shutil.move(mariadb.folder / "data", path)


def _fill(url: str, jobs: int) -> None:
    subprocess.run([sys.executable, "-m", "benchmarks.seed", str(jobs), "--storage", url], check=True)
