"""How many workers the jobs of a queue want: what an autoscaler asks."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import attrs

from firelock.storage import JobFilter, State
from firelock_dashboard.web.formatting import instant

if TYPE_CHECKING:
    from firelock import Firelock, LimitView, QueueView
    from firelock.control.findings import Sight
    from firelock.storage import Rollup
    from firelock_dashboard.stats.watch import Watch

_MICROS = 1_000_000
_AGE = 5.0  # seconds that an answer counts as new
_KEPT = 64  # answers
_DUE = 500  # scheduled jobs that are counted
_UNKNOWN_MEAN = 1.0  # seconds that a job is taken to last, where none of the queue ended within an hour


@attrs.frozen
class Demand:
    """What a queue, or all queues, want of an autoscaler. Paused queues want nothing but what runs."""

    queue: str | None  # None: all of them
    backlog: int  # jobs that wait, and those that will within the window
    enqueued: int
    due_soon: int  # scheduled jobs, retries too, that are due within the window; at most 500
    recurring_soon: int  # recurring jobs that fire within it
    processing: int
    held_by_limits: int  # jobs of the backlog that no worker could start now; at least so many
    oldest_wait_seconds: float  # of the job that has been enqueued for longest; 0 where none is
    mean_seconds: float  # of the attempts that ended within the last hour
    workers: int  # that listen to it now, shared with the other queues of their servers
    wanted_workers: int
    is_paused: bool


def wanted_workers(
    *, processing: int, backlog: int, mean_seconds: float, clear_within: float, most: int, held: int = 0
) -> int:
    """Return how many workers clear the backlog in time beside what runs; none more than jobs may run.

    What runs keeps its workers, and the backlog gets as many as its work, the mean time of a job each,
    divided by the time in which it is to be done; at least one where any job may run, so that none waits
    for ever. Jobs that limits hold are work that is to be done as well: as others end, they start.
    """
    jobs = processing + backlog - held
    needed = processing + math.ceil(backlog * mean_seconds / clear_within)
    return min(max(1, needed), jobs, most)


def held_jobs(keys: Iterable[LimitView]) -> int:
    """Return how many enqueued jobs find no free place under their limits' keys, at least.

    A job has a key of each of several names, so those of the name that holds most are counted, the others
    being perhaps the same jobs. A rate opens by itself, and holds nobody here.
    """
    held: Counter[str] = Counter()
    for key in keys:
        if key.is_paused:
            held[key.name] += key.waiting
        elif key.concurrent is not None:
            held[key.name] += max(0, key.waiting - max(0, key.concurrent - key.running))
    return max(held.values(), default=0)


class Scale:
    """Answers autoscalers, at most five seconds old, so that many of them cost one look."""

    def __init__(
        self, fire: Firelock, watch: Watch, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._fire = fire
        self._watch = watch
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kept: dict[tuple[str | None, int], tuple[float, Demand]] = {}

    def demand(self, queue: str | None, *, within: int, clear_within: int, most: int) -> Demand:
        """Return what a queue wants, or all of them.

        Args:
            queue: its name; None for all.
            within: seconds in which a scheduled job has to be due to count: the time that a start takes.
            clear_within: seconds in which the backlog is to be done.
            most: workers that are wanted at most.
        """
        with self._lock:
            read_at, found = self._kept.get((queue, within), (float("-inf"), None))
            if found is None or self._monotonic() - read_at > _AGE:
                found = self._look(queue, within)
                if len(self._kept) >= _KEPT:
                    self._kept.clear()
                self._kept[queue, within] = self._monotonic(), found
        wanted = wanted_workers(
            processing=found.processing, backlog=found.backlog, mean_seconds=found.mean_seconds,
            clear_within=clear_within, most=most, held=found.held_by_limits,
        )  # fmt: skip
        return attrs.evolve(found, wanted_workers=wanted)

    def _look(self, queue: str | None, within: int) -> Demand:
        sight = self._watch.sight()
        views = [view for view in sight.queues if queue in {None, view.name}]
        open_views = [view for view in views if not view.is_paused]
        names = {view.name for view in open_views}
        until = sight.now + within * _MICROS
        due = self._due(open_views, queue, until)
        paused = {view.name for view in views} - names
        firing = sum(
            one.record.due_at is not None and one.record.due_at <= until
            for one in sight.recurring
            if queue in {None, one.queue} and one.queue not in paused
        )
        enqueued = sum(view.enqueued for view in open_views)
        oldest = [sight.oldest[name] for name in names if name in sight.oldest]
        return Demand(
            queue=queue,
            backlog=enqueued + due + firing,
            enqueued=enqueued,
            due_soon=due,
            recurring_soon=firing,
            processing=sum(view.processing for view in views),
            held_by_limits=self._held(enqueued, sum(view.enqueued for view in sight.queues) - enqueued),
            oldest_wait_seconds=max(0, sight.now - min(oldest, default=sight.now)) / _MICROS,
            mean_seconds=self._mean(queue, sight.now),
            workers=_listening(sight, queue),
            wanted_workers=0,
            is_paused=bool(views) and not open_views,
        )

    def _due(self, views: Sequence[QueueView], queue: str | None, until: int) -> int:
        """Return how many scheduled jobs are due until then, of queues that are not paused."""
        if not any(view.scheduled for view in views):
            return 0
        names = {view.name for view in views}
        where = JobFilter(state=State.SCHEDULED, queue=queue, by_due=True, until=until)
        page = self._fire.jobs.page(where, limit=_DUE, oldest_first=True)
        return sum(job.queue in names for job in page)

    def _held(self, enqueued: int, elsewhere: int) -> int:
        """Return how many of the enqueued jobs wait for a place of a limit, at least.

        Who waits for a key is counted over all queues, so the jobs elsewhere are taken for those first.
        """
        held = held_jobs(self._watch.limit_keys()) if enqueued else 0
        return min(enqueued, max(0, held - elsewhere))

    def _mean(self, queue: str | None, now: int) -> float:
        until = instant(now) + timedelta(minutes=1)  # the present minute too
        rollups: list[Rollup] = self._fire.jobs.timeline(until - timedelta(hours=1), until, queue=queue)
        count = sum(one.count for one in rollups)
        return sum(one.duration for one in rollups) / count / _MICROS if count else _UNKNOWN_MEAN


def _listening(sight: Sight, queue: str | None) -> int:
    servers = sight.alive if queue is None else sight.listening(queue)
    return sum(server.workers for server in servers)
