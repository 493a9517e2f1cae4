"""The metrics of the whole cluster for Prometheus: queues, servers, recurring jobs and findings."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from firelock import MetricFamily
from firelock.control.findings import list_findings
from firelock.control.servers import ServerState
from firelock.limits import name_of
from firelock.storage import Feature, JobFilter, State

if TYPE_CHECKING:
    from firelock import Firelock, RecurringJob, ServerView
    from firelock.control.findings import Readings
    from firelock.storage import Counts
    from firelock_dashboard.stats.watch import Watch

_MICROS = 1_000_000
_AGE = 5.0  # seconds for which a page of metrics is reused
_QUEUES = 200
_SEARCHED = 50  # the maximum number of recurring jobs per reading whose last success is searched for
_LIMITS = 200
_WAITING = (State.AWAITING, State.SCHEDULED, State.ENQUEUED, State.PROCESSING)


class Gauges:
    """One page of metrics for all requests within five seconds.

    All metrics describe the whole cluster, so all dashboards return the same values. Aggregate the values of
    several dashboards with `max`, never with `sum`.
    """

    def __init__(
        self,
        fire: Firelock,
        watch: Watch,
        counts: Callable[[], Counts],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fire = fire
        self._watch = watch
        self._counts = counts
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._families: list[MetricFamily] = []
        self._succeeded_at: dict[str, int] = {}  # the last success of each recurring job, in micros

    def families(self) -> list[MetricFamily]:
        """Return the metrics, at most five seconds old."""
        with self._lock:
            if self._monotonic() - self._read_at > _AGE:
                readings = self._watch.readings()
                self._families = [
                    *_queue_families(readings, self._counts()),
                    *_server_families(readings),
                    *self._recurring_families(readings),
                    *self._limit_families(),
                    _findings(readings),
                ]
                self._read_at = self._monotonic()
            return self._families

    # ---- limits ------------------------------------------------------------------------------------------

    def _limit_families(self) -> list[MetricFamily]:
        """Return the metrics of limits, summed over the keys of each limit name.

        Keys are not labels, because a key usually identifies a customer.
        """
        running = MetricFamily(
            "firelock_limit_running", "gauge", "Running jobs that hold a key of the limit."
        )
        waiting = MetricFamily(
            "firelock_limit_waiting", "gauge", "Enqueued jobs that wait for a key of the limit."
        )
        full = MetricFamily("firelock_limit_full_keys", "gauge", "Keys held by their maximum number of jobs.")
        paused = MetricFamily("firelock_limit_paused", "gauge", "1 if the limit is paused, otherwise 0.")
        families = [running, waiting, full, paused]
        if self._fire is None or Feature.LIMITS not in self._fire.storage.features:
            return families
        named = {one.name: one for one in self._fire.limits.names() if one.name == name_of(one.name)}
        sums = {name: Counter[str]() for name in named}
        for view in self._watch.limit_keys():
            counted = sums.setdefault(view.name, Counter())
            counted.update(running=view.running, waiting=view.waiting, full=int(view.is_full))
        for name in sorted(sums)[:_LIMITS]:
            running.add(sums[name]["running"], limit=name)
            waiting.add(sums[name]["waiting"], limit=name)
            full.add(sums[name]["full"], limit=name)
            paused.add(float(name in named and named[name].is_paused), limit=name)
        return families

    # ---- recurring jobs ----------------------------------------------------------------------------------

    def _recurring_families(self, readings: Readings) -> list[MetricFamily]:
        success = MetricFamily(
            "firelock_recurring_last_success_timestamp_seconds",
            "gauge",
            "Unix time, in seconds, when a job of the definition last succeeded.",
        )
        next_ = MetricFamily(
            "firelock_recurring_next_timestamp_seconds",
            "gauge",
            "Unix time, in seconds, when the definition fires next; absent while it is paused.",
        )
        overdue = MetricFamily(
            "firelock_recurring_overdue_seconds",
            "gauge",
            "Seconds since the definition should have fired; 0 if it is not due.",
        )
        missed = MetricFamily("firelock_recurring_missed_total", "counter", "Missed runs that were skipped.")
        self._learn_successes(readings.recurring)
        for one in readings.recurring:
            record = one.record
            if record.id in self._succeeded_at:
                success.add(self._succeeded_at[record.id] / _MICROS, recurring=record.id)
            if record.due_at is not None:
                next_.add(record.due_at / _MICROS, recurring=record.id)
            late = 0 if record.due_at is None else max(0, readings.now - record.due_at)
            overdue.add(late / _MICROS, recurring=record.id)
            missed.add(record.dropped, recurring=record.id)
        return [success, next_, overdue, missed]

    def _learn_successes(self, recurring: Sequence[RecurringJob]) -> None:
        """Update the last success of each recurring job from the last job that it created.

        If that job has not succeeded, an earlier success is searched for once and then cached.
        """
        self._succeeded_at = {
            one.id: self._succeeded_at[one.id] for one in recurring if one.id in self._succeeded_at
        }
        last = {one.record.last_job_id: one.id for one in recurring if one.record.last_job_id}
        for job in self._fire.storage.get(list(last)):
            if job is not None and job.state is State.SUCCEEDED and job.ended_at is not None:
                self._succeeded_at[last[job.id]] = job.ended_at
        unknown = [name for name in last.values() if name not in self._succeeded_at]
        for name in unknown[:_SEARCHED]:
            where = JobFilter(state=State.SUCCEEDED, recurring_id=name)
            for found in self._fire.jobs.page(where, limit=1):
                self._succeeded_at[name] = found.record().ended_at or found.record().changed_at


def _queue_families(readings: Readings, counts: Counts) -> list[MetricFamily]:
    jobs = MetricFamily("firelock_jobs", "gauge", "Jobs by state.")
    for state in State:
        jobs.add(counts.by_state.get(state, 0), state=str(state))
    depth = MetricFamily("firelock_queue_depth", "gauge", "Jobs of the queue that have not ended, by state.")
    latency = MetricFamily(
        "firelock_queue_latency_seconds",
        "gauge",
        "Seconds since the queue's first job not held by a limit was enqueued; 0 without such a job.",
    )
    held = MetricFamily(
        "firelock_queue_held",
        "gauge",
        "Jobs held by limits, ahead of the first other job of the queue; at most 100.",
    )
    paused = MetricFamily("firelock_queue_paused", "gauge", "1 if the queue is paused, otherwise 0.")
    listeners = MetricFamily("firelock_queue_listeners", "gauge", "Servers that claim from the queue.")
    for queue in sorted(readings.queues, key=lambda each: -each.enqueued)[:_QUEUES]:
        states, since = counts.by_queue.get(queue.name, {}), readings.waits_since(queue.name)
        for state in _WAITING:
            depth.add(states.get(state, 0), queue=queue.name, state=str(state))
        latency.add(0 if since is None else max(0, readings.now - since) / _MICROS, queue=queue.name)
        head = readings.held.get(queue.name)
        held.add(0 if head is None else head.count, queue=queue.name)
        paused.add(float(queue.is_paused), queue=queue.name)
        listeners.add(len(readings.listening(queue.name)), queue=queue.name)
    return [jobs, depth, latency, held, paused, listeners]


def _server_families(readings: Readings) -> list[MetricFamily]:
    states = Counter(server.state_at(readings.now) for server in readings.servers)
    servers = MetricFamily(
        "firelock_servers", "gauge", "Servers by state, including those that ended within a day."
    )
    for state in ServerState:
        servers.add(states[state], state=str(state))
    slots = MetricFamily("firelock_worker_slots", "gauge", "Workers of the living servers, busy or idle.")
    stuck = MetricFamily(
        "firelock_stuck_workers", "gauge", "Workers of the living servers whose job has exceeded its timeout."
    )
    parked = MetricFamily(
        "firelock_parked_ends", "gauge", "Job ends that wait for rows locked by other transactions."
    )
    by_name: dict[str, list[ServerView]] = {}  # a restarted server may have its predecessor's name
    for server in readings.alive:
        by_name.setdefault(server.name, []).append(server)
    for name, alike in by_name.items():
        busy, workers = sum(one.busy for one in alike), sum(one.workers for one in alike)
        slots.add(busy, server=name, state="busy")
        slots.add(max(0, workers - busy), server=name, state="idle")
        renewals = [record.renewal for one in alike for record in one.living(readings.now)]
        stuck.add(sum(one.stuck_threads for one in renewals), server=name, kind="thread")
        stuck.add(sum(one.stuck_coroutines for one in renewals), server=name, kind="coroutine")
        parked.add(sum(one.parked for one in renewals), server=name)
    return [servers, slots, stuck, parked]


def _findings(readings: Readings) -> MetricFamily:
    """Return the metric of the findings, which the overview and `firelock doctor` show in words."""
    found = Counter((one.code, one.severity.value) for one in list_findings(readings))
    family = MetricFamily(
        "firelock_findings", "gauge", "Problems found in the cluster, by code and severity."
    )
    for (code, severity), count in sorted(found.items()):
        family.add(count, code=code, severity=severity)
    return family
