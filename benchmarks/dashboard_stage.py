"""Storages full of the shop's jobs, for what looks at them and what changes them.

What `firelock demo --seed` makes is kept beside the results, as a SQLite file or a dump of Redis; each run
works on a copy.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import redis_server
from benchmarks.contenders import RESULTS
from benchmarks.startup import COMMAND

STORAGES = ("sqlite", "redis")
_FILES = {"sqlite": "seed.db", "redis": "dump.rdb"}


def seed_path(storage: str, jobs: int) -> Path:
    """Return where a seed of so many jobs is kept."""
    return RESULTS / f"seed-{jobs}-{_FILES[storage]}"


@contextmanager
def filled(storage: str, jobs: int, seed: Path | None) -> Iterator[tuple[str, Path]]:
    """Yield the URL of a storage of its own with so many jobs, and a folder; both go with the block."""
    kept = seed or seed_path(storage, jobs)
    if not kept.exists():
        make(storage, jobs, kept)
    with tempfile.TemporaryDirectory(prefix="dashboard-", dir=RESULTS) as name:
        directory = Path(name)
        if storage == "sqlite":
            shutil.copy(kept, directory / "jobs.db")
            yield f"sqlite:///{directory / 'jobs.db'}", directory
        else:
            data = directory / "data"
            data.mkdir()
            shutil.copy(kept, data / "dump.rdb")
            with redis_server.running(directory, "--dir", str(data)) as server:
                while server.read_info("persistence")["loading"] != "0":
                    time.sleep(0.1)
                yield server.url, directory


def make(storage: str, jobs: int, path: Path) -> None:
    """A seed is kept at the path: some minutes for a million jobs."""
    with tempfile.TemporaryDirectory(prefix="seed-", dir=RESULTS) as name:
        directory = Path(name)
        if storage == "sqlite":
            _fill(f"sqlite:///{directory / 'jobs.db'}?synchronous=normal", jobs)
            shutil.move(directory / "jobs.db", path)
            return
        with redis_server.running(directory) as server:
            _fill(server.url, jobs)
            server.call("BGSAVE")
            while server.read_info("persistence")["rdb_bgsave_in_progress"] != "0":
                time.sleep(0.1)
            shutil.move(directory / "redis" / "dump.rdb", path)


def _fill(url: str, jobs: int) -> None:
    subprocess.run([COMMAND, "demo", "--seed", str(jobs), "--storage", url, "--yes"], check=True)
