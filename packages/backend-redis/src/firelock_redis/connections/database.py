"""One Redis as the rest of this package sees it: a prefix in partitions, and scripts that are run there."""

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

SCHEMA = 2
OLDEST = 2
"""The oldest layout on which this code works. Layout 1 was that of versions before the first release."""
KEEPING = "noeviction"  # the maxmemory-policy that drops nothing

_OLDEST = {"Redis": (6, 2), "Valkey": (7, 2)}
_WAIT_MILLISECONDS = 1_000
_CLEARED_AT_ONCE = 1_000


class RedisDatabase:
    """A Redis and the keys below one prefix of it."""

    def __init__(self, url: RedisUrl) -> None:
        self.url = url
        self.partitions = Partitions(url.prefix, url.partitions)
        self.clock_offset = 0
        self.connections: RedisConnections | ClusterConnections = (
            ClusterConnections(url) if url.is_cluster else RedisConnections(url)
        )
        # What a script declares; the other keys of its partition derive from the first. In a cluster there
        # are two, which never exist: while their slot moves, nodes answer TRYAGAIN to a command of several
        # keys that are not all there; with a single one they would run the script on half a partition.
        self._keys = [
            (2, base, f"{base}:none") if url.is_cluster else (1, base) for base in self.partitions.bases
        ]
        self._is_ready = False
        self._lock = threading.Lock()

    # ---- scripts -----------------------------------------------------------------------------------------

    def run(self, name: str, partition: int, *arguments: object) -> Reply:
        """Return the reply of a script, named `group` or `group.verb`, in one partition; one round trip.

        Raises:
            StorageUnavailable: trying again may help.
            StorageError: it does not.
        """
        if not self._is_ready:
            self.prepare()
        return self._run(name, partition, arguments)

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
        base, wait = self.partitions.bases[partition], ("WAIT", wanted, _WAIT_MILLISECONDS)
        together = self.connections.call_together
        reply, reached = self._run(
            name, partition, arguments, lambda *command: together(base, [command, wait])
        )
        if int(reached) < wanted:
            raise StorageUnavailable(
                f"Redis at {self.url}: {reached} of {wanted} replicas confirmed the write within "
                f"{_WAIT_MILLISECONDS} ms; it is stored on the primary alone and a failover may lose it."
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
        except NoScriptError:  # a new server, or one whose scripts were flushed; nothing was run
            return send("EVAL", wanted.text, *words)

    def information(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what each primary says of itself by INFO, by where it is."""
        return {where: _read(told) for where, told in self.connections.ask_primaries("INFO").items()}

    def close(self) -> None:
        """Every connection is closed."""
        self.connections.close()

    # ---- the layout --------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """The server is one that Firelock can use, and the prefix is laid out for this code.

        Raises:
            SchemaMismatch: the prefix was laid out otherwise.
            StorageError: the server is too old, or drops keys when its memory is full.
        """
        with self._lock:
            if self._is_ready:
                return
            for information in self.information().values():
                self._require_usable(information)
            self._require_layout(*self.layout(is_written=True))
            self._is_ready = True

    def clear(self) -> None:
        """Every key below the prefix is gone, but for the layout; partition by partition, in steps."""
        for partition, base in enumerate(self.partitions.bases):
            cursor = "0"
            while True:
                cursor = self.run("prefix.clear", partition, cursor, f"{_escaped(base)}:*", _CLEARED_AT_ONCE)
                if cursor == "0":
                    break
        self._is_ready = False
        self.prepare()

    def layout(self, *, is_written: bool) -> tuple[int, int]:
        """Return version and number of partitions as stored, 0 and 0 for none; it may be written first.

        Raises:
            SchemaMismatch: a version before the first release laid it out.
        """
        version, partitions = self._run("prefix.layout", 0, (SCHEMA, self.partitions.number, int(is_written)))
        if 0 < version < OLDEST:
            raise SchemaMismatch(
                f"Redis at {self.url}: prefix {self.url.prefix!r} has layout {version}, which a Firelock "
                "before its first release wrote; no release reads it. Delete its keys, or choose another "
                "?prefix=."
            )
        return version, partitions

    def _require_layout(self, version: int, partitions: int) -> None:
        where = f"Redis at {self.url}: prefix {self.url.prefix!r} has"
        if version != SCHEMA:
            side, mend = (
                ("newer", "Upgrade Firelock") if version > SCHEMA else ("older", "Run firelock migrate")
            )
            raise SchemaMismatch(f"{where} layout {version}, {side} than this code's {SCHEMA}. {mend}.")
        if partitions != self.url.partitions:
            raise SchemaMismatch(
                f"{where} {partitions} partitions, the URL says {self.url.partitions}. "
                f"Write ?partitions={partitions}, or choose another ?prefix=."
            )

    # ---- the server --------------------------------------------------------------------------------------

    def _require_usable(self, information: Mapping[str, Any]) -> None:
        """A primary is of the kind that the URL takes it for, is new enough and keeps what it was given.

        Raises:
            StorageError: it is not, or does not.
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
                f"its maxmemory-policy is {policy}, so it would drop jobs when its memory is full. Set "
                "maxmemory-policy noeviction, or accept the loss with ?eviction=allow."
            )

    def _unusable(self, why: str) -> StorageError:
        return StorageError(f"Redis at {self.url}: {why}")


class RedisVerbs(DerivedStorage):
    """What the groups of verbs have in common, each of which is a class and a file of its own."""

    def __init__(self, database: RedisDatabase) -> None:
        super().__init__()
        self.database = database
        self._run = database.run
        self._partitions = database.partitions
        self._turns = PartitionTurns(database.partitions.number)

    def _run_on(self, name: str, partition: int) -> Reply:
        """Return what a script tells that replies what it left out, for a further call, and the rest."""
        left, told = self._run(name, partition)
        while left:
            left, more = self._run(name, partition, *left)
            told += more
        return told


def product_of(information: Mapping[str, Any]) -> tuple[str, str]:
    """Return the server's name and version; Valkey names the Redis that it is compatible with, too."""
    if "valkey_version" in information:
        return "Valkey", str(information["valkey_version"])
    return "Redis", str(information.get("redis_version", "?"))


def _read(told: object) -> Mapping[str, Any]:
    """Return what INFO said, by name; a cluster's driver has read it already."""
    if isinstance(told, Mapping):
        return told
    lines = (line.partition(":") for line in str(told).splitlines() if not line.startswith("#"))
    return {name: int(value) if value.isdigit() else value for name, mark, value in lines if mark}


def _escaped(text: str) -> str:
    """Return a text as a pattern that matches it alone."""
    return "".join(f"\\{char}" if char in "*?[]\\^-" else char for char in text)
