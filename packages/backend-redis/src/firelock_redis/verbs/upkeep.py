"""Upkeep of the storage: due jobs, children of ended parents, and jobs that need not be kept any longer.

Each verb runs a script in one partition after another, and repeats it in each partition as often as needed.
Each call of the script handles so few jobs that other calls are not noticeably delayed.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

from typing_extensions import override

from firelock.storage import Moved, Promotion, Rollup
from firelock_redis.connections.database import RedisDatabase, RedisVerbs
from firelock_redis.layout.encoding import quoted
from firelock_redis.layout.partitions import EVERYWHERE
from firelock_redis.layout.words import AddedRollup
from firelock_redis.verbs.insert import RULES
from firelock_redis.verbs.records import repair_pauses
from firelock_redis.verbs.sessions import prune_sessions

_AT_ONCE = 250  # maximum number of jobs that one script call changes
_RECORDED_AT_ONCE = 100
_SESSIONS_AT_ONCE = 250  # maximum number of sessions that one script call deletes
# Seconds between two searches for unused keys if calls reach their limit, and seconds between two searches
# for sessions that are alive only in other partitions.
_KEYS_EVERY, _STRAYS_EVERY = 1.0, 10.0
_KEYS_AT_ONCE = 250  # maximum number of keys that one script call checks
_order = attrgetter("minute", "task", "queue", "outcome")
_DUE, _HOLD_EXPIRED = quoted(Moved.DUE.value), quoted(Moved.HOLD_EXPIRED.value)
_PARENT_GONE = quoted(Moved.PARENT_GONE.value)


# ---- due times -------------------------------------------------------------------------------------------


def earliest_due_at(database: RedisDatabase) -> int | None:
    """Return the earliest due time of a scheduled or recurring job, with one round trip per partition."""
    replies = database.run_everywhere("upkeep.due", 0)
    return _earliest(reply[0] for reply in replies)


class UpkeepVerbs(RedisVerbs):
    """The verbs of upkeep."""

    _keys_at = _strays_at = 0.0  # monotonic time of the next search of each kind

    @override
    def promote(self, limit: int) -> Promotion:
        """See `Storage.promote`.

        The due times of all partitions are read first, so that the oldest jobs are enqueued first.

        If the partitions have different pauses, one of them has missed a change. So the pauses of the first
        partition are copied to all partitions.
        """
        if self._partitions.number == 1:
            promoted, next_due = _promote(self.database, 0, limit)
            return Promotion(promoted, _micros(next_due))
        replies = self.database.run_everywhere("upkeep.due", limit)
        next_dues = [reply[0] for reply in replies]
        if len({reply[1] for reply in replies}) > 1:
            repair_pauses(self.database)
        promoted = 0
        for partition, share in _shares(replies, limit).items():
            moved, next_dues[partition] = _promote(self.database, partition, share)
            promoted += moved
        if promoted:
            self._turns.note(EVERYWHERE)
        return Promotion(promoted, _earliest(next_dues))

    @override
    def release(self, limit: int) -> int:
        checked, _ = _in_batches(self.database, "upkeep.release", limit, RULES)
        if checked:
            self._turns.note(EVERYWHERE)
        return checked

    @override
    def prune(self, limit: int) -> int:
        """See `Storage.prune`. This takes one round trip per partition if nothing can be pruned."""
        pruned, (is_past, has_keys, has_freed) = _in_batches(self.database, "prune", limit, _PARENT_GONE)
        if has_freed:
            self._turns.note(EVERYWHERE)
        now = time.monotonic()
        if has_keys and (pruned < limit or now >= self._keys_at):
            self._keys_at = now + _KEYS_EVERY
            self.database.run_everywhere("limit_keys.forget", min(limit, _KEYS_AT_ONCE))
        if is_past or (pruned < limit and self._is_time_for_strays(now)):
            prune_sessions(self.database, min(limit, _SESSIONS_AT_ONCE))
        return pruned

    def _is_time_for_strays(self, now: float) -> bool:
        """Return whether it is time to search for sessions that are alive only in other partitions.

        The search takes one round trip per partition.
        """
        if self._partitions.number == 1 or now < self._strays_at:
            return False
        self._strays_at = now + _STRAYS_EVERY
        return True

    # ---- rollups, in the first partition -----------------------------------------------------------------

    @override
    def record_metrics(self, rollups: Sequence[Rollup]) -> None:
        """See `Storage.record_metrics`. This takes one script and one round trip per hundred rollups."""
        for first in range(0, len(rollups), _RECORDED_AT_ONCE):
            arguments: list[object] = []
            for one in rollups[first : first + _RECORDED_AT_ONCE]:
                figures = " ".join(map(str, (one.count, one.duration, *one.histogram)))
                field = _texts(one.task, one.queue, one.outcome)
                arguments += AddedRollup(minute=one.minute, field=field, figures=figures)
            self._run("metrics.record", 0, *arguments)

    @override
    def timeline(
        self, since: int, until: int, *, task: str | None = None, queue: str | None = None
    ) -> list[Rollup]:
        """See `Storage.timeline`. This takes about one round trip per 500 rollups."""
        begins = "" if task is None else _texts(task)[:-1] + ","
        contains = "" if queue is None else "," + _texts(queue)[1:-1] + ","
        found: list[Rollup] = []
        following: object = since
        while following != "":
            following, *minutes = self._run("metrics.timeline", 0, following, until, begins, contains)
            found += (
                one
                for one in sorted(_read(minutes), key=_order)
                if task in {None, one.task} and queue in {None, one.queue}
            )
        return found


def _shares(replies: Sequence[Sequence[str]], limit: int) -> Counter[int]:
    """Return the number of the oldest due jobs in each partition."""
    due = ((_micros(at) or 0, partition) for partition, reply in enumerate(replies) for at in reply[2:])
    return Counter(partition for _, partition in sorted(due)[:limit])


def _promote(database: RedisDatabase, partition: int, limit: int) -> tuple[int, str]:
    """Enqueue due jobs of a partition; return their number, and the partition's next due time as a string."""
    promoted = 0
    while True:
        asked = min(limit - promoted, _AT_ONCE)
        moved, next_due = database.run("upkeep.promote", partition, asked, _DUE, _HOLD_EXPIRED)
        promoted += moved
        if moved < asked or promoted >= limit:
            return promoted, next_due


def _earliest(times: Iterator[str] | Sequence[str]) -> int | None:
    known = (_micros(text) for text in times)
    return min((time for time in known if time is not None), default=None)


def _micros(text: str) -> int | None:
    return int(float(text)) if text else None


# ---- batches ---------------------------------------------------------------------------------------------


def _in_batches(database: RedisDatabase, script: str, limit: int, argument: str) -> tuple[int, list[bool]]:
    """Run a script until there is no more work or the limit is reached; return the number of changed jobs.

    Also return, for each of three kinds of follow-up work, whether a script call has reported such work.
    """
    done, kinds, number = 0, [False] * 3, database.partitions.number
    # Start at a random partition, so that early limits do not always affect the same partitions.
    start = random.randrange(number)  # noqa: S311 - an order, not a secret
    for offset in range(number):
        more = 1
        while more and done < limit:
            asked = min(limit - done, _AT_ONCE)
            moved, more, *others = database.run(script, (start + offset) % number, asked, argument)
            done += moved
            for place, is_reported in enumerate(others):
                kinds[place] = kinds[place] or is_reported == 1
    return done, kinds


# ---- rollups ---------------------------------------------------------------------------------------------


def _texts(*texts: str) -> str:
    return json.dumps(texts, ensure_ascii=False, separators=(",", ":"))


def _read(minutes: Sequence[Any]) -> Iterator[Rollup]:
    for minute, stored in zip(minutes[::2], minutes[1::2], strict=True):
        for texts, figures in zip(stored[::2], stored[1::2], strict=True):
            task, queue, outcome = json.loads(texts)
            count, duration, *histogram = map(int, figures.split(" "))
            yield Rollup(
                minute=int(minute),
                task=task,
                queue=queue,
                outcome=outcome,
                count=count,
                duration=duration,
                histogram=tuple(histogram),
            )
