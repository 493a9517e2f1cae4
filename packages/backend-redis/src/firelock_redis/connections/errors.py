"""The meaning of Redis's errors for callers: whether to try again, in one line and without a secret."""

from __future__ import annotations

import re

from redis import exceptions as driver

from firelock.storage import StorageError, StorageUnavailable
from firelock_redis.connections.url import RedisUrl

# Errors of a server that changes its role, starts, or is full: trying again may help.
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
_UNSENT, _PARTLY = "firelock_unsent", "firelock_partly"  # attributes that are set on a driver's error
_NO_PLACE = "max number of clients"
_LEAVING = frozenset({"READONLY", "MASTERDOWN", "CLUSTERDOWN"})


def _code(error: BaseException) -> str:
    """Return the first word of the server's error; for some classes the driver stores it separately."""
    text = str(error)
    wrapped = _IN_A_SCRIPT.search(text)
    return wrapped[1] if wrapped else getattr(error, "status_code", None) or text.partition(" ")[0]


_IN_A_SCRIPT = re.compile(r"^Error running script .*?: -?([A-Z]{2,}) ")  # before Redis 7
_NOT_ALLOWED_IN_A_SCRIPT = (
    "user executing the script can't",
    "ACL failure in script",
)  # before Redis 7, and since


def is_leaving(error: BaseException) -> bool:
    """Return whether the server no longer has the role for which its connections were opened."""
    return _code(error) in _LEAVING


def note_unsent(error: BaseException) -> None:
    """Note that no connection was opened, so that the server received nothing of the call."""
    if isinstance(error, StorageUnavailable):
        error.is_untouched = True
    else:
        setattr(error, _UNSENT, True)


def note_partly(error: BaseException) -> None:
    """Note that the server executed another command of the same call."""
    setattr(error, _PARTLY, True)


def translated(error: Exception, url: RedisUrl) -> StorageError:
    """Return the storage's own error for the driver's error."""
    found = _translated(error, url)
    if isinstance(found, StorageUnavailable):
        found.is_untouched = getattr(error, _UNSENT, False) or _is_refusal(error)
    return found


def _is_refusal(error: BaseException) -> bool:
    """Return whether the server refused the call before it wrote anything.

    A script gets these errors at its first write at the latest: after that the server lets it finish.
    """
    if getattr(error, _PARTLY, False):
        return False
    return _code(error) in _PASSING or _NO_PLACE in str(error)


def _translated(error: Exception, url: RedisUrl) -> StorageError:
    code, where = _code(error), f"Redis at {url}"
    if code in _PASSING:
        return StorageUnavailable(f"{where}: {_PASSING[code]} ({code}).")
    text = str(error).rstrip(".") or type(error).__name__
    if mistake := _mistaken(error, text, url):
        return StorageError(f"{where}: {mistake}.")
    if code in _LASTING:
        return StorageError(f"{where}: {_LASTING[code]} ({code}).")
    if isinstance(error, driver.TimeoutError):
        return StorageUnavailable(f"{where} did not answer in time ({text}).{_tls_hint(text, url)}")
    if isinstance(error, driver.ConnectionError | OSError | driver.RedisClusterException):
        return StorageUnavailable(f"{where} cannot be reached: {text}.{_tls_hint(text, url)}")
    if isinstance(error, UnicodeError):
        return StorageError(f"{where} cannot hold a text of this call: {type(error).__name__}.")
    return StorageError(f"{where}: {text}.")


def _mistaken(error: Exception, text: str, url: RedisUrl) -> str:
    """Return in which way the URL does not fit the server; an empty string if that is not the cause."""
    if isinstance(error, driver.AuthenticationError):
        return f"{_LASTING['NOAUTH' if _code(error) == 'NOAUTH' else 'WRONGPASS']} ({text})"
    if any(words in text for words in _NOT_ALLOWED_IN_A_SCRIPT):
        return f"{_LASTING['NOPERM']} (NOPERM)"
    if isinstance(error, driver.InvalidResponse):
        return f"what listens there does not speak Redis ({text})"
    if "luster support disabled" in text or "luster mode is not enabled" in text:
        return "it is no cluster; use redis://"
    if "unknown command" in text and "SENTINEL" in text:
        return "it is no Sentinel; use redis://"
    if "DB index is out of range" in text:
        return f"it has no database {url.database}; name another, or raise its setting `databases`"
    return ""


def _tls_hint(text: str, url: RedisUrl) -> str:
    lower = text.lower()
    if url.tls is not None:
        if "certificate verify failed" in lower:
            return " Name the authority of its certificate by ssl_ca_certs=."
        if any(sign in lower for sign in ("wrong version", "record layer", "eof occurred", "connecting")):
            return " Perhaps it does not speak TLS at this port; use redis:// or its TLS port."
    elif "closed by server" in lower or "reset by peer" in lower:
        return " If it has never answered at this port, it may speak TLS there: use rediss://."
    return ""
