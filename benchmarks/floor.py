"""The code that the floors on all storages share: ids, a job that does nothing, ten threads, batches."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import TypeVar

BATCH = 100
WORKERS = 10
SESSION = "floor-session"
RETENTION = 86_400_000_000

Claimed = tuple[str, str, str, int, int, int]
"""A claimed row: id, task, arguments, attempt, fence, claimed_at."""
Ended = tuple[int, int, str, str, int, str, str, int]
"""The values of an ended row: started_at, ended_at, result, history entry, expires_at, id, session, fence."""
C = TypeVar("C")
E = TypeVar("E")
Pace = Callable[[int], int]
"""A function of the number of ended jobs that returns how many jobs to claim next; 0 ends the run."""


def micros() -> int:
    """Return microseconds since the epoch."""
    return time.time_ns() // 1000


def job_ids() -> Iterator[str]:
    """Yield time-ordered ids of 36 characters: milliseconds, a counter, a random part of this process."""
    origin = os.urandom(6).hex()
    for number in count():
        milliseconds = f"{time.time_ns() // 1_000_000:012x}"
        middle = f"{0x7000 | (number >> 14) & 0xFFF:04x}-{0x8000 | number & 0x3FFF:04x}"
        yield f"{milliseconds[:8]}-{milliseconds[8:]}-{middle}-{origin}"


def noop(_arguments: str) -> None:
    """Do nothing, as the job."""


def work(inbox: queue.SimpleQueue[Claimed | None], outbox: queue.SimpleQueue[Ended]) -> None:
    """Run each job from the inbox, and put the values to settle it into the outbox."""
    while (claimed := inbox.get()) is not None:
        job_id, _, arguments, attempt, fence, claimed_at = claimed
        started_at = micros()
        noop(arguments)
        ended_at = micros()
        times = f'"c":{claimed_at},"s":{started_at},"e":{ended_at}'
        entry = f'{{"a":{attempt},{times},"on":"floor","to":"succeeded"}}'
        outbox.put((started_at, ended_at, "null", entry, ended_at + RETENTION, job_id, SESSION, fence))


def in_batches(_ended: int) -> int:
    """Return the size of a full batch."""
    return BATCH


def drain(
    exchange: Callable[[Sequence[E], int], Sequence[C]],
    work: Callable[[queue.SimpleQueue[C | None], queue.SimpleQueue[E]], None],
    *,
    pace: Pace = in_batches,
) -> None:
    """Run ready jobs on ten threads until no job is left, or the pace is 0.

    `exchange` settles the ended jobs of the previous batch and claims the next batch.
    """
    inbox: queue.SimpleQueue[C | None] = queue.SimpleQueue()
    outbox: queue.SimpleQueue[E] = queue.SimpleQueue()
    threads = [threading.Thread(target=work, args=(inbox, outbox)) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    ended = 0
    claimed = exchange([], pace(ended))
    while claimed:
        for job in claimed:
            inbox.put(job)
        batch = [outbox.get() for _ in claimed]
        ended += len(batch)
        claimed = exchange(batch, pace(ended))
    for _ in threads:
        inbox.put(None)
    for thread in threads:
        thread.join()
