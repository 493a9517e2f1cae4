"""The durability of jobs in Redis, and findings about problems with the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs
from typing_extensions import override

from firelock.storage import Finding, Severity, StorageError, StorageUnavailable
from firelock_redis.connections.database import KEEPING, RedisDatabase, RedisVerbs, product_of

_FULL = 0.9  # a finding is reported if more than this share of maxmemory is used


@attrs.frozen
class _Primary:
    """The information that one primary reports about itself."""

    where: str
    information: Mapping[str, Any]  # the server's reply to INFO
    save: str | None  # the setting for snapshots; empty if none are taken; None if CONFIG GET is not allowed
    appendfsync: str | None  # None if CONFIG GET is not allowed


def _primaries(database: RedisDatabase) -> list[_Primary]:
    saves, syncs = _setting(database, "save"), _setting(database, "appendfsync")
    return [
        _Primary(where, information, saves.get(where), syncs.get(where))
        for where, information in database.information().items()
    ]


def _setting(database: RedisDatabase, name: str) -> Mapping[str, str]:
    """Return the values of a setting by primary; empty if CONFIG GET is not allowed or does not exist."""
    try:
        replies = database.connections.call_primaries("CONFIG", "GET", name)
    except StorageUnavailable:
        raise
    except StorageError:
        return {}
    return {where: str(reply[1]) for where, reply in replies.items() if len(reply) == 2}  # noqa: PLR2004


class HealthVerbs(RedisVerbs):
    """The verbs that describe the storage."""

    @override
    def describe(self) -> Mapping[str, str]:
        """Return the kind and version of the server, and the durability of its jobs."""
        primaries = _primaries(self.database)
        described = {
            "storage": str(self.database.url),
            "server": _together(" ".join(product_of(one.information)) for one in primaries),
            "durability": _replicated(self.database) + _together(map(_durability, primaries)),
            "eviction": _together(map(_eviction, primaries)),
            "memory": _size(sum(_number(one, "used_memory") for one in primaries)),
            "replicas": str(sum(_number(one, "connected_slaves") for one in primaries)),
            "wake": "publish/subscribe, one connection per process",
        }
        if self._partitions.number > 1:
            described["partitions"] = str(self._partitions.number)
            described["keys"] = (
                "all limit keys of a job must be equal up to their first /, such as smtp and smtp/tenant:7"
            )
        return described

    @override
    def diagnose(self) -> list[Finding]:
        """Return possible problems and their fixes; in a cluster, with the addresses of the nodes."""
        primaries = _primaries(self.database)
        found: dict[str, tuple[Finding, list[str]]] = {}
        for primary in primaries:
            for finding in _findings(self.database, primary):
                found.setdefault(finding.what, (finding, []))[1].append(primary.where)
        findings = [
            finding
            if len(primaries) == 1
            else attrs.evolve(finding, what=f"{', '.join(where)}: {finding.what}")
            for finding, where in found.values()
        ]
        return [*findings, *_broken(self.database)]


def _together(texts: Iterable[str]) -> str:
    """Return the only string or, for several primaries, each string with its number of primaries."""
    counted = Counter(texts)
    number = counted.total()
    if number == 1:
        return next(iter(counted))
    return "; ".join(f"{text} ({count} of {number} primaries)" for text, count in counted.items())


def _number(primary: _Primary, name: str) -> int:
    return int(primary.information.get(name, 0))


def _eviction(primary: _Primary) -> str:
    most = _number(primary, "maxmemory")
    limit = f"maxmemory {_size(most)}" if most else "maxmemory not set"
    return f"{primary.information.get('maxmemory_policy', '?')}, {limit}"


def _size(number: int) -> str:
    return f"{number / 1024 / 1024:.1f} MiB"


def _replicated(database: RedisDatabase) -> str:
    wanted = database.url.replicas
    if not wanted:
        return ""
    replicas = "1 replica has" if wanted == 1 else f"{wanted} replicas have"
    return f"enqueue waits until {replicas} the job; "


def _durability(primary: _Primary) -> str:
    if primary.information.get("aof_enabled"):
        return f"append-only file, {_SYNCED.get(primary.appendfsync, _SYNCED[None])}"
    match primary.save:
        case None:
            return (
                "unknown: no append-only file, and CONFIG GET is not allowed; a restart might lose every job "
                "because snapshots might be disabled"
            )
        case "":
            return "none: a restart loses every job"
        case _:
            return f"only snapshots (save {primary.save}): a crash loses all changes since the last snapshot"


_SYNCED: Mapping[str | None, str] = {
    "always": "appendfsync always: acknowledged changes are on the disk",
    "everysec": "appendfsync everysec: a power failure might lose the last two seconds",
    "no": "appendfsync no: a power failure loses what the system has not written yet, about 30 seconds",
    None: "appendfsync unknown, CONFIG GET is not allowed: a power failure might lose the last seconds",
}


def _findings(database: RedisDatabase, primary: _Primary) -> Iterator[Finding]:
    if primary.information.get("role", "master") != "master":
        yield Finding(
            Severity.ERROR,
            "redis_replica",
            "The server is a replica.",
            "Use the address of its primary, or redis+sentinel://.",
        )
    yield from _about_memory(database, primary)
    yield from _about_the_disk(primary)
    wanted, connected = database.url.replicas, _number(primary, "connected_slaves")
    if connected < wanted:
        yield Finding(
            Severity.ERROR,
            "redis_replicas_missing",
            f"Only {connected} of {wanted} replicas for ?durability=replicated are connected; enqueue fails.",
            "Start replicas, or lower ?replicas=.",
        )


def _about_memory(database: RedisDatabase, primary: _Primary) -> Iterator[Finding]:
    policy = primary.information.get("maxmemory_policy", KEEPING)
    used, most = _number(primary, "used_memory"), _number(primary, "maxmemory")
    if policy != KEEPING:
        yield Finding(
            Severity.ERROR if database.url.refuses_eviction else Severity.WARNING,
            "redis_eviction",
            f"maxmemory-policy is {policy}: the server deletes jobs or locks when its memory is full.",
            "Set maxmemory-policy to noeviction.",
        )
    if not most:
        yield Finding(
            Severity.NOTE,
            "redis_no_memory_limit",
            "maxmemory is not set: the operating system might kill the server if memory runs out.",
            "Set maxmemory below the machine's memory.",
        )
    elif used > most * _FULL:
        yield Finding(
            Severity.ERROR,
            "redis_memory_full",
            f"Used memory is {used * 100 // most} % of maxmemory; if it is full, enqueue fails.",
            "Raise maxmemory, or shorten the retention.",
        )


def _about_the_disk(primary: _Primary) -> Iterator[Finding]:
    fix = "Set appendonly to yes if jobs must survive a restart of the server."
    if not primary.information.get("aof_enabled"):
        if primary.save is None:
            yield Finding(
                Severity.NOTE,
                "redis_persistence",
                "No append-only file: a restart might lose some or all jobs.",
                fix,
            )
        elif primary.save:
            yield Finding(
                Severity.NOTE,
                "redis_persistence",
                "Only snapshots: a crash of the server loses all changes since the last snapshot.",
                fix,
            )
        else:
            yield Finding(
                Severity.NOTE,
                "redis_persistence",
                "No append-only file and no snapshots: a restart loses every job.",
                fix,
            )
    elif primary.appendfsync == "no":
        yield Finding(
            Severity.NOTE,
            "redis_persistence",
            "appendfsync is no: a power failure loses jobs.",
            "Set appendfsync to everysec.",
        )
    for name, failed in _WRITES.items():
        if primary.information.get(name, "ok") != "ok":
            yield Finding(
                Severity.ERROR,
                "redis_write_failed",
                f"The server could not {failed}.",
                "Free up disk space on the server; its log contains the cause.",
            )


_WRITES = {
    "aof_last_write_status": "write its append-only file",
    "aof_last_bgrewrite_status": "rewrite its append-only file",
    "rdb_last_bgsave_status": "write its last snapshot",
}


def _broken(database: RedisDatabase) -> Iterator[Finding]:
    """Yield a finding for each partition with unreadable jobs, which claims have set aside.

    The check costs one round trip per partition.
    """
    for base in database.partitions.bases:
        key = f"{base}:broken"
        if number := int(database.connections.call("SCARD", key)):
            jobs = "1 job was" if number == 1 else f"{number} jobs were"
            yield Finding(
                Severity.ERROR,
                "redis_broken_jobs",
                f"{jobs} set aside: the stored data cannot be read, because Firelock did not write it.",
                f"Run SMEMBERS {key} to list the ids, check the jobs, then run DEL {key}.",
            )
