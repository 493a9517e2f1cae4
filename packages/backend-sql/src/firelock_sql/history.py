"""How lists and histories stand in text columns.

What cannot be read reads as nothing: a line that somebody wrote by hand must not keep a job from being shown,
or others from being claimed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from firelock.storage import HISTORY_LIMIT, Edge, HistoryEntry, On, State, bounded_history

__all__ = [
    "COMPACT_FROM",
    "STATES",
    "compacted",
    "edges_text",
    "entry_line",
    "list_text",
    "read_edges",
    "read_history",
    "read_list",
    "read_state",
]

COMPACT_FROM = 2 * HISTORY_LIMIT
"""Lines of history from which on the text is rewritten without its middle; reading bounds it anyway."""

STATES = {state.value: state for state in State}
_ON = {on.value: on for on in On}


def list_text(values: Sequence[str]) -> str | None:
    """Return texts as a column holds them: nothing for none."""
    return json.dumps(values, ensure_ascii=False) if values else None


def read_list(text: str | None) -> tuple[str, ...]:
    """Return what `list_text` wrote."""
    try:
        return tuple(map(str, json.loads(text))) if text else ()
    except (TypeError, ValueError):
        return ()


def edges_text(parents: Sequence[Edge]) -> str | None:
    """Return a job's ties to its parents as a column holds them."""
    return json.dumps([[edge.parent_id, edge.on.value] for edge in parents]) if parents else None


def read_edges(text: str | None) -> tuple[Edge, ...]:
    """Return what `edges_text` wrote."""
    try:
        return tuple(Edge(parent_id, _ON[on]) for parent_id, on in json.loads(text)) if text else ()
    except (KeyError, TypeError, ValueError):
        return ()


def read_state(text: str) -> State:
    """Return the state of that name; a job in a state that nobody knows is one that has failed."""
    return STATES.get(text, State.FAILED)


def entry_line(entry: HistoryEntry) -> str:
    """Return one step of a job's life as one line."""
    fields: list[object] = [
        entry.state.value,
        entry.at,
        entry.reason,
        entry.attempt,
        entry.claimed_at,
        entry.started_at,
        entry.server,
    ]
    if entry.elided or entry.due_at is not None:
        fields += [entry.elided, entry.due_at]
    while fields[-1] is None:
        fields.pop()
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n"


def _read_line(line: str) -> HistoryEntry | None:
    try:
        state, *rest = json.loads(line)
        return HistoryEntry(STATES[state], *rest)
    except (KeyError, TypeError, ValueError):
        return None


def read_history(created_at: int, creation: str | None, lines: str) -> list[HistoryEntry]:
    """Return a job's history, its middle left out where it is long."""
    first = None if creation is None else _read_line(creation)
    history = [first or HistoryEntry(State.ENQUEUED, created_at)]
    for line in lines.split("\n")[:-1]:  # not splitlines(): a reason may hold separators of its own
        if (entry := _read_line(line)) is not None:
            history = bounded_history(history, entry)
    return history


def compacted(created_at: int, creation: str | None, lines: str) -> str:
    """Return the lines of a long history without its middle; what is read from them stays the same."""
    return "".join(map(entry_line, read_history(created_at, creation, lines)[1:]))
