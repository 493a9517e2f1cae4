"""Job ids: version 7 UUIDs (RFC 9562 §5.7), made by the client, ordered by the time they were made."""

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
_END = 253_402_300_800_000_000  # micros of the year 10000
_LARGEST = (1 << 128) - 1
_NEWEST_FIRST = re.compile(r"[0-9]{18}-[0-9a-f]{32}")

# A generator of our own: a program that seeds the global one must not make two processes agree on their ids.
_random = random.Random(os.urandom(32))  # noqa: S311 - ids are unique, not secret
_lock = threading.Lock()
_last = 0


def _reseed() -> None:
    global _lock  # noqa: PLW0603 - a lock held by another thread at the fork would never be released
    _random.seed(os.urandom(32))
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows cannot fork
    os.register_at_fork(after_in_child=_reseed)


def new_id() -> str:
    """Return a new id; ids made by one process ascend, also within one millisecond.

    The 12 bits behind the milliseconds hold their fraction (RFC 9562 §6.2, method 3) and are pushed up by one
    where two calls fall together, so that jobs enqueued one after another sort in that order.
    """
    global _last  # noqa: PLW0603 - the last stamp given is what makes the next one larger
    stamp = time.time_ns() * 4096 // 1_000_000
    with _lock:
        if stamp <= _last:
            stamp = _last + 1
        _last = stamp
        tail = _random.getrandbits(62)
    return _FORM % (stamp >> 28, stamp >> 12 & 0xFFFF, stamp & 0xFFF, tail >> 48 | 0x8000, tail & _LOW)


def new_ids(count: int) -> list[str]:
    """Return so many new ids, ascending: as many calls of `new_id` for half the time."""
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
    """Return the id that these parts always give; two servers that fire one instant make one job."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(parts)))


def newest_first_key(at: int) -> str:
    """Return a new key for a record of this instant (micros); of two keys the one of later sorts first.

    Keys that one process makes for one instant sort the last one first.
    """
    return f"{_END - at:018d}-{_LARGEST - uuid.UUID(new_id()).int:032x}"


def is_newest_first_key(text: object) -> bool:
    """Tell whether a text has the form of such a key."""
    return isinstance(text, str) and _NEWEST_FIRST.fullmatch(text) is not None
