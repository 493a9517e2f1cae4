"""A description of the machine, without which absolute figures are meaningless."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "firelock",
    "firelock-sql",
    "firelock-redis",
    "SQLAlchemy",
    "attrs",
    "hiredis",
    "orjson",
    "redis",
)


def describe(folder: Path, *, core: int | None) -> dict[str, object]:
    """Return versions, processor, disk and load, as of before the first measurement."""
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": read_versions(PACKAGES),
        "system": platform.platform(),
        "processor": read_processor(),
        "cores": os.cpu_count(),
        "pinned_to_core": core,
        "filesystem": read_filesystem(folder),
        "sync_us": measure_sync(folder),
        "load_average_before": os.getloadavg()[0],
    }


def read_versions(names: Iterable[str], *, path: Iterable[Path] | None = None) -> dict[str, str]:
    """Return the versions of those distributions that are installed in this environment, or under `path`."""
    places = sys.path if path is None else [str(place) for place in path]
    wanted = {name.lower() for name in names}
    found = {one.metadata["Name"]: one.version for one in metadata.distributions(path=places)}
    return {name: found[name] for name in sorted(found) if name.lower() in wanted}


def read_processor() -> str:
    """Return the name of the processor's model."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def read_filesystem(folder: Path) -> str:
    """Return the type of a folder's file system; in memory, figures of durable work are meaningless."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    lines = [line.split() for line in mounts.read_text().splitlines()]
    points: Mapping[Path, str] = {Path(point): kind for _, point, kind, *_ in lines}
    return next(points[parent] for parent in (folder, *folder.parents) if parent in points)


def measure_sync(folder: Path, *, times: int = 200) -> dict[str, float]:
    """Return how long the disk takes to make 4 KiB durable, in µs.

    The data is written to a file that has its size already, as a write-ahead log after its first checkpoint.
    """
    path = folder / f"sync-{os.getpid()}"
    synced = getattr(os, "fdatasync", os.fsync)
    path.write_bytes(bytes(4096 * times))
    descriptor = os.open(path, os.O_WRONLY)
    waits = []
    try:
        os.fsync(descriptor)
        for place in range(times):
            os.pwrite(descriptor, os.urandom(4096), place * 4096)
            begun = time.perf_counter()
            synced(descriptor)
            waits.append((time.perf_counter() - begun) * 1e6)
    finally:
        os.close(descriptor)
        path.unlink()
    return {"median": round(statistics.median(waits), 1), "p99": round(sorted(waits)[times * 99 // 100], 1)}
