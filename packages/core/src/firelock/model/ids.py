"""Job ids: version 7 UUIDs (RFC 9562 §5.7), created by the client and ordered by creation time."""

from __future__ import annotations

import os
import random
import re
import threading
import time
import uuid

_NAMESPACE = uuid.UUID("5b1f0d0e-6f3a-7c54-9d5e-f17e10c4a000")
_FORM = "%08x-%04x-7%03x-%04x-%012x"
_LOW = (1 << 48) - 1
_END = 253_402_300_800_000_000  # start of the year 10000, in microseconds
_LARGEST = (1 << 128) - 1
_NEWEST_FIRST = re.compile(r"[0-9]{18}-[0-9a-f]{32}")

# A separate generator is used so that two processes never create the same ids, even if programs seed the
# global generator.
_random = random.Random(os.urandom(32))  # noqa: S311 - ids are unique, not secret
_lock = threading.Lock()
_last = 0


def _reseed() -> None:
    global _lock  # noqa: PLW0603 - a lock that another thread held at the fork would never be released
    _random.seed(os.urandom(32))
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows cannot fork
    os.register_at_fork(after_in_child=_reseed)


def new_id() -> str:
    """Return a new id; the ids of one process ascend, even within a millisecond.

    The 12 bits after the milliseconds contain the fraction of the millisecond (RFC 9562 §6.2, method 3). If
    two calls get the same value, it is increased by one, so that jobs enqueued one after another sort in that
    order.
    """
    global _last  # noqa: PLW0603 - the next value must be larger than the last one
    stamp = time.time_ns() * 4096 // 1_000_000
    with _lock:
        if stamp <= _last:
            stamp = _last + 1
        _last = stamp
        tail = _random.getrandbits(62)
    return _FORM % (stamp >> 28, stamp >> 12 & 0xFFFF, stamp & 0xFFF, tail >> 48 | 0x8000, tail & _LOW)


def new_ids(count: int) -> list[str]:
    """Return this number of ascending new ids, in half the time that separate `new_id` calls would take."""
    global _last  # noqa: PLW0603 - as in new_id
    stamp = time.time_ns() * 4096 // 1_000_000
    with _lock:
        first = max(stamp, _last + 1)
        _last = first + count - 1
        tails = memoryview(_random.randbytes(8 * count)).cast("Q").tolist()
    return [
        _FORM % (at >> 28, at >> 12 & 0xFFFF, at & 0xFFF, tail >> 48 & 0x3FFF | 0x8000, tail & _LOW)
        for at, tail in enumerate(tails, first)
    ]


def derived_id(*parts: str) -> str:
    """Return the same id for the same parts, so that two servers create only one job per due time."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(parts)))


def newest_first_key(at: int) -> str:
    """Return a new key for a record at this time (microseconds); keys of later times sort first.

    If one process creates several keys for the same time, the newest key sorts first.
    """
    return f"{_END - at:018d}-{_LARGEST - uuid.UUID(new_id()).int:032x}"


def is_newest_first_key(text: object) -> bool:
    """Return whether a value has the form of such a key."""
    return isinstance(text, str) and _NEWEST_FIRST.fullmatch(text) is not None
