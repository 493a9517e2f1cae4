"""What several handles of one name share."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import ClassVar, Self
from weakref import WeakValueDictionary

from firelock.memory.order import Order
from firelock.memory.records import Records
from firelock.memory.sessions import Sessions
from firelock.memory.table import Row, Table


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
        elif kind == "recurring":
            self.is_recurring_stale = True
        else:
            return
        self.changed.notify_all()

    def _note_queue(self, queue: str) -> None:
        record = self.records.get("queue", queue)
        settings = json.loads(record.value) if record else None
        if isinstance(settings, dict) and settings.get("paused") is True:
            self._paused.add(queue)
        else:
            self._paused.discard(queue)

    def has_ready(self, queues: Sequence[str] | None) -> bool:
        """Tell whether a claim of these queues would take something."""
        ready = self.table.ready
        wanted = ready if queues is None else queues
        return any(queue in ready and queue not in self._paused for queue in wanted)

    def next_ready(self, queues: Sequence[str] | None, limit: int) -> list[Row]:
        """Return up to `limit` rows that a claim of these queues takes, in its order."""
        ready = self.table.ready
        names = sorted(ready) if queues is None else dict.fromkeys(queues)
        lines = {name: ready[name] for name in names if name in ready and name not in self._paused}
        ids = self._in_turn(lines, limit) if queues is None else _one_after_another(lines, limit)
        return [self.table.rows[id] for id in ids]

    def _in_turn(self, lines: dict[str, Order], limit: int) -> list[str]:
        """Return one id of each queue in turn, beginning behind the queue that served last."""
        following = [name for name in lines if name > self._served]
        turns = {name: lines[name].after() for name in [*following, *lines]}
        ids: list[str] = []
        while turns and len(ids) < limit:
            for name in list(turns)[: limit - len(ids)]:
                entry = next(turns[name], None)
                if entry is None:
                    del turns[name]
                else:
                    ids.append(entry[1])
                    self._served = name
        return ids


def _one_after_another(lines: dict[str, Order], limit: int) -> list[str]:
    ids: list[str] = []
    for line in lines.values():
        for _, id in line.after():
            if len(ids) >= limit:
                return ids
            ids.append(id)
    return ids
