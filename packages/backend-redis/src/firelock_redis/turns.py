"""Whose turn it is: in which partitions a claim looks, and when each has its next due instant.

A claim sees one partition, so a process remembers where there may be work: everywhere at first, then where it
was told of some, where it stored some itself, and where a claim got all that it asked for. A partition that a
claim emptied has no hope until then. Where there is no hope anywhere, a claim looks everywhere once more, and
from then on in one partition each time: that is the poll, and what a lost message costs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from firelock.storage import ClaimedJob
from firelock_redis.wake import ANYTHING

__all__ = ["EVERYWHERE", "FIRST", "Turns"]

EVERYWHERE, FIRST = -1, 0  # partitions: all of them; the one of recurring jobs, locks and records

_REMEMBERED = 1_000  # queues that this process claims from


class Turns:
    """What this process knows of the partitions."""

    def __init__(self, partitions: int) -> None:
        self._number = partitions
        self._lock = threading.Lock()
        self._next = 0
        self._hope: dict[str | None, set[int]] = {}  # by queue, None for claims from every queue
        self._looked: set[str | None] = set()  # those for which the last look everywhere found nothing
        self._due: dict[int, int | None] = {}

    # ---- what is heard and done --------------------------------------------------------------------------

    def note(self, partition: int, queue: str = ANYTHING) -> None:
        """There may be work of this queue in this partition, in every one where it is below 0."""
        concerned = range(self._number) if partition < 0 else (partition,)
        with self._lock:
            if queue == ANYTHING:
                for hopeful in self._hope.values():
                    hopeful.update(concerned)
            else:
                for name in (queue, None):
                    if name in self._hope:
                        self._hope[name].update(concerned)

    def found(
        self, queues: Sequence[str] | None, partition: int, jobs: Sequence[ClaimedJob], wanted: int
    ) -> None:
        """A claim got these jobs; if all it asked for, there may be more, of the last one's queue on."""
        with self._lock:
            if jobs:
                self._next = (partition + 1) % self._number
                self._looked.difference_update(_names(queues))
            if len(jobs) < wanted:
                return
            names = _names(queues)
            if jobs and jobs[-1].queue in names:
                names = names[names.index(jobs[-1].queue) :]
            for name in names:
                self._hope.setdefault(name, set()).add(partition)

    def due(self, partition: int, next_due_at: int | None) -> int | None:
        """The partition's next due instant is this; return the earliest of all that are known."""
        with self._lock:
            self._due[partition] = next_due_at
            return min((at for at in self._due.values() if at is not None), default=None)

    # ---- where to look -----------------------------------------------------------------------------------

    def order(self, queues: Sequence[str] | None) -> Iterator[int]:
        """Yield the partitions to claim in: by the first queue that each has hope for, and then in turn.

        A partition loses its hope when it is yielded; `found` gives it back.
        """
        names = _names(queues)
        with self._lock:
            if len(self._hope) > _REMEMBERED:
                self._hope.clear()
            turn = [(self._next + step) % self._number for step in range(self._number)]
            hopes = [self._hope.setdefault(name, set(turn)) for name in names]
            wanted = list(dict.fromkeys(one for hope in hopes for one in turn if one in hope))
            if not wanted:
                wanted = self._without_hope(names, turn)
        for partition in wanted:
            with self._lock:
                for hope in hopes:
                    hope.discard(partition)
            yield partition

    def _without_hope(self, names: Sequence[str | None], turn: list[int]) -> list[int]:
        if self._looked.issuperset(names):
            self._next = (self._next + 1) % self._number
            return turn[:1]
        self._looked.update(names)
        return turn


def _names(queues: Sequence[str] | None) -> list[str | None]:
    return [None] if queues is None else list(dict.fromkeys(queues))
