"""Recognition of the requests of Firelock's storage to a Redis, for proxies that lose some of them."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from firelock_redis import scripts
from firelock_redis.scripts import script
from tests.redis.counting import CommandReader

_LIMIT, _QUEUES, _REST = 7, 8, 9  # words of an exchange: EVALSHA, digest, 1, base, offset, session, now, …


def is_enqueue(request):
    """Return whether the request stores jobs."""
    return any(digest in request[:200] for digest in _inserting())


@cache
def _inserting():
    names = [file.name.removesuffix(".lua") for file in files(scripts).iterdir()]
    return [script(name).digest.encode() for name in names if name.startswith("insert")]


def is_claim(request):
    """Return whether the request claims jobs, with or without ends."""
    words = _exchange(request)
    return words is not None and int(words[_LIMIT]) > 0


def is_settle(request):
    """Return whether the request settles jobs, with or without a claim."""
    words = _exchange(request)
    return words is not None and len(words) > _REST + max(0, int(words[_QUEUES]))


def _exchange(request):
    if script("exchange").digest.encode() not in request[:200]:
        return None
    commands = CommandReader().read(request)
    return commands[0] if commands else None


def is_listening(request):
    """Return whether the request subscribes to notifications."""
    return b"SUBSCRIBE" in request[:40]
