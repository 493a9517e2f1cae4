"""Measure how much of the code one job passes through: `python -m benchmarks.reading_path [STORAGE …]`.

The job goes from enqueue to succeeded with a server in this process, including the server's start, upkeep and
end. A profiler observes all threads. The output lists the product's files in which a function ran, with these
functions' lines of code, without docstrings and comments. A warm-up run has imported all modules before. The
result indicates how much a reader must read; it is not a goal.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import CodeType, FrameType

from benchmarks import mariadb_server, postgresql_server, redis_server
from firelock import Firelock, Settings

PACKAGES = ("firelock", "firelock_sql", "firelock_redis", "firelock_dashboard")
STORAGES = ("memory", "sqlite", "postgresql", "redis", "mariadb")
_SETTINGS = Settings(sweep=0.1, poll=0.1, heartbeat=0.2, workers=2)
_ROUND = 1.5  # seconds in which all routines of the upkeep run


@contextmanager
def opened(storage: str) -> Iterator[str]:
    """Yield the URL of a storage; run a server for it during the block if necessary."""
    with tempfile.TemporaryDirectory(prefix="fl-") as name:
        folder = Path(name)
        match storage:
            case "memory":
                yield "memory://"
            case "sqlite":
                yield f"sqlite:///{folder / 'jobs.db'}"
            case "redis":
                with redis_server.running(folder) as redis:
                    yield redis.url
            case "postgresql":
                with postgresql_server.running(folder) as postgresql:
                    yield postgresql.url
            case "mariadb":
                with mariadb_server.running(folder) as mariadb:
                    yield mariadb.url
            case url:
                yield url


class Profiler:
    """A profiler that collects the code of all called or resumed functions in all threads."""

    def __init__(self) -> None:
        self.seen: set[CodeType] = set()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Note the call of a function."""
        if event == "call":
            self.seen.add(frame.f_code)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Profile this thread and the threads that begin in the block."""
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


def run_one(url: str, profiler: Profiler | None = None) -> None:
    """Run one job on the storage until it has succeeded; profile it from its enqueueing on."""
    fire = Firelock(url, settings=_SETTINGS)
    fire.storage.migrate()

    @fire.task(name="reading.greet")
    def greet(name: str) -> str:
        return f"Hello {name}"

    with profiler.running() if profiler else nullcontext():
        job = greet.enqueue("reader")
        with fire.server():
            assert job.result(timeout=30) == "Hello reader"
            time.sleep(_ROUND)
    fire.close()


def lines_read(seen: set[CodeType]) -> Mapping[str, int]:
    """Return the product's files in which functions ran, and the number of lines of these functions."""
    roots = [Path(sys.modules[name].__file__ or "").parent for name in PACKAGES if name in sys.modules]
    found: dict[str, set[int]] = {}
    for code in seen:
        path = Path(code.co_filename)
        for root in roots:
            if path.is_relative_to(root) and code.co_name != "<module>":
                lines = found.setdefault(path.relative_to(root.parent).as_posix(), set())
                lines.update(line for *_, line in code.co_lines() if line)
    return {name: len(lines) for name, lines in sorted(found.items())}


def main() -> None:
    """Print the files of the selected storages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading_path", description=__doc__)
    parser.add_argument(
        "storage", nargs="*", default=["memory", "sqlite"], help=f"{', '.join(STORAGES)}, or a URL"
    )
    parser.add_argument("--totals", action="store_true", help="print only the totals")
    options = parser.parse_args()
    for storage in options.storage:
        with opened(storage) as url:
            run_one(url)
            profiler = Profiler()
            run_one(url, profiler)
        found = lines_read(profiler.seen)
        if not options.totals:
            for name, lines in found.items():
                print(f"{lines:6,}  {name}")
        print(f"{sum(found.values()):6,}  lines of functions in {len(found)} files: {storage}\n", flush=True)


if __name__ == "__main__":
    main()
