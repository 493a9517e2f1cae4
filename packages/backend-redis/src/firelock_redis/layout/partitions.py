"""The partitions of the keys: the partition of each job, and the order in which claims visit the partitions.

All keys of a partition have the same hash tag, so each verb runs in a partition as one script on one node.
The last two digits of a job's id contain its partition. The jobs that recurring jobs create have derived ids.
These ids belong to the first partition, which also contains the definitions.
"""

from __future__ import annotations

import re
import threading
import time
from binascii import crc_hqx
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from random import SystemRandom
from typing import TypeVar

from firelock.storage import ANY_QUEUE, ClaimedJob, new_id, new_ids

T = TypeVar("T")

SLOTS = 16_384
_TOGETHER = 500  # number of consecutive ids in one partition, so that one call stores a batch
_DERIVED = "5"  # the UUID version of ids that are derived from a definition and a time


def tag_of(partition: int, partitions: int) -> str:
    """Return the hash tag of a partition: the string between the braces of its keys.

    The tag is chosen by its slot, so that the partitions are distributed evenly among the slots and therefore
    among the nodes.
    """
    first, end = partition * SLOTS // partitions, (partition + 1) * SLOTS // partitions
    tags = (f"{partition}" if number == 0 else f"{partition}.{number}" for number in count())
    return next(tag for tag in tags if first <= crc_hqx(tag.encode(), 0) % SLOTS < end)


class Partitions:
    """The partitions of one prefix."""

    def __init__(self, prefix: str, number: int) -> None:
        self.number = number
        self.bases = [f"{prefix}:{{{tag_of(one, number)}}}" for one in range(number)]
        self._lock = threading.Lock()
        self.begin_anywhere()

    def begin_anywhere(self) -> None:
        """Continue at a random partition, because the next partition is often on the same node."""
        self._created = SystemRandom().randrange(self.number) * _TOGETHER

    def of(self, id: str) -> int:
        """Return the partition of a job id, or the partition that the hash of any other string determines."""
        if self.number == 1 or id[14:15] == _DERIVED:
            return 0
        try:
            return int(id[-2:], 16) % self.number
        except ValueError:
            return crc_hqx(id.encode(errors="surrogatepass"), 0) % self.number

    def of_key(self, key: str) -> int:
        """Return the partition of a limit key or unique key.

        Only the part before the first / determines the partition, so keys that are equal up to there share a
        partition. In that part, everything up to the last blank is ignored, because a unique key contains its
        task there.
        """
        place = key.partition("/")[0].rpartition(" ")[2]
        return crc_hqx(place.encode(errors="surrogatepass"), 0) % self.number

    def by_partition(self, things: Iterable[T], id_of: Callable[[T], str] = str) -> dict[int, list[T]]:
        """Group items by the partition of their jobs; `id_of` returns the job id of an item."""
        found: dict[int, list[T]] = {}
        for thing in things:
            found.setdefault(self.of(id_of(thing)), []).append(thing)
        return found

    def new_ids(self, count: int, colocate_with: str | Sequence[str | None] | None) -> list[str]:
        """Return the given number of new ids in ascending order.

        With `colocate_with`, the ids belong to the partition of that parent or key. Otherwise, the partitions
        take turns, and each gets 500 consecutive ids.
        """
        ids = [new_id()] if count == 1 else new_ids(count)
        if self.number == 1:
            return ids
        if isinstance(colocate_with, str):
            partition = self._of_id_or_key(colocate_with)
            return [self._placed(id, partition) for id in ids]
        if colocate_with is not None:
            return [
                self._placed(id, self._next(1) if one is None else self._of_id_or_key(one))
                for id, one in zip(ids, colocate_with, strict=True)
            ]
        if count == 1:
            return [self._placed(ids[0], self._next(1))]
        return [
            self._placed(id, partition)
            for start in range(0, count, _TOGETHER)
            for partition in [self._next(_TOGETHER)]
            for id in ids[start : start + _TOGETHER]
        ]

    def _of_id_or_key(self, id_or_key: str) -> int:
        return self.of(id_or_key) if _is_id(id_or_key) else self.of_key(id_or_key)

    def _next(self, count: int) -> int:
        with self._lock:
            self._created += count
            return self._created // _TOGETHER % self.number

    def _placed(self, id: str, partition: int) -> str:
        return f"{id[:-2]}{partition:02x}"


def _is_id(text: str) -> bool:
    """Return whether the string is the id of a job, not a limit key or unique key."""
    return _ID.fullmatch(text) is not None


_ID = re.compile(r"[0-9a-f-]{30,}")

EVERYWHERE, FIRST = -1, 0  # all partitions; the partition of recurring jobs, locks and records

_REMEMBERED = 1_000  # queues from which this process claims


class PartitionTurns:
    """The partitions that might have work according to this process, and the next one in turn."""

    def __init__(self, partitions: int) -> None:
        self._number = partitions
        self._lock = threading.Lock()
        self._next = 0
        # The partitions that might have work, by queue; the key None stands for claims from every queue.
        self._candidates: dict[str | None, set[int]] = {}
        # Queues for which the last claim visited every partition and found no jobs.
        self._empty: set[str | None] = set()
        self._due: dict[int, int | None] = {}
        # The time of the next check by the storage's clock and by the local clock, by partition.
        self._next_claims: dict[int, tuple[int, float]] = {}

    # ---- notifications and results -----------------------------------------------------------------------

    def note(self, partition: int, queue: str = ANY_QUEUE) -> None:
        """Note that this partition might have work in this queue; a negative number means every partition."""
        concerned = range(self._number) if partition < 0 else (partition,)
        with self._lock:
            if queue == ANY_QUEUE:
                for candidates in self._candidates.values():
                    candidates.update(concerned)
            else:
                for name in (queue, None):
                    if name in self._candidates:
                        self._candidates[name].update(concerned)

    def found(
        self, queues: Sequence[str] | None, partition: int, jobs: Sequence[ClaimedJob], wanted: int
    ) -> None:
        """Note the jobs that a claim returned.

        If the claim returned as many jobs as requested, the queue of the last job and later queues might have
        more jobs.
        """
        with self._lock:
            if jobs:
                self._next = (partition + 1) % self._number
                self._empty.difference_update(_names(queues))
            if len(jobs) < wanted:
                return
            names = _names(queues)
            if jobs and jobs[-1].queue in names:
                names = names[names.index(jobs[-1].queue) :]
            for name in names:
                self._candidates.setdefault(name, set()).add(partition)

    def due(self, partition: int, next_due_at: int | None) -> int | None:
        """Store the partition's next due time; return the earliest known due time of all partitions."""
        with self._lock:
            self._due[partition] = next_due_at
            return min((at for at in self._due.values() if at is not None), default=None)

    @property
    def has_next_claim(self) -> bool:
        """Whether a time is known at which the lanes of at least one partition must be checked again."""
        return bool(self._next_claims)

    def note_next_claim(
        self, partition: int, offset: int, at: int | None = None, wait: int = 0, *, has_checked: bool = True
    ) -> int | None:
        """Store the time at which the partition's lanes must be checked again.

        Return the earliest of these times over all partitions.

        Args:
            partition: the partition.
            offset: microseconds that tests add to the clock.
            at: the time by the storage's clock; None if no check is needed.
            wait: microseconds from now until that time.
            has_checked: whether the claim checked the lanes; if not, None for `at` does not change anything.
        """
        with self._lock:
            if at is None and has_checked:
                self._next_claims.pop(partition, None)
            elif at is not None:
                self._next_claims[partition] = at, _local_micros() + offset + wait
            return min((at for at, _ in self._next_claims.values()), default=None)

    # ---- order of the partitions -------------------------------------------------------------------------

    def order(
        self, queues: Sequence[str] | None, claimed: Sequence[ClaimedJob], offset: int = 0
    ) -> Iterator[int]:
        """Yield the partitions to claim from; partitions that might have work come first.

        These are ordered by the first queue for which they might have work. Partitions with the same first
        queue are visited in turn. If these partitions had no jobs, other partitions follow. The first time,
        all other partitions follow, because a notification might be late; afterwards, only the next one in
        turn follows. A yielded partition no longer counts as having work, until `found` notes more.

        Args:
            queues: the queues of the claim, None for all.
            claimed: the jobs of the claim. The caller adds the jobs of a partition before it requests the
                next partition.
            offset: microseconds that tests add to the clock.
        """
        names = _names(queues)
        with self._lock:
            if len(self._candidates) > _REMEMBERED:
                self._candidates.clear()
            turn = [(self._next + offset) % self._number for offset in range(self._number)]
            sets = [self._candidates.setdefault(name, set(turn)) for name in names]
            if self._next_claims:
                now = _local_micros() + offset
                sets[0].update(one for one, (_, at) in self._next_claims.items() if at <= now)
            candidates = list(dict.fromkeys(one for one_set in sets for one in turn if one in one_set))
        for partition in candidates:
            with self._lock:
                for one_set in sets:
                    one_set.discard(partition)
            yield partition
        if claimed:
            return
        others = [one for one in turn if one not in candidates]
        with self._lock:
            if is_empty := self._empty.issuperset(names):
                self._next = (self._next + 1) % self._number
        yield from others[:1] if is_empty else others
        if not claimed:
            with self._lock:
                self._empty.update(names)


def _local_micros() -> int:
    return time.monotonic_ns() // 1_000


def _names(queues: Sequence[str] | None) -> list[str | None]:
    return [None] if queues is None else list(dict.fromkeys(queues))
