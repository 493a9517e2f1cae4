"""The safety of jobs in this Redis and its possible problems, as the server reports them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs
from typing_extensions import override

from firelock.storage import Finding, Severity, StorageError, StorageUnavailable
from firelock_redis.connections.database import KEEPING, RedisDatabase, RedisVerbs, product_of

_FULL = 0.9  # of maxmemory: above this a finding is reported


@attrs.frozen
class _Primary:
    """The information that one primary reports about itself."""

    where: str
    told: Mapping[str, Any]  # the reply to INFO
    save: str | None  # when snapshots are made; empty: never; None: CONFIG GET is not allowed
    appendfsync: str | None  # None: as above


def _primaries(database: RedisDatabase) -> list[_Primary]:
    saves, syncs = _setting(database, "save"), _setting(database, "appendfsync")
    return [
        _Primary(where, told, saves.get(where), syncs.get(where))
        for where, told in database.information().items()
    ]


def _setting(database: RedisDatabase, name: str) -> Mapping[str, str]:
    """Return a setting by primary; empty if CONFIG GET is not allowed or does not exist."""
    try:
        replies = database.connections.ask_primaries("CONFIG", "GET", name)
    except StorageUnavailable:
        raise
    except StorageError:
        return {}
    return {where: str(reply[1]) for where, reply in replies.items() if len(reply) == 2}  # noqa: PLR2004


class HealthVerbs(RedisVerbs):
    """The verbs that describe the storage."""

    @override
    def describe(self) -> Mapping[str, str]:
        """Return the kind and version of the server, and how safe jobs are in it."""
        primaries = _primaries(self.database)
        said = {
            "storage": str(self.database.url),
            "server": _together(" ".join(product_of(one.told)) for one in primaries),
            "durability": _replicated(self.database) + _together(map(_durability, primaries)),
            "eviction": _together(map(_eviction, primaries)),
            "memory": _size(sum(_number(one, "used_memory") for one in primaries)),
            "replicas": str(sum(_number(one, "connected_slaves") for one in primaries)),
            "wake": "published, one connection a process",
        }
        if self._partitions.number > 1:
            said["partitions"] = str(self._partitions.number)
            said["keys"] = "all of a job begin alike up to their first /, as smtp and smtp/tenant:7 do"
        return said

    @override
    def diagnose(self) -> list[Finding]:
        """Return the possible problems and how to fix them; for a cluster, for each node."""
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
    """Return the string that all primaries share, or each string with the number of its primaries."""
    counted = Counter(texts)
    number = counted.total()
    if number == 1:
        return next(iter(counted))
    return "; ".join(f"{text} ({count} of {number} primaries)" for text, count in counted.items())


def _number(primary: _Primary, name: str) -> int:
    return int(primary.told.get(name, 0))


def _eviction(primary: _Primary) -> str:
    most = _number(primary, "maxmemory")
    limit = f"maxmemory {_size(most)}" if most else "maxmemory not set"
    return f"{primary.told.get('maxmemory_policy', '?')}, {limit}"


def _size(number: int) -> str:
    return f"{number / 1024 / 1024:.1f} MiB"


def _replicated(database: RedisDatabase) -> str:
    wanted = database.url.replicas
    if not wanted:
        return ""
    replicas = "a replica has" if wanted == 1 else f"{wanted} replicas have"
    return f"{replicas} an enqueued job as well before the call returns; "


def _durability(primary: _Primary) -> str:
    if primary.told.get("aof_enabled"):
        return f"append-only file, {_SYNCED.get(primary.appendfsync, _SYNCED[None])}"
    match primary.save:
        case None:
            return (
                "no append-only file, and CONFIG GET is not allowed, so that nobody knows of snapshots: "
                "reckon with none"
            )
        case "":
            return "none: a restart takes every job"
        case _:
            return f"snapshots alone (save {primary.save}): a crash takes what came after the last one"


_SYNCED: Mapping[str | None, str] = {
    "always": "appendfsync always: what was acknowledged is on the disk",
    "everysec": "appendfsync everysec: a power failure may take the last two seconds",
    "no": "appendfsync no: a power failure takes what the system had not written yet, some 30 seconds",
    None: "synced as CONFIG says, which may not be asked: a power failure may take the last seconds",
}


def _findings(database: RedisDatabase, primary: _Primary) -> Iterator[Finding]:
    if primary.told.get("role", "master") != "master":
        yield Finding(
            Severity.ERROR, "redis_replica", "It is a replica.", "Name its primary, or use redis+sentinel://."
        )
    yield from _about_memory(database, primary)
    yield from _about_the_disk(primary)
    wanted, connected = database.url.replicas, _number(primary, "connected_slaves")
    if connected < wanted:
        yield Finding(
            Severity.ERROR,
            "redis_replicas_missing",
            f"{connected} of {wanted} replicas of ?durability=replicated are connected: each enqueue fails.",
            "Start replicas, or lower ?replicas=.",
        )


def _about_memory(database: RedisDatabase, primary: _Primary) -> Iterator[Finding]:
    policy = primary.told.get("maxmemory_policy", KEEPING)
    used, most = _number(primary, "used_memory"), _number(primary, "maxmemory")
    if policy != KEEPING:
        yield Finding(
            Severity.ERROR if database.url.refuses_eviction else Severity.WARNING,
            "redis_eviction",
            f"maxmemory-policy is {policy}: jobs or locks are dropped when memory is full.",
            "Set maxmemory-policy noeviction.",
        )
    if not most:
        yield Finding(
            Severity.NOTE,
            "redis_no_memory_limit",
            "maxmemory is not set: the system may end the server when memory is short.",
            "Set maxmemory below the machine's memory.",
        )
    elif used > most * _FULL:
        yield Finding(
            Severity.ERROR,
            "redis_memory_full",
            f"Memory is {used * 100 // most} % of maxmemory; when it is full, no job is accepted.",
            "Raise maxmemory, or shorten the retention.",
        )


def _about_the_disk(primary: _Primary) -> Iterator[Finding]:
    mend = "Set appendonly yes, if jobs have to outlive the server."
    if not primary.told.get("aof_enabled"):
        if primary.save is None:
            yield Finding(
                Severity.NOTE,
                "redis_persistence",
                "No append-only file: a restart may lose jobs, perhaps all.",
                mend,
            )
        elif primary.save:
            yield Finding(
                Severity.NOTE,
                "redis_persistence",
                "Snapshots alone: a crash of the server loses what came after the last one.",
                mend,
            )
        else:
            yield Finding(
                Severity.NOTE,
                "redis_persistence",
                "No append-only file and no snapshots: a restart loses every job.",
                mend,
            )
    elif primary.appendfsync == "no":
        yield Finding(
            Severity.NOTE,
            "redis_persistence",
            "appendfsync is no: a power failure loses jobs.",
            "Set appendfsync everysec.",
        )
    for name, what in _WRITES.items():
        if primary.told.get(name, "ok") != "ok":
            yield Finding(
                Severity.ERROR,
                "redis_write_failed",
                f"The server could not write {what}.",
                "Free its disk; its log says why.",
            )


_WRITES = {
    "aof_last_write_status": "its append-only file",
    "aof_last_bgrewrite_status": "its append-only file anew",
    "rdb_last_bgsave_status": "its last snapshot",
}


def _broken(database: RedisDatabase) -> Iterator[Finding]:
    """Yield a finding for each partition in which claims have set jobs aside; one round trip each."""
    for base in database.partitions.bases:
        key = f"{base}:broken"
        if number := int(database.connections.call("SCARD", key)):
            jobs = "A claim has set 1 job aside" if number == 1 else f"Claims have set {number} jobs aside"
            yield Finding(
                Severity.ERROR,
                "redis_broken_jobs",
                f"{jobs} whose keys hold what Firelock did not write.",
                f"SMEMBERS {key} lists the ids; look at them, then DEL {key}.",
            )
