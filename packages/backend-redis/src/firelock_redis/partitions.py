"""Partitions: which one a job lies in, and the names under which the cluster spreads them.

All keys of a partition have one hash tag, so each of its verbs is one script on one node. The partition of a
job is in the last two digits of its id; derived ids, those of recurring jobs, lie in the first one, beside
their definitions.
"""

from __future__ import annotations

import threading
from binascii import crc_hqx
from itertools import count
from random import SystemRandom

from firelock.storage import new_id, new_ids

__all__ = ["Partitions", "tag_of"]

SLOTS = 16_384
_TOGETHER = 500  # ids made one after another for one partition: a batch of jobs is one step
_DERIVED = "5"  # the version of ids derived from a definition and an instant


def tag_of(partition: int, partitions: int) -> str:
    """Return the text between the braces of a partition's keys.

    It is chosen by its slot, so that the partitions lie evenly among the slots, and so among the nodes.
    """
    first, behind = partition * SLOTS // partitions, (partition + 1) * SLOTS // partitions
    tags = (f"{partition}" if number == 0 else f"{partition}.{number}" for number in count())
    return next(tag for tag in tags if first <= crc_hqx(tag.encode(), 0) % SLOTS < behind)


class Partitions:
    """The partitions of one prefix."""

    def __init__(self, prefix: str, number: int) -> None:
        self.number = number
        self.bases = [f"{prefix}:{{{tag_of(one, number)}}}" for one in range(number)]
        self._lock = threading.Lock()
        self._made = SystemRandom().randrange(number) * _TOGETHER

    def of(self, id: str) -> int:
        """Return the partition that the id says; any text is an id of one of them."""
        if self.number == 1 or id[14:15] == _DERIVED:
            return 0
        try:
            return int(id[-2:], 16) % self.number
        except ValueError:
            return crc_hqx(id.encode(errors="surrogatepass"), 0) % self.number

    def new_id(self, parent: str | None) -> str:
        """Return a new id: beside its parent, or in the partition whose turn it is."""
        if self.number == 1:
            return new_id()
        return self._placed(new_id(), self.of(parent) if parent is not None else self._next(1))

    def new_ids(self, count: int) -> list[str]:
        """Return so many new ids in ascending order, whole batches of them in one partition."""
        ids = new_ids(count)
        if self.number == 1:
            return ids
        return [
            self._placed(id, partition)
            for start in range(0, count, _TOGETHER)
            for partition in [self._next(_TOGETHER)]
            for id in ids[start : start + _TOGETHER]
        ]

    def _next(self, count: int) -> int:
        with self._lock:
            self._made += count
            return self._made // _TOGETHER % self.number

    def _placed(self, id: str, partition: int) -> str:
        return f"{id[:-2]}{partition:02x}"
