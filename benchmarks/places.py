"""Separate storages for runs, and servers of Firelock for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from benchmarks import mariadb_server, ours, postgresql_server, redis_server, servers
from benchmarks.servers import Server
from benchmarks.startup import COMMAND
from benchmarks.storage_server import Running, StorageServer
from firelock import Firelock, Settings

SERVED: Mapping[str, Running] = {
    "postgresql": postgresql_server.running,
    "mariadb": mariadb_server.running,
    "redis": redis_server.running,
}
STORAGES = ("sqlite", *SERVED)


@attrs.frozen
class Place:
    """An empty storage."""

    url: str
    folder: Path
    server: StorageServer | None  # None for SQLite

    def cpu_seconds(self) -> float:
        """Return the processor time of the storage's server."""
        return self.server.cpu_seconds() if self.server else 0.0


@contextmanager
def opened(storage: str, folder: Path) -> Iterator[Place]:
    """Run an empty storage in a new folder within the block."""
    folder.mkdir(parents=True)
    if storage == "sqlite":
        yield Place(f"sqlite:///{folder / 'jobs.db'}", folder, None)
    else:
        with SERVED[storage](folder) as server:
            yield Place(server.url, folder, server)


@contextmanager
def client(url: str, *, keep_deleted: float | None = None) -> Iterator[Firelock]:
    """Open a client of a storage and create its tables; `keep_deleted` is in seconds."""
    fire = Firelock(url, settings=None if keep_deleted is None else Settings(keep_deleted=keep_deleted))
    fire.storage.migrate()
    try:
        yield fire
    finally:
        fire.close()


@contextmanager
def serving(
    place: Place, app: str, *, number: int = 1, processes: int = 1, **environment: str
) -> Iterator[list[Server]]:
    """Run servers of an app, `module:name`, with ten workers per process, during the block."""
    options = ("--workers", str(ours.WORKERS), "--processes", str(processes))
    command = [COMMAND, "server", app, *options]
    environment = {"FIRELOCK_STORAGE": place.url, **environment}
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                servers.running(command, environment=environment, log=place.folder / f"server{index}.log")
            )
            for index in range(number)
        ]


def wait_for(server: Server, fire: Firelock, succeeded: int) -> None:
    """Wait until this number of jobs has succeeded."""
    server.wait_until(lambda: ours.count_succeeded(fire) >= succeeded, what=f"{succeeded} jobs had ended")


def wait_for_servers(server: Server, fire: Firelock, number: int) -> None:
    """Wait until this number of servers has started."""
    is_there: Callable[[], bool] = lambda: len(fire.servers.list()) >= number  # noqa: E731 - waits for it
    server.wait_until(is_there, what=f"{number} servers had begun")


def pin(core: int | None) -> None:
    """Restrict this process and its child processes to a core, if one is given."""
    if core is not None:
        os.sched_setaffinity(0, {core})
