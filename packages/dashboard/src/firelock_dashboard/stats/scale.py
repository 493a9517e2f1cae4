"""The number of workers that the jobs of a queue need, for an autoscaler."""

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
    from firelock.control.findings import Readings
    from firelock.storage import Rollup
    from firelock_dashboard.stats.watch import Watch

_MICROS = 1_000_000
_AGE = 5.0  # seconds for which a result is reused
_KEPT = 64  # results
_DUE = 500  # maximum number of scheduled jobs that are counted
_UNKNOWN_MEAN = 1.0  # assumed seconds per job if no job of the queue ended within an hour


@attrs.frozen
class Demand:
    """The demand for workers by one queue or all queues; for a paused queue, only running jobs count."""

    queue: str | None  # None: all queues
    backlog: int  # the number of waiting jobs, and of jobs that will become due within the window
    enqueued: int
    due_soon: int  # the number of scheduled jobs and retries that are due within the window; at most 500
    recurring_soon: int  # the number of recurring jobs that fire within the window
    processing: int
    held_by_limits: int  # a lower bound of the number of jobs in the backlog that no worker could start now
    oldest_wait_seconds: float  # the longest wait of an enqueued job; 0 if none is enqueued
    mean_seconds: float  # the mean duration of the attempts that ended within the last hour
    workers: int  # the number of workers that claim from the queue now, which may also serve other queues
    wanted_workers: int
    is_paused: bool


def wanted_workers(
    *, processing: int, backlog: int, mean_seconds: float, clear_within: float, most: int, held: int = 0
) -> int:
    """Return the number of workers that are needed for the running jobs and to finish the backlog in time.

    Each running job keeps its worker. The number for the backlog is its work (its jobs times the mean
    duration of a job) divided by the time within which it must be finished. Jobs that limits delay also count
    as work, because they start when others end. The result is at least one if any job can run, so that no job
    waits forever, and never more than the number of jobs that can run.
    """
    jobs = processing + backlog - held
    needed = processing + math.ceil(backlog * mean_seconds / clear_within)
    return min(max(1, needed), jobs, most)


def held_jobs(keys: Iterable[LimitView]) -> int:
    """Return a lower bound of the number of enqueued jobs that limits delay.

    A job can have keys of several limit names. So only the name that delays the most jobs is counted, because
    the jobs that other names delay might be the same ones. Rate limits are not counted, because time alone
    makes them available again.
    """
    held: Counter[str] = Counter()
    for key in keys:
        if key.is_paused:
            held[key.name] += key.waiting
        elif key.concurrent is not None:
            held[key.name] += max(0, key.waiting - max(0, key.concurrent - key.running))
    return max(held.values(), default=0)


class Scale:
    """The demand of queues for workers, for autoscalers.

    Results are cached for five seconds, so that many requests cost one read.
    """

    def __init__(
        self, fire: Firelock, watch: Watch, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._fire = fire
        self._watch = watch
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kept: dict[tuple[str | None, int], tuple[float, Demand]] = {}

    def demand(self, queue: str | None, *, within: int, clear_within: int, most: int) -> Demand:
        """Return the demand of one queue or of all queues.

        Args:
            queue: the name of the queue; None for all.
            within: seconds within which a scheduled job must be due to count; usually the time that a worker
                needs to start.
            clear_within: seconds within which the backlog must be finished.
            most: the maximum number of workers.
        """
        with self._lock:
            read_at, found = self._kept.get((queue, within), (float("-inf"), None))
            if found is None or self._monotonic() - read_at > _AGE:
                found = self._read_demand(queue, within)
                if len(self._kept) >= _KEPT:
                    self._kept.clear()
                self._kept[queue, within] = self._monotonic(), found
        wanted = wanted_workers(
            processing=found.processing, backlog=found.backlog, mean_seconds=found.mean_seconds,
            clear_within=clear_within, most=most, held=found.held_by_limits,
        )  # fmt: skip
        return attrs.evolve(found, wanted_workers=wanted)

    def _read_demand(self, queue: str | None, within: int) -> Demand:
        readings = self._watch.readings()
        views = [view for view in readings.queues if queue in {None, view.name}]
        open_views = [view for view in views if not view.is_paused]
        names = {view.name for view in open_views}
        until = readings.now + within * _MICROS
        due = self._due(open_views, queue, until)
        paused = {view.name for view in views} - names
        firing = sum(
            one.record.due_at is not None and one.record.due_at <= until
            for one in readings.recurring
            if queue in {None, one.queue} and one.queue not in paused
        )
        enqueued = sum(view.enqueued for view in open_views)
        oldest = [readings.oldest[name] for name in names if name in readings.oldest]
        return Demand(
            queue=queue,
            backlog=enqueued + due + firing,
            enqueued=enqueued,
            due_soon=due,
            recurring_soon=firing,
            processing=sum(view.processing for view in views),
            held_by_limits=self._held(enqueued, sum(view.enqueued for view in readings.queues) - enqueued),
            oldest_wait_seconds=max(0, readings.now - min(oldest, default=readings.now)) / _MICROS,
            mean_seconds=self._mean(queue, readings.now),
            workers=_listening(readings, queue),
            wanted_workers=0,
            is_paused=bool(views) and not open_views,
        )

    def _due(self, views: Sequence[QueueView], queue: str | None, until: int) -> int:
        """Return the number of scheduled jobs of unpaused queues that are due by this time."""
        if not any(view.scheduled for view in views):
            return 0
        names = {view.name for view in views}
        where = JobFilter(state=State.SCHEDULED, queue=queue, by_due=True, until=until)
        page = self._fire.jobs.page(where, limit=_DUE, oldest_first=True)
        return sum(job.queue in names for job in page)

    def _held(self, enqueued: int, elsewhere: int) -> int:
        """Return a lower bound of the number of enqueued jobs of this queue that a limit delays.

        The jobs that wait for a key are counted over all queues. As many of them as possible are assumed to
        be in other queues.
        """
        held = held_jobs(self._watch.limit_keys()) if enqueued else 0
        return min(enqueued, max(0, held - elsewhere))

    def _mean(self, queue: str | None, now: int) -> float:
        until = instant(now) + timedelta(minutes=1)  # include the current minute
        rollups: list[Rollup] = self._fire.jobs.timeline(until - timedelta(hours=1), until, queue=queue)
        count = sum(one.count for one in rollups)
        return sum(one.duration for one in rollups) / count / _MICROS if count else _UNKNOWN_MEAN


def _listening(readings: Readings, queue: str | None) -> int:
    servers = readings.alive if queue is None else readings.listening(queue)
    return sum(server.workers for server in servers)
