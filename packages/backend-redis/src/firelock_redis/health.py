"""What a Redis says about itself: whether it can be used, how safe jobs are in it, and what may go wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from firelock.storage import Finding, SchemaMismatch, StorageError

if TYPE_CHECKING:
    from firelock_redis.database import Database

__all__ = ["describe", "diagnose", "read_information", "require_layout", "require_usable"]

_OLDEST = {"Redis": (6, 2), "Valkey": (7, 2)}
_KEEPING = "noeviction"
_FULL = 0.9  # of maxmemory: from here on it is worth a word


def read_information(reply: object) -> Mapping[str, Any]:
    """Return what INFO said, by name."""
    lines = (line.partition(":") for line in str(reply).splitlines() if not line.startswith("#"))
    return {name: int(value) if value.isdigit() else value for name, mark, value in lines if mark}


def _product(information: Mapping[str, Any]) -> tuple[str, str]:
    """Return the server's name and version; Valkey names the Redis that it is compatible with, too."""
    if "valkey_version" in information:
        return "Valkey", str(information["valkey_version"])
    return "Redis", str(information.get("redis_version", "?"))


def require_usable(database: Database) -> None:
    """Every primary is new enough and keeps what it was given.

    Raises:
        StorageError: one is not, or does not.
    """
    for information in database.information():
        name, version = _product(information)
        oldest = _OLDEST[name]
        if _numbers(version) < oldest:
            message = (
                f"Redis at {database.url}: it is {name} {version}; Firelock needs Redis 6.2 or Valkey 7.2, "
                "or newer."
            )
            raise StorageError(message)
        policy = information.get("maxmemory_policy", _KEEPING)
        if policy != _KEEPING and database.url.refuses_eviction:
            message = (
                f"Redis at {database.url}: its maxmemory-policy is {policy}, so it would drop jobs when its "
                "memory is full. Set maxmemory-policy noeviction, or accept the loss with ?eviction=allow."
            )
            raise StorageError(message)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def require_layout(database: Database, stored: Sequence[int]) -> None:
    """The prefix is laid out as this code and this URL expect.

    Raises:
        SchemaMismatch: by another version, or for another number of partitions.
    """
    from firelock_redis.database import SCHEMA  # noqa: PLC0415 - which imports this module

    version, partitions = stored
    if version != SCHEMA:
        side = "newer" if version > SCHEMA else "older"
        message = (
            f"Redis at {database.url}: prefix {database.url.prefix!r} has layout {version}, {side} than "
            f"this code's {SCHEMA}. {'Upgrade Firelock' if version > SCHEMA else 'Run firelock migrate'}."
        )
        raise SchemaMismatch(message)
    if partitions != database.url.partitions:
        message = (
            f"Redis at {database.url}: prefix {database.url.prefix!r} has {partitions} partitions, the URL "
            f"says {database.url.partitions}. Write ?partitions={partitions}, or choose another ?prefix=."
        )
        raise SchemaMismatch(message)


# ---- for people ------------------------------------------------------------------------------------------


def describe(database: Database) -> Mapping[str, str]:
    """Return what the server is and how safe jobs are in it."""
    primaries = database.information()
    first = primaries[0]
    name, version = _product(first)
    said = {
        "storage": str(database.url),
        "server": f"{name} {version}" + (f", {len(primaries)} primaries" if database.url.is_cluster else ""),
        "durability": _durability(database, first),
        "eviction": f"{first.get('maxmemory_policy', '?')}, maxmemory {_size(first.get('maxmemory', 0))}",
        "memory": _size(first.get("used_memory", 0)),
        "replicas": str(first.get("connected_slaves", 0)),
        "wake": "published, one connection a process",
    }
    if database.partitions.number > 1:
        said["partitions"] = str(database.partitions.number)
    return said


def _size(count: object) -> str:
    number = int(str(count))
    return f"{number / 1024 / 1024:.1f} MiB" if number else "unlimited"


def _durability(database: Database, information: Mapping[str, Any]) -> str:
    if database.url.replicas:
        there = f"enqueued jobs are on {database.url.replicas} replicas as well before the call returns; "
    else:
        there = ""
    if information.get("aof_enabled"):
        return (
            there + "append-only file: a power failure may take the last second, less with appendfsync always"
        )
    if _saves(database, information):
        return there + "snapshots only: a crash takes everything since the last one"
    return there + "none: a restart takes every job"


def _saves(database: Database, information: Mapping[str, Any]) -> bool:
    """Tell whether snapshots are made; where CONFIG is not allowed, by whether one was."""
    del database
    return bool(information.get("rdb_saves", 0)) or int(information.get("rdb_last_save_time", 0)) > (
        int(information.get("server_time_usec", 0)) // 1_000_000
        - int(information.get("uptime_in_seconds", 0))
    )


def diagnose(database: Database) -> list[Finding]:
    """Return what may go wrong with this Redis, and how to mend it."""
    return [finding for one in database.information() for finding in _findings(database, one)]


def _findings(database: Database, information: Mapping[str, Any]) -> list[Finding]:
    findings = []
    policy = information.get("maxmemory_policy", _KEEPING)
    if policy != _KEEPING:
        findings.append(
            Finding(True, f"maxmemory-policy is {policy}: jobs are dropped when memory is full.",
                    "Set maxmemory-policy noeviction.")
        )  # fmt: skip
    if not information.get("aof_enabled"):
        findings.append(
            Finding(False, "No append-only file: a crash of the server loses jobs.",
                    "Set appendonly yes, if jobs have to outlive the server.")
        )  # fmt: skip
    if information.get("aof_last_write_status", "ok") != "ok" or (
        information.get("rdb_last_bgsave_status", "ok") != "ok"
    ):
        findings.append(
            Finding(True, "The server could not write its data to the disk.", "Free space on its disk.")
        )
    used, most = int(information.get("used_memory", 0)), int(information.get("maxmemory", 0))
    if most and used > most * _FULL:
        findings.append(
            Finding(True, f"Memory is {used * 100 // most} % of maxmemory.",
                    "Raise maxmemory, or shorten the retention.")
        )  # fmt: skip
    if not most and not database.url.is_cluster:
        findings.append(
            Finding(False, "maxmemory is not set: the system may end the server when memory is short.",
                    "Set maxmemory below the machine's memory.")
        )  # fmt: skip
    if information.get("role", "master") != "master":
        findings.append(Finding(True, "It is a replica.", "Name its primary, or use redis+sentinel://."))
    return findings
