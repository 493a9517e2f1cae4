"""Access to Redis for the rest of this package: scripts run in the partitions of a prefix."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from redis.exceptions import NoScriptError

from firelock.storage import DerivedStorage, SchemaMismatch, StorageError, StorageUnavailable
from firelock_redis.connections.connections import ClusterConnections, RedisConnections, Reply
from firelock_redis.connections.url import RedisUrl
from firelock_redis.layout.partitions import Partitions, PartitionTurns
from firelock_redis.scripts import script

LAYOUT = 3
OLDEST = 3
"""The oldest layout that this code supports. Development versions used layouts 1 and 2."""
KEEPING = "noeviction"  # the only maxmemory-policy that does not evict keys

_OLDEST = {"Redis": (6, 2), "Valkey": (7, 2)}
_WAIT_MILLISECONDS = 1_000
_CLEARED_AT_ONCE = 1_000


class RedisDatabase:
    """A Redis server or cluster, and the keys in it that start with one prefix."""

    def __init__(self, url: RedisUrl) -> None:
        self.url = url
        self.partitions = Partitions(url.prefix, url.partitions)
        self.clock_offset = 0
        self.connections: RedisConnections | ClusterConnections = (
            ClusterConnections(url) if url.is_cluster else RedisConnections(url)
        )
        # The keys that a script declares; it derives the other keys of its partition from the first one. In a
        # cluster it declares two keys, neither of which ever exists. While their slot is being moved, a node
        # replies TRYAGAIN to a command with several keys if some of them are missing. With a single key, the
        # node would run the script although it has only a part of the partition.
        self._keys = [
            (2, base, f"{base}:none") if url.is_cluster else (1, base) for base in self.partitions.bases
        ]
        self._is_ready = False
        self._lock = threading.Lock()

    # ---- scripts -----------------------------------------------------------------------------------------

    def run(self, name: str, partition: int, *arguments: object) -> Reply:
        """Run the script `group` or `group.verb` in one partition with one round trip; return its reply.

        Raises:
            StorageUnavailable: If the call fails and a retry might succeed.
            StorageError: If the call fails and a retry cannot succeed.
        """
        if not self._is_ready:
            self.prepare()
        return self._run(name, partition, arguments)

    def run_everywhere(self, name: str, *arguments: object) -> list[Reply]:
        """Run a script in every partition, with one round trip per partition; return the replies in order."""
        return [self.run(name, partition, *arguments) for partition in range(self.partitions.number)]

    def run_replicated(self, name: str, partition: int, *arguments: object) -> Reply:
        """Run a script like `run`, and wait until as many replicas as the URL requires have the data.

        Raises:
            StorageUnavailable: If too few replicas confirmed the write in time, so that a failover might lose
            it.
        """
        wanted = self.url.replicas
        if not wanted:
            return self.run(name, partition, *arguments)
        if not self._is_ready:
            self.prepare()
        base, wait = self.partitions.bases[partition], ("WAIT", wanted, _WAIT_MILLISECONDS)
        together = self.connections.call_together
        reply, reached = self._run(
            name, partition, arguments, lambda *command: together(base, [command, wait])
        )
        if int(reached) < wanted:
            raise StorageUnavailable(
                f"Redis at {self.url}: {reached} of {wanted} replicas confirmed the write within "
                f"{_WAIT_MILLISECONDS} ms. The primary has stored it, but a failover might lose it."
            )
        return reply

    def _run(
        self,
        name: str,
        partition: int,
        arguments: tuple[object, ...],
        send: Callable[..., Reply] | None = None,
    ) -> Reply:
        wanted, send = script(name), send or self.connections.call
        words = (*self._keys[partition], self.clock_offset, *wanted.verb, *arguments)
        try:
            return send("EVALSHA", wanted.digest, *words)
        except NoScriptError:  # the server is new or its scripts were flushed; nothing was executed
            return send("EVAL", wanted.text, *words)

    def information(self) -> Mapping[str, Mapping[str, Any]]:
        """Return each primary's reply to INFO, by its address."""
        return {where: _parsed(reply) for where, reply in self.connections.call_primaries("INFO").items()}

    def close(self) -> None:
        """Close every connection."""
        self.connections.close()

    # ---- the layout --------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Check that Firelock can use the server; if no layout is stored for the prefix, store one.

        Raises:
            SchemaMismatch: If the prefix has another layout.
            StorageError: If the server is too old, is not of the kind that the URL names, or evicts keys when
                its memory is full.
        """
        with self._lock:
            if self._is_ready:
                return
            for information in self.information().values():
                self._require_usable(information)
            self._require_layout(*self.layout(is_written=True))
            self._is_ready = True

    def clear(self) -> None:
        """Delete every key with the prefix except the layout, one partition after another."""
        for partition, base in enumerate(self.partitions.bases):
            cursor = "0"
            while True:
                cursor = self.run("prefix.clear", partition, cursor, f"{_escaped(base)}:*", _CLEARED_AT_ONCE)
                if cursor == "0":
                    break
        self._is_ready = False
        self.prepare()

    def layout(self, *, is_written: bool) -> tuple[int, int]:
        """Return the stored layout version and number of partitions; both are 0 if none are stored.

        Args:
            is_written: whether to first store this code's version and the URL's number if none are stored.

        Raises:
            SchemaMismatch: If a Firelock version before the first release wrote the layout.
        """
        version, partitions = self._run("prefix.layout", 0, (LAYOUT, self.partitions.number, int(is_written)))
        if 0 < version < OLDEST:
            raise SchemaMismatch(
                f"Redis at {self.url}: prefix {self.url.prefix!r} has layout {version}, which was written by "
                "Firelock before its first release and cannot be read. Delete its keys, or use another "
                "?prefix=."
            )
        return version, partitions

    def _require_layout(self, version: int, partitions: int) -> None:
        where = f"Redis at {self.url}: prefix {self.url.prefix!r} has"
        if version != LAYOUT:
            side, fix = (
                ("newer", "Upgrade Firelock") if version > LAYOUT else ("older", "Run firelock migrate")
            )
            raise SchemaMismatch(f"{where} layout {version}, {side} than this code's {LAYOUT}. {fix}.")
        if partitions != self.url.partitions:
            raise SchemaMismatch(
                f"{where} {partitions} partitions, but the URL sets {self.url.partitions}. "
                f"Set ?partitions={partitions}, or use another ?prefix=."
            )

    # ---- the server --------------------------------------------------------------------------------------

    def _require_usable(self, information: Mapping[str, Any]) -> None:
        """Check that a primary is of the kind that the URL names, is new enough and does not evict keys.

        Raises:
            StorageError: If the primary fails one of these checks.
        """
        mode = str(information.get("redis_mode", information.get("server_mode")))
        scheme = {"sentinel": "redis+sentinel://", "cluster": "redis+cluster://"}.get(mode)
        if scheme is not None and not (self.url.is_cluster and mode == "cluster"):
            kind = "a Sentinel" if mode == "sentinel" else "a node of a cluster"
            raise self._unusable(f"it is {kind}; use {scheme}.")
        name, version = product_of(information)
        if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < _OLDEST[name]:
            raise self._unusable(f"it is {name} {version}; Firelock needs Redis 6.2 or Valkey 7.2, or newer.")
        policy = information.get("maxmemory_policy", KEEPING)
        if policy != KEEPING and self.url.refuses_eviction:
            raise self._unusable(
                f"its maxmemory-policy is {policy}, so it would delete jobs when its memory is full. Set "
                "maxmemory-policy to noeviction, or accept the loss with ?eviction=allow."
            )

    def _unusable(self, why: str) -> StorageError:
        return StorageError(f"Redis at {self.url}: {why}")


class RedisVerbs(DerivedStorage):
    """The base class for groups of verbs; each group is a class in a separate file."""

    def __init__(self, database: RedisDatabase) -> None:
        super().__init__()
        self.database = database
        self._run = database.run
        self._partitions = database.partitions
        self._turns = PartitionTurns(database.partitions.number)

    def _run_on(self, name: str, partition: int) -> Reply:
        """Run a script repeatedly until it has returned all parts of a long reply; return them as one list.

        Each call of the script returns one part and the arguments for the next call; these are empty after
        the last part.
        """
        left, parts = self._run(name, partition)
        while left:
            left, more = self._run(name, partition, *left)
            parts += more
        return parts


def product_of(information: Mapping[str, Any]) -> tuple[str, str]:
    """Return the server's name and version; Valkey also reports a Redis version, which is ignored."""
    if "valkey_version" in information:
        return "Valkey", str(information["valkey_version"])
    return "Redis", str(information.get("redis_version", "?"))


def _parsed(reply: object) -> Mapping[str, Any]:
    """Return the reply to INFO as values by name; the driver has already parsed it for a cluster."""
    if isinstance(reply, Mapping):
        return reply
    lines = (line.partition(":") for line in str(reply).splitlines() if not line.startswith("#"))
    return {name: int(value) if value.isdigit() else value for name, mark, value in lines if mark}


def _escaped(text: str) -> str:
    """Return a Redis pattern that matches only this string."""
    return "".join(f"\\{char}" if char in "*?[]\\^-" else char for char in text)
