"""The storages that scenarios are played on: a URL as it is given, or a server started for the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.servers import Place
from tests.redis.programs import Program, programs
from tests.redis.servers import RedisServer

__all__ = ["is_played_on", "opened", "place_on"]

_SCHEMES = {"unix": "redis", "rediss": "redis"}


def is_played_on(schemes: tuple[str, ...], storage: str) -> bool:
    """Tell whether a scenario that declares these schemes is for a storage: a URL or a server's word."""
    scheme = storage.partition(":")[0].partition("-")[0]
    return not schemes or _SCHEMES.get(scheme, scheme).replace("valkey", "redis") in schemes


@contextmanager
def opened(storage: str | None, folder: Path, slack: float = 0.0) -> Iterator[Place]:
    """Yield a place in the folder.

    Args:
        storage: a URL; `redis`, `valkey` or the beginning of a program's name such as `redis-8`, for a server
            that is started and stopped with the run; None for a SQLite file in the folder.
        folder: where logs and ledgers are written.
        slack: seconds that bounds are widened by.
    """
    if storage is None:
        yield Place(folder, f"sqlite:///{folder.resolve()}/jobs.db", slack=slack)
    elif ":" in storage:
        yield Place(folder, storage, program=next(iter(programs()), None), slack=slack)
    else:
        found = [program for program in programs() if str(program).startswith(storage)]
        if not found:
            known = ", ".join(map(str, programs()))
            message = f"No server {storage!r} on this machine; there are: {known or 'none'}. Or name a URL."
            raise SystemExit(message)
        with place_on(found[0], folder, slack) as place:
            yield place


@contextmanager
def place_on(program: Program, folder: Path, slack: float = 0.0) -> Iterator[Place]:
    """Yield a place on a server of its own."""
    with RedisServer(program) as server:
        yield Place(folder, server.url(), program=program, slack=slack)
