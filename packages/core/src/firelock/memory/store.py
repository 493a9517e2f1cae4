"""What several handles of one name share."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import ClassVar, Self
from weakref import WeakValueDictionary

from firelock.memory.records import Records
from firelock.memory.sessions import Sessions
from firelock.memory.table import Table
from firelock.storage import StoredJob, selection


class Store:
    """The jobs, sessions and records of one name; whoever touches them holds `changed`."""

    _named: ClassVar[WeakValueDictionary[str, Store]] = WeakValueDictionary()
    _naming: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.clear()

    @classmethod
    def named(cls, name: str) -> Store:
        """Return the store that every open handle of this name shares, a new one for no name."""
        if not name:
            return cls()
        with cls._naming:
            return cls._named.setdefault(name, cls())

    def clear(self) -> None:
        """Nothing is stored."""
        self.table = Table()
        self.sessions = Sessions()
        self.records = Records()
        self.recurring_due_at: int | None = None
        self.is_recurring_stale = False
        self._paused: set[str] = set()
        self._served = ""  # the queue that served last where a claim named none

    def __enter__(self) -> Self:
        self.changed.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.changed.release()

    def note_record(self, kind: str, key: str) -> None:
        """What is derived from the record follows it, and those who wait look again."""
        if kind == "queue":
            self._note_queue(key)
        elif kind in {"recurring", "due"}:
            self.is_recurring_stale = True
        else:
            return
        self.changed.notify_all()

    def _note_queue(self, queue: str) -> None:
        if selection.is_pausing(self.records.get("queue", queue)):
            self._paused.add(queue)
        else:
            self._paused.discard(queue)

    def has_ready(self, queues: Sequence[str] | None) -> bool:
        """Tell whether a claim of these queues would take something."""
        ready = self.table.ready
        wanted = ready if queues is None else queues
        return any(queue in ready and queue not in self._paused for queue in wanted)

    def next_ready(self, queues: Sequence[str] | None, limit: int) -> list[StoredJob]:
        """Return up to `limit` jobs that a claim of these queues takes, in its order."""
        ready = self.table.ready
        names = ready if queues is None else queues
        lines = {name: ready[name].after() for name in names if name in ready and name not in self._paused}
        entries = selection.next_in_line(lines, queues, limit, served=self._served)
        rows = [self.table.rows[id] for _, id in entries]
        if rows and queues is None:
            self._served = rows[-1].record.queue
        return rows
