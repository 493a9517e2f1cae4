"""Whose turn it is: in which partitions a claim looks, and when each has its next due instant."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

__all__ = ["Turns"]

_REMEMBERED = 100  # sets of queues that claims of one process ask for


class Turns:
    """What this process knows of the partitions: where there may be work, and what is due when."""

    def __init__(self, partitions: int) -> None:
        self._number = partitions
        self._lock = threading.Lock()
        self._next = 0
        self._hopeful: dict[frozenset[str] | None, set[int]] = {}
        self._due: dict[int, int | None] = {}

    def note(self, partition: int, queue: str) -> None:
        """A message came: there may be work in this partition, in all of them where it is below 0."""
        del queue  # who does not serve it finds out with one look
        with self._lock:
            for hopeful in self._hopeful.values():
                hopeful.update(range(self._number) if partition < 0 else (partition,))

    def order(self, queues: Sequence[str] | None) -> Iterator[int]:
        """Yield the partitions in which to look, those with hope in turn, at least one.

        A partition loses its hope when it is yielded; `found_more` gives it back.
        """
        key = None if queues is None else frozenset(queues)
        with self._lock:
            if len(self._hopeful) > _REMEMBERED:
                self._hopeful.clear()
            hopeful = self._hopeful.setdefault(key, set(range(self._number)))
            start, self._next = self._next, (self._next + 1) % self._number
            turn = [(start + step) % self._number for step in range(self._number)]
            wanted = [one for one in turn if one in hopeful] or turn[:1]
        for partition in wanted:
            with self._lock:
                hopeful.discard(partition)
            yield partition

    def found_more(self, queues: Sequence[str] | None, partition: int) -> None:
        """The partition gave all that was asked for, so there may be more."""
        with self._lock:
            hopeful = self._hopeful.get(None if queues is None else frozenset(queues))
            if hopeful is not None:
                hopeful.add(partition)

    def due(self, partition: int, next_due_at: int | None) -> int | None:
        """The partition's next due instant is this; return the earliest of all that are known."""
        with self._lock:
            self._due[partition] = next_due_at
            return min((at for at in self._due.values() if at is not None), default=None)
