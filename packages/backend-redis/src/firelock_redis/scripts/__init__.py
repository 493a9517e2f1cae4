"""Lua that runs on the server: one script per group of verbs, each preceded by `library`, which all share.

Read first: `library`, `functions/` (how a job is stored, and how it changes its state), `insert_plain` and
`exchange`, which run for every job. Other inserts: `insert`, `insert_keyed`. Changes that no caller requests:
`upkeep`, `prune`, `sessions`. Reads: `find`, `reading`. Other data: `leases`, `records`, `locks`, `logs`,
`metrics`, `memos`, `moves`, `limit_keys`, `prefix`. Each verb that a call does not use costs the call 0.2 µs.

`layout.encoding` declares the stored strings, `layout.words` the values of ARGV and of replies:
`CHANGE.fence` is a place, `LAST.captures(due)` a pattern. Both are replaced in a script before it is sent
(see `layout.wire`).
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

_BEHIND = {  # a group, and the functions that precede it, in order
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
_ALONE = frozenset({"insert_plain", "insert_keyed"})
_SUFFIX = ".lua"


def _read_all() -> Mapping[str, str]:
    here = files(__name__)
    return {
        file.name.removesuffix(_SUFFIX): file.read_text("utf-8")
        for folder in (here, here / "functions")
        for file in folder.iterdir()
        if file.name.endswith(_SUFFIX)
    }


# By file. All are read when the first storage is opened. So a process keeps the scripts that its code was
# written for if an upgrade replaces them, and needs no file descriptor for a verb that it uses later.
TEXTS = _read_all()


@attrs.frozen
class RedisScript:
    """A script as it is sent: the first time whole, later by its digest."""

    text: str
    digest: str
    verb: tuple[
        str, ...
    ]  # the arguments before those of the verb: its name, empty if the group has only one verb


@cache
def script(name: str) -> RedisScript:
    """Return the script of a group, or of `group.verb`, including everything that must precede it."""
    group, _, verb = name.partition(".")
    before = () if group in _ALONE else ("library", *_BEHIND.get(group, ()))
    text = placed("\n".join(TEXTS[part] for part in (*before, group)), FORMATS)
    digest = sha1(text.encode(), usedforsecurity=False).hexdigest()
    return RedisScript(text, digest, (verb,) if verb else ())
