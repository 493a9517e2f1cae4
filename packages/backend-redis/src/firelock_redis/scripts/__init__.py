"""The scripts, one a verb, each behind the functions that it shares with others."""

from __future__ import annotations

from functools import cache
from hashlib import sha1
from importlib.resources import files

import attrs

__all__ = ["Script", "script"]

_BEFORE = {
    "acquire_lock": ("lock_lib",),
    "renew_lock": ("lock_lib",),
    "release_lock": ("lock_lib",),
    "put_recurring": ("recurring_lib",),
    "get_recurring": ("recurring_lib",),
    "list_recurring": ("recurring_lib",),
    "due_recurring": ("recurring_lib",),
    "put_record": ("pause_lib",),
    "delete_record": ("pause_lib",),
    "store": ("jobs", "children", "storing"),
    "fire": ("jobs", "children", "storing", "recurring_lib"),
    "exchange": ("jobs", "apply", "claim"),
    "due": ("due_lib",),
    "promote": ("jobs", "due_lib"),
    "release": ("jobs", "children"),
    "prune": ("jobs", "children"),
    "end_session": ("jobs", "taking"),
    "take_jobs": ("jobs", "taking"),
    "reconcile": ("jobs",),
}
_ALONE = frozenset({"insert_one"})


@attrs.frozen
class Script:
    """A script as it is sent: once whole, then by its digest."""

    name: str
    text: str
    digest: str


@cache
def script(name: str) -> Script:
    """Return the script of this name with all that stands in front of it."""
    before = () if name in _ALONE else ("lib", *_BEFORE.get(name, ()))
    parts = [_read(part) for part in (*before, name)]
    text = "\n".join(parts)
    return Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest())


def _read(part: str) -> str:
    return (files(__name__) / f"{part}.lua").read_text("utf-8")
