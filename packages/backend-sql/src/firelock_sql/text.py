"""How lists and histories stand in text columns."""

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
    return tuple(json.loads(text)) if text else ()


def edges_text(parents: Sequence[Edge]) -> str | None:
    """Return a job's ties to its parents as a column holds them."""
    return json.dumps([[edge.parent_id, edge.on.value] for edge in parents]) if parents else None


def read_edges(text: str | None) -> tuple[Edge, ...]:
    """Return what `edges_text` wrote."""
    return tuple(Edge(parent_id, _ON[on]) for parent_id, on in json.loads(text)) if text else ()


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
    if entry.elided:
        fields.append(entry.elided)
    while fields[-1] is None:
        fields.pop()
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n"


def _read_line(line: str) -> HistoryEntry:
    state, *rest = json.loads(line)
    return HistoryEntry(STATES[state], *rest)


def read_history(created_at: int, creation: str | None, lines: str) -> list[HistoryEntry]:
    """Return a job's history, its middle left out where it is long."""
    first = HistoryEntry(State.ENQUEUED, created_at) if creation is None else _read_line(creation)
    history = [first]
    for line in lines.split("\n")[:-1]:  # not splitlines(): a reason may hold separators of its own
        history = bounded_history(history, _read_line(line))
    return history


def compacted(created_at: int, creation: str | None, lines: str) -> str:
    """Return the lines of a long history without its middle; what is read from them stays the same."""
    return "".join(map(entry_line, read_history(created_at, creation, lines)[1:]))
