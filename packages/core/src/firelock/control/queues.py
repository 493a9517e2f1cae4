"""`fire.queues`: all queues that have jobs or settings; pausing and resuming them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs

from firelock.jobs.job import as_datetime
from firelock.model.aio import twin
from firelock.model.state import State
from firelock.options import check_queue
from firelock.storage.derived import every_record

if TYPE_CHECKING:
    from firelock.jobs.client import Client


@attrs.frozen
class QueueView:
    """The current state of a queue."""

    name: str
    enqueued: int
    processing: int
    scheduled: int
    is_paused: bool
    note: str | None  # reason for the pause
    paused_by: str | None = None  # user who paused the queue; None if unknown or not paused
    paused_at: datetime | None = None  # time of the pause; None if the queue is not paused


class Queues:
    """All queues that have jobs or settings: `fire.queues`. `pause` and `resume` act immediately."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> list[QueueView]:
        """Return all queues with their numbers of jobs, in order of name."""
        storage = self._client.storage
        by_queue = storage.counts().by_queue
        settings = {record.key: json.loads(record.value) for record in every_record(storage, "queue")}
        return [
            _queue_view(name, by_queue.get(name, {}), settings.get(name, {}))
            for name in sorted({*by_queue, *settings})
        ]

    alist = twin(list)  # noqa: A003 - the method above

    def pause(self, name: str, *, note: str | None = None, by: str | None = None) -> None:
        """Stop claiming jobs of the queue on all servers; running jobs continue.

        Args:
            name: the name of the queue.
            note: the reason, which is shown to users.
            by: the operator's name, which is shown to users.
        """
        self._change(name, {"paused": True, "note": note, "by": by, "at": self._client.clock.now()})

    apause = twin(pause)

    def resume(self, name: str) -> None:
        """Claim jobs of the queue again."""
        self._change(name, {"paused": False})

    aresume = twin(resume)

    def _change(self, name: str, settings: Mapping[str, object]) -> None:
        """Replace the settings that this release can read; keep those that a newer release stored."""
        storage, key = self._client.storage, check_queue(name)
        while True:
            record = storage.get_record("queue", key)
            more = {} if record is None else _unknown_settings(record.value)
            value = json.dumps({**settings, **more})
            version = 0 if record is None else record.version
            if storage.put_record("queue", key, value, expected_version=version) is not None:
                return


_KNOWN = frozenset({"paused", "note", "by", "at"})


def _unknown_settings(text: str) -> dict[str, object]:
    try:
        stored = json.loads(text)
    except ValueError:
        return {}
    return (
        {name: value for name, value in stored.items() if name not in _KNOWN}
        if isinstance(stored, dict)
        else {}
    )


def _queue_view(name: str, counts: Mapping[State, int], settings: Mapping[str, Any]) -> QueueView:
    is_paused = bool(settings.get("paused"))
    return QueueView(
        name,
        counts.get(State.ENQUEUED, 0),
        counts.get(State.PROCESSING, 0),
        counts.get(State.SCHEDULED, 0),
        is_paused,
        settings.get("note"),
        settings.get("by") if is_paused else None,
        as_datetime(settings.get("at")) if is_paused else None,
    )
