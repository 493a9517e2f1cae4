"""What a Redis says about itself: whether it can be used, how safe jobs are in it, and what may go wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from firelock.storage import Finding, SchemaMismatch, StorageError, StorageUnavailable

if TYPE_CHECKING:
    from firelock_redis.database import Database

__all__ = ["describe", "diagnose", "read_information", "require_layout", "require_usable"]

_OLDEST = {"Redis": (6, 2), "Valkey": (7, 2)}
_KEEPING = "noeviction"
_FULL = 0.9  # of maxmemory: from here on it is worth a word


def read_information(reply: object) -> Mapping[str, Any]:
    """Return what INFO said, by name; a cluster's driver has read it already."""
    if isinstance(reply, Mapping):
        return reply
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
        _require_mode(database, information)
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


def _require_mode(database: Database, information: Mapping[str, Any]) -> None:
    """The server is of the kind that the URL takes it for; a cluster's node answers for some keys alone."""
    mode = information.get("redis_mode", information.get("server_mode"))
    scheme = {"sentinel": "redis+sentinel://", "cluster": "redis+cluster://"}.get(str(mode))
    if scheme is not None and not (database.url.is_cluster and mode == "cluster"):
        kind = "a Sentinel" if mode == "sentinel" else "a node of a cluster"
        message = f"Redis at {database.url}: it is {kind}; use {scheme}."
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


@attrs.frozen
class _Primary:
    """What one primary says of itself."""

    where: str
    told: Mapping[str, Any]  # by INFO
    save: str | None  # when snapshots are made; nothing: never; None: CONFIG GET is not allowed
    appendfsync: str | None  # None: as above


def _primaries(database: Database) -> list[_Primary]:
    saves, syncs = _setting(database, "save"), _setting(database, "appendfsync")
    return [
        _Primary(where, read_information(told), saves.get(where), syncs.get(where))
        for where, told in database.ask_primaries("INFO").items()
    ]


def _setting(database: Database, name: str) -> Mapping[str, str]:
    """Return what each primary has set; nothing where CONFIG GET is not allowed, or not there at all."""
    try:
        replies = database.ask_primaries("CONFIG", "GET", name)
    except StorageUnavailable:
        raise
    except StorageError:
        return {}
    return {where: str(reply[1]) for where, reply in replies.items() if len(reply) == 2}  # noqa: PLR2004


def describe(database: Database) -> Mapping[str, str]:
    """Return what the server is and how safe jobs are in it."""
    primaries = _primaries(database)
    said = {
        "storage": str(database.url),
        "server": _together(" ".join(_product(one.told)) for one in primaries),
        "durability": _replicated(database) + _together(map(_durability, primaries)),
        "eviction": _together(f"{one.told.get('maxmemory_policy', '?')}, {_limit(one)}" for one in primaries),
        "memory": _size(sum(_number(one, "used_memory") for one in primaries)),
        "replicas": str(sum(_number(one, "connected_slaves") for one in primaries)),
        "wake": "published, one connection a process",
    }
    if database.partitions.number > 1:
        said["partitions"] = str(database.partitions.number)
    return said


def _together(texts: Iterable[str]) -> str:
    """Return what all primaries have in common, or each text with how many of them it is true of."""
    counted = Counter(texts)
    number = counted.total()
    if number == 1:
        return next(iter(counted))
    return "; ".join(f"{text} ({count} of {number} primaries)" for text, count in counted.items())


def _number(primary: _Primary, name: str) -> int:
    return int(primary.told.get(name, 0))


def _limit(primary: _Primary) -> str:
    most = _number(primary, "maxmemory")
    return f"maxmemory {_size(most)}" if most else "maxmemory not set"


def _size(number: int) -> str:
    return f"{number / 1024 / 1024:.1f} MiB"


def _replicated(database: Database) -> str:
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


def diagnose(database: Database) -> list[Finding]:
    """Return what may go wrong with this Redis, and how to mend it; of a cluster's nodes, each by itself."""
    primaries = _primaries(database)
    found: dict[Finding, list[str]] = {}
    for primary in primaries:
        for finding in _findings(database, primary):
            found.setdefault(finding, []).append(primary.where)
    findings = [
        finding if len(primaries) == 1 else attrs.evolve(finding, what=f"{', '.join(where)}: {finding.what}")
        for finding, where in found.items()
    ]
    return [*findings, *_broken(database)]


def _findings(database: Database, primary: _Primary) -> Iterator[Finding]:
    if primary.told.get("role", "master") != "master":
        yield Finding(True, "It is a replica.", "Name its primary, or use redis+sentinel://.")
    yield from _about_memory(database, primary)
    yield from _about_the_disk(primary)
    wanted, connected = database.url.replicas, _number(primary, "connected_slaves")
    if connected < wanted:
        yield Finding(
            True,
            f"{connected} of {wanted} replicas of ?durability=replicated are connected: each enqueue fails.",
            "Start replicas, or lower ?replicas=.",
        )


def _about_memory(database: Database, primary: _Primary) -> Iterator[Finding]:
    policy = primary.told.get("maxmemory_policy", _KEEPING)
    used, most = _number(primary, "used_memory"), _number(primary, "maxmemory")
    if policy != _KEEPING:
        yield Finding(
            database.url.refuses_eviction,
            f"maxmemory-policy is {policy}: jobs or locks are dropped when memory is full.",
            "Set maxmemory-policy noeviction.",
        )
    if not most:
        yield Finding(
            False,
            "maxmemory is not set: the system may end the server when memory is short.",
            "Set maxmemory below the machine's memory.",
        )
    elif used > most * _FULL:
        yield Finding(
            True,
            f"Memory is {used * 100 // most} % of maxmemory; when it is full, no job is accepted.",
            "Raise maxmemory, or shorten the retention.",
        )


def _about_the_disk(primary: _Primary) -> Iterator[Finding]:
    mend = "Set appendonly yes, if jobs have to outlive the server."
    if not primary.told.get("aof_enabled"):
        if primary.save is None:
            yield Finding(False, "No append-only file: a restart may lose jobs, perhaps all.", mend)
        elif primary.save:
            yield Finding(
                False, "Snapshots alone: a crash of the server loses what came after the last one.", mend
            )
        else:
            yield Finding(False, "No append-only file and no snapshots: a restart loses every job.", mend)
    elif primary.appendfsync == "no":
        yield Finding(False, "appendfsync is no: a power failure loses jobs.", "Set appendfsync everysec.")
    for name, what in _WRITES.items():
        if primary.told.get(name, "ok") != "ok":
            yield Finding(True, f"The server could not write {what}.", "Free its disk; its log says why.")


_WRITES = {
    "aof_last_write_status": "its append-only file",
    "aof_last_bgrewrite_status": "its append-only file anew",
    "rdb_last_bgsave_status": "its last snapshot",
}


def _broken(database: Database) -> Iterator[Finding]:
    """Yield a finding for each partition with jobs that a claim had to set aside; one round trip each."""
    for base in database.partitions.bases:
        key = f"{base}:broken"
        if number := int(database.connections.call("SCARD", key)):
            jobs = "A claim has set 1 job aside" if number == 1 else f"Claims have set {number} jobs aside"
            yield Finding(
                True,
                f"{jobs} whose keys hold what Firelock did not write.",
                f"SMEMBERS {key} lists the ids; look at them, then DEL {key}.",
            )
