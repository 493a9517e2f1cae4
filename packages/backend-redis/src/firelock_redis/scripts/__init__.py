"""Lua scripts that run on the server: one per group of verbs, most of them preceded by the shared `library`.

Read these first: `library`, `functions/` (the storage of jobs and the changes of their states),
`insert_plain` and `exchange`, which run for every job. Other inserts: `insert`, `insert_keyed`. Background
work: `upkeep`, `prune`, `sessions`. Reads: `find`, `reading`. Other data: `leases`, `records`, `locks`,
`logs`, `metrics`, `memos`, `moves`, `limit_keys`, `prefix`. Each verb in a script adds 0.2 µs to every call
of the script's other verbs.

`layout.encoding` declares the stored strings, and `layout.words` the values of ARGV and of replies. A name
such as `CHANGE.fence` stands for a place and `LAST.captures(due)` for a pattern; both are replaced before a
script is sent (see `layout.wire`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from hashlib import sha1
from importlib.resources import files

import attrs

from firelock_redis.layout.wire import placed
from firelock_redis.layout.words import FORMATS

__all__ = ["TEXTS", "RedisScript", "script"]

_FUNCTIONS = {  # the function files that precede each group, in order
    "exchange": ("batches", "jobs", "unique", "limits", "suspensions"),
    "limit_keys": ("batches", "jobs", "record", "limits"),
    "insert": ("batches", "jobs", "children", "record", "unique", "duplicates"),
    "memos": ("batches", "jobs"),
    "moves": ("batches", "jobs"),
    "prune": ("batches", "jobs", "children"),
    "records": ("batches", "jobs", "record"),
    "sessions": ("batches", "jobs"),
    "upkeep": ("batches", "jobs", "children"),
}
_WITHOUT_LIBRARY = frozenset({"insert_plain", "insert_keyed"})
_SUFFIX = ".lua"


def _read_all() -> Mapping[str, str]:
    here = files(__name__)
    return {
        file.name.removesuffix(_SUFFIX): file.read_text("utf-8")
        for folder in (here, here / "functions")
        for file in folder.iterdir()
        if file.name.endswith(_SUFFIX)
    }


# The scripts by file name. All are read when the first storage is opened. So if an upgrade replaces the
# files, a running process still uses the scripts that match its code. The process also needs no file
# descriptor for later verbs.
TEXTS = _read_all()


@attrs.frozen
class RedisScript:
    """A script: its text is sent with the first call, and only its digest with later calls."""

    text: str
    digest: str
    # The name of the verb, which precedes the verb's arguments; empty if the group has only one verb.
    verb: tuple[str, ...]


@cache
def script(name: str) -> RedisScript:
    """Return the script of a group, or of `group.verb`, including the functions that it uses."""
    group, _, verb = name.partition(".")
    before = () if group in _WITHOUT_LIBRARY else ("library", *_FUNCTIONS.get(group, ()))
    text = placed("\n".join(TEXTS[part] for part in (*before, group)), FORMATS)
    digest = sha1(text.encode(), usedforsecurity=False).hexdigest()
    return RedisScript(text, digest, (verb,) if verb else ())
