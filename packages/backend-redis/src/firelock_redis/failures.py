"""What Redis's errors mean to those who called: try again, or not; in one line, without a secret."""

from __future__ import annotations

import re

from redis import exceptions as driver

from firelock.storage import StorageError, StorageUnavailable

__all__ = ["is_leaving", "translated"]

# What a server answers while it changes its part, starts, or is full: trying again may help.
_PASSING = {
    "READONLY": "it is a replica and takes no writes; name its primary, or use redis+sentinel://",
    "LOADING": "it is reading its data from the disk",
    "MASTERDOWN": "it has lost its primary",
    "CLUSTERDOWN": "the cluster has lost nodes or slots",
    "TRYAGAIN": "a slot is being moved",
    "NOREPLICAS": "it has fewer replicas than its min-replicas-to-write",
    "OOM": "its memory is full; raise maxmemory, or let jobs end and be pruned",
    "MISCONF": "it cannot write its data to the disk",
    "BUSY": "another client's script keeps it busy",
    "NOGOODSLAVE": "there is no replica to go on with",
    "UNKILLABLE": "another client's script keeps it busy",
}
_LASTING = {
    "WRONGPASS": "it refuses the user name or the password of the URL",
    "NOAUTH": "it wants a password and the URL has none",
    "NOPERM": "the user may not run a command that Firelock needs; see the list in docs/redis.md",
    "MOVED": "it is a node of a cluster; use redis+cluster://",
    "CROSSSLOT": "it is a node of a cluster; use redis+cluster://",
    "WRONGTYPE": "a key below the prefix is not Firelock's; choose another ?prefix=",
}
_LEAVING = frozenset({"READONLY", "MASTERDOWN", "CLUSTERDOWN"})


def _code(error: BaseException) -> str:
    """Return the first word of what the server said, which the driver takes off for some classes."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    text = str(error)
    wrapped = _IN_A_SCRIPT.search(text)
    return wrapped[1] if wrapped else text.partition(" ")[0]


_IN_A_SCRIPT = re.compile(r"^Error running script .*?: -([A-Z]+) ")  # before Redis 7
_CODES: tuple[tuple[type[Exception], str], ...] = (
    (driver.ReadOnlyError, "READONLY"),
    (driver.BusyLoadingError, "LOADING"),
    (driver.MasterDownError, "MASTERDOWN"),
    (driver.OutOfMemoryError, "OOM"),
    (driver.NoPermissionError, "NOPERM"),
    (driver.MovedError, "MOVED"),
    (driver.ClusterDownError, "CLUSTERDOWN"),
    (driver.TryAgainError, "TRYAGAIN"),
    (driver.ClusterCrossSlotError, "CROSSSLOT"),
    (driver.AuthenticationWrongNumberOfArgsError, "WRONGPASS"),
)


def is_leaving(error: BaseException) -> bool:
    """Tell whether the server has another part now than the one its connections were made for."""
    return _code(error) in _LEAVING


def translated(error: Exception, where: str) -> StorageError:
    """Return the storage's own error for the driver's; `where` is the URL as it may be shown."""
    code = _code(error)
    if code in _PASSING:
        return StorageUnavailable(f"Redis at {where}: {_PASSING[code]} ({code}).")
    if code in _LASTING:
        return StorageError(f"Redis at {where}: {_LASTING[code]} ({code}).")
    text = str(error).rstrip(".") or type(error).__name__
    if isinstance(error, driver.AuthenticationError):
        code = "NOAUTH" if "required" in text.lower() else "WRONGPASS"
        return StorageError(f"Redis at {where}: {_LASTING[code]} ({text}).")
    if "cluster support disabled" in text:
        return StorageError(f"Redis at {where}: it is no cluster; use redis://.")
    if isinstance(error, driver.TimeoutError):
        return StorageUnavailable(f"Redis at {where} did not answer in time ({text}).")
    if isinstance(error, driver.ConnectionError | OSError | driver.RedisClusterException):
        return StorageUnavailable(f"Redis at {where} cannot be reached: {text}.{_tls_hint(text)}")
    if isinstance(error, UnicodeError):
        return StorageError(f"Redis at {where} cannot hold a text of this call: {type(error).__name__}.")
    return StorageError(f"Redis at {where}: {text}.")


def _tls_hint(text: str) -> str:
    lower = text.lower()
    if "wrong version number" in lower or "record layer failure" in lower or "eof occurred" in lower:
        return " It does not speak TLS at this port; use redis:// or its TLS port."
    if "certificate verify failed" in lower:
        return " Name the authority of its certificate by ssl_ca_certs=."
    if "closed by server" in lower:
        return " If it speaks TLS at this port, use rediss://."
    return ""
