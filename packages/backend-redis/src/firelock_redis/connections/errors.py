"""Translation of Redis's errors into one-line storage errors without secrets.

The class of a storage error shows whether a retry might succeed.
"""

from __future__ import annotations

import re

from redis import exceptions as driver

from firelock.storage import StorageError, StorageUnavailable
from firelock_redis.connections.url import RedisUrl

# Errors of a server that is changing its role, is starting or is full. A retry might succeed.
_TEMPORARY = {
    "READONLY": "it is a replica and does not accept writes; use the address of its primary, or redis+sentinel://",
    "LOADING": "it is loading its data from the disk",
    "MASTERDOWN": "it has lost its primary",
    "CLUSTERDOWN": "the cluster has lost nodes or slots",
    "TRYAGAIN": "a slot is being moved",
    "NOREPLICAS": "it has fewer replicas than its min-replicas-to-write",
    "OOM": "its memory is full; raise maxmemory, or wait until ended jobs are pruned",
    "MISCONF": "it cannot write its data to the disk",
    "BUSY": "another client's script keeps it busy",
    "NOGOODSLAVE": "no replica can become the primary",
    "UNKILLABLE": "another client's script keeps it busy",
}
_PERMANENT = {
    "WRONGPASS": "it refuses the user name or the password of the URL",
    "NOAUTH": "it requires a password, but the URL has none",
    "NOPERM": "the user lacks permission for a command that Firelock needs; see the list in docs/redis.md",
    "MOVED": "it is a node of a cluster; use redis+cluster://",
    "CROSSSLOT": "it is a node of a cluster; use redis+cluster://",
    "WRONGTYPE": "a key with this prefix was not written by Firelock; use another ?prefix=",
}
_UNSENT, _PARTLY = "firelock_unsent", "firelock_partly"  # attributes that Firelock sets on a driver's error
_TOO_MANY_CLIENTS = "max number of clients"
_LOST_ROLE = frozenset({"READONLY", "MASTERDOWN", "CLUSTERDOWN"})


def _code(error: BaseException) -> str:
    """Return the first word of the server's error; for some classes the driver stores it separately."""
    text = str(error)
    wrapped = _IN_A_SCRIPT.search(text)
    return wrapped[1] if wrapped else getattr(error, "status_code", None) or text.partition(" ")[0]


_IN_A_SCRIPT = re.compile(r"^Error running script .*?: -?([A-Z]{2,}) ")  # before Redis 7
_NOT_ALLOWED_IN_A_SCRIPT = (
    "user executing the script can't",
    "ACL failure in script",
)  # the messages before Redis 7 and since Redis 7


def has_lost_its_role(error: BaseException) -> bool:
    """Return whether the server no longer has the role for which its connections were opened."""
    return _code(error) in _LOST_ROLE


def note_unsent(error: BaseException) -> None:
    """Mark the error to show that no connection was opened, so the server has not received the call."""
    if isinstance(error, StorageUnavailable):
        error.is_untouched = True
    else:
        setattr(error, _UNSENT, True)


def note_partly_executed(error: BaseException) -> None:
    """Mark the error to show that the server executed another command of the same call."""
    setattr(error, _PARTLY, True)


def translated(error: Exception, url: RedisUrl) -> StorageError:
    """Return the storage error for an error of the driver."""
    found = _translated(error, url)
    if isinstance(found, StorageUnavailable):
        found.is_untouched = getattr(error, _UNSENT, False) or _is_refusal(error)
    return found


def _is_refusal(error: BaseException) -> bool:
    """Return whether the server refused the call before it wrote anything.

    A script can fail with these errors only before its first write. After that write, the server lets the
    script finish.
    """
    if getattr(error, _PARTLY, False):
        return False
    return _code(error) in _TEMPORARY or _TOO_MANY_CLIENTS in str(error)


def _translated(error: Exception, url: RedisUrl) -> StorageError:
    code, where = _code(error), f"Redis at {url}"
    if code in _TEMPORARY:
        return StorageUnavailable(f"{where}: {_TEMPORARY[code]} ({code}).")
    text = str(error).rstrip(".") or type(error).__name__
    if mistake := _mistake_in_url(error, text, url):
        return StorageError(f"{where}: {mistake}.")
    if code in _PERMANENT:
        return StorageError(f"{where}: {_PERMANENT[code]} ({code}).")
    if isinstance(error, driver.TimeoutError):
        return StorageUnavailable(f"{where} did not respond in time ({text}).{_tls_hint(text, url)}")
    if isinstance(error, driver.ConnectionError | OSError | driver.RedisClusterException):
        return StorageUnavailable(f"{where} cannot be reached: {text}.{_tls_hint(text, url)}")
    if isinstance(error, UnicodeError):
        return StorageError(f"{where} cannot store a string of this call: {type(error).__name__}.")
    return StorageError(f"{where}: {text}.")


def _mistake_in_url(error: Exception, text: str, url: RedisUrl) -> str:
    """Return why the URL does not fit the server; an empty string if the URL did not cause the error."""
    if isinstance(error, driver.AuthenticationError):
        return f"{_PERMANENT['NOAUTH' if _code(error) == 'NOAUTH' else 'WRONGPASS']} ({text})"
    if any(words in text for words in _NOT_ALLOWED_IN_A_SCRIPT):
        return f"{_PERMANENT['NOPERM']} (NOPERM)"
    if isinstance(error, driver.InvalidResponse):
        return f"the server at this address does not use the Redis protocol ({text})"
    if "luster support disabled" in text or "luster mode is not enabled" in text:
        return "it is not a cluster; use redis://"
    if "unknown command" in text and "SENTINEL" in text:
        return "it is not a Sentinel; use redis://"
    if "DB index is out of range" in text:
        return f"it has no database {url.database}; use another one, or raise its setting `databases`"
    return ""


def _tls_hint(text: str, url: RedisUrl) -> str:
    lower = text.lower()
    if url.tls is not None:
        if "certificate verify failed" in lower:
            return (
                " Set ssl_ca_certs= to the certificate of the authority that signed the server's certificate."
            )
        if any(sign in lower for sign in ("wrong version", "record layer", "eof occurred", "connecting")):
            return " This port might not use TLS; use redis://, or the server's TLS port."
    elif "closed by server" in lower or "reset by peer" in lower:
        return " If no connection to this port has ever succeeded, the port might require TLS; use rediss://."
    return ""
