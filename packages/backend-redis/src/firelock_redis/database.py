"""One Redis as the rest of this package sees it: partitions, and scripts that are run in them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from redis.exceptions import NoScriptError

from firelock.storage import StorageUnavailable
from firelock_redis import health
from firelock_redis.cluster import ClusterConnections
from firelock_redis.connections import Connections, Reply
from firelock_redis.partitions import Partitions
from firelock_redis.scripts import script
from firelock_redis.url import RedisUrl

__all__ = ["SCHEMA", "Database"]

SCHEMA = 1
_WAIT_MILLISECONDS = 1_000


class Database:
    """A Redis and the keys below one prefix of it."""

    def __init__(self, url: RedisUrl) -> None:
        self.url = url
        self.partitions = Partitions(url.prefix, url.partitions)
        self.clock_offset = 0
        self.connections: Connections | ClusterConnections = (
            ClusterConnections(url) if url.is_cluster else Connections(url)
        )
        self._keys = [_declared(base, url) for base in self.partitions.bases]
        self._is_ready = False
        self._lock = threading.Lock()

    # ---- scripts -----------------------------------------------------------------------------------------

    def run(self, name: str, partition: int, *arguments: object) -> Reply:
        """Return the reply of a script in one partition; one round trip.

        Raises:
            StorageUnavailable: trying again may help.
            StorageError: it does not.
        """
        if not self._is_ready:
            self.prepare()
        return self._run(name, partition, arguments)

    def run_unprepared(self, name: str, partition: int, *arguments: object) -> Reply:
        """As `run`, whatever the layout; for those who look at it."""
        return self._run(name, partition, arguments)

    def forget_layout(self) -> None:
        """The layout is looked at again before the next script."""
        self._is_ready = False

    def run_everywhere(self, name: str, *arguments: object) -> list[Reply]:
        """Return the replies of a script in every partition, in order; one round trip each."""
        return [self.run(name, partition, *arguments) for partition in range(self.partitions.number)]

    def run_replicated(self, name: str, partition: int, *arguments: object) -> Reply:
        """As `run`; where replicas are asked for, they have what the script wrote.

        Raises:
            StorageUnavailable: too few of them answered in time; what was written may be lost by a failover.
        """
        wanted = self.url.replicas
        if not wanted:
            return self.run(name, partition, *arguments)
        if not self._is_ready:
            self.prepare()
        wait = ("WAIT", wanted, _WAIT_MILLISECONDS)
        try:
            reply, reached = self._together(self._command(name, partition, arguments), wait, partition)
        except NoScriptError:
            command = self._command(name, partition, arguments, is_whole=True)
            reply, reached = self._together(command, wait, partition)
        if reached < wanted:
            message = (
                f"Redis at {self.url}: {reached} of {wanted} replicas confirmed the write within "
                f"{_WAIT_MILLISECONDS} ms; it is stored on the primary alone and a failover may lose it."
            )
            raise StorageUnavailable(message)
        return reply

    def _run(self, name: str, partition: int, arguments: tuple[object, ...]) -> Reply:
        try:
            return self.connections.call(*self._command(name, partition, arguments))
        except NoScriptError:  # a new server, or one whose scripts were flushed; nothing was run
            return self.connections.call(*self._command(name, partition, arguments, is_whole=True))

    def _command(
        self, name: str, partition: int, arguments: tuple[object, ...], *, is_whole: bool = False
    ) -> tuple[object, ...]:
        wanted = script(name)
        keys = self._keys[partition]
        if is_whole:
            return ("EVAL", wanted.text, *keys, *arguments)
        return ("EVALSHA", wanted.digest, *keys, *arguments)

    def _together(
        self, command: tuple[object, ...], wait: tuple[object, ...], partition: int
    ) -> tuple[Reply, int]:
        if isinstance(self.connections, ClusterConnections):
            reply, reached = self.connections.call_at(self.partitions.bases[partition], [command, wait])
        else:
            reply, reached = self.connections.call_many([command, wait])
        return reply, int(reached)

    # ---- before the first ----------------------------------------------------------------------------------

    def prepare(self) -> None:
        """The server is one that Firelock can use, and the prefix is laid out for this code.

        Raises:
            SchemaMismatch: the prefix was laid out otherwise.
            StorageError: the server is too old, or drops keys when its memory is full.
        """
        with self._lock:
            if self._is_ready:
                return
            health.require_usable(self)
            health.require_layout(self, self._run("layout", 0, (SCHEMA, self.partitions.number, 1)))
            self._is_ready = True

    def information(self) -> list[Mapping[str, Any]]:
        """Return what each primary says of itself by INFO."""
        return [health.read_information(told) for told in self.ask_primaries("INFO").values()]

    def ask_primaries(self, *words: object) -> Mapping[str, Reply]:
        """Return each primary's reply to a command without a key, by where it is."""
        if isinstance(self.connections, ClusterConnections):
            return self.connections.ask_primaries(*words)
        return {str(self.url): self.connections.call(*words)}

    def close(self) -> None:
        """Every connection is closed."""
        self.connections.close()


def _declared(base: str, url: RedisUrl) -> tuple[object, ...]:
    """Return how many keys a script declares, and these; the others of its partition derive from the first.

    In a cluster there are two, which never exist. While their slot moves, nodes answer TRYAGAIN to a command
    of several keys that are not all there; with a single one they would run the script on half a partition.
    """
    return (2, base, f"{base}:none") if url.is_cluster else (1, base)
