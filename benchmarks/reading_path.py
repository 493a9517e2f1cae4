"""How much of the product one job crosses: `python -m benchmarks.reading_path [STORAGE …]`.

The job goes from enqueue to succeeded, with a server inside this process, whose start, upkeep and end are
included. A profiler sees every thread: printed are the product's files in which a function ran, with the
lines of code of these functions, docstrings and comments left out. A warm-up before has imported whatever is
imported once. It is a sign of how far a reader has to go, not an aim.
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
_ROUND = 1.5  # seconds in which each task of the upkeep has its turn


@contextmanager
def opened(storage: str) -> Iterator[str]:
    """Yield the URL of a storage, on a server of the block's own where it needs one."""
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
    """Collects the code of every function that is called or resumed, in whichever thread."""

    def __init__(self) -> None:
        self.seen: set[CodeType] = set()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """A function is called."""
        if event == "call":
            self.seen.add(frame.f_code)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Threads that begin in the block are seen, and this one."""
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


def run_one(url: str, profiler: Profiler | None = None) -> None:
    """One job has succeeded on the storage; from its enqueuing on the profiler looks on."""
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
    """Return the product's files in which a function ran, and how many lines of code these functions have."""
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
    """Print the files of each storage asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading_path", description=__doc__)
    parser.add_argument(
        "storage", nargs="*", default=["memory", "sqlite"], help=f"{', '.join(STORAGES)}, or a URL"
    )
    parser.add_argument("--totals", action="store_true", help="the totals alone")
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
