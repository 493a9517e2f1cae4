"""Prometheus: job counters by queue and task, for `/metrics` of a server or a registry of this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from firelock import ConfigurationError, Settled, hookimpl
from firelock.plugins.observers import counts_in_memory
from firelock.server.job_counters import (
    DURATIONS,
    Counted,
    EndedAttempt,
    JobCounters,
    TaskLabels,
    counted_here,
    counts_all_jobs,
    is_read_by_others,
    job_families,
    process_counters,
)
from firelock.storage import BATCH_TASK

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

    from firelock.storage import NewJob

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's own variable

_lock = threading.Lock()
_registered: WeakKeyDictionary[CollectorRegistry, object] = WeakKeyDictionary()


class Prometheus:
    """A plugin that counts jobs: `Firelock(url, plugins=[Prometheus()])`.

    In the processes of `firelock server`, the counters are in memory that the supervisor reads, and
    `/metrics` of the probe port shows the sums of all processes; prometheus-client is not needed there. In
    any other process, such as a web application that only enqueues, the counters are in a registry of
    prometheus-client, along with your own metrics. A process has only one set of counters even if several
    apps have this plugin, and a registry shows this set once.

    If `PROMETHEUS_MULTIPROC_DIR` is set and no registry is given, as for a web server with several processes,
    the counters are metrics of prometheus-client itself, which adds up the values of all processes.

    Args:
        registry: the registry of the counters; by default that of prometheus-client.

    Raises:
        ConfigurationError: If prometheus-client is not installed and this is not a process of a server, or if
            the registry has other metrics with these names.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._counters: Callable[[], JobCounters | _LibraryCounters] = process_counters
        if registry is None and is_read_by_others():
            process_counters()  # create the counters now, to show the supervisor that jobs are counted
        elif registry is None and _FOLDER in os.environ:
            library = _library_counters()
            self._counters = lambda: library
        else:
            _register(registry)

    @hookimpl
    def jobs_created(self, jobs: Sequence[NewJob]) -> None:
        """Count the jobs, unless a server's process counts them in its own memory."""
        if not counts_all_jobs():
            self._counters().count_created(jobs)

    @hookimpl
    @counts_in_memory
    def jobs_settled(self, settled: Sequence[Settled]) -> None:
        """Count the attempts, unless a server's process counts them in its own memory."""
        if not counts_all_jobs():
            self._counters().count_settled(settled)


class JobCollector:
    """The counters of this process, for a registry of prometheus-client, which reads them at each scrape."""

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without values, so that a registry can check their names."""
        return _metrics({})

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return _metrics(counted_here())


def _metrics(counted: Counted) -> Iterable[Metric]:
    from prometheus_client import Metric  # noqa: PLC0415 - installed if there is a registry

    for family in job_families(counted):
        metric = Metric(family.name.removesuffix("_total"), family.help, family.kind)
        for sample in family.samples:
            metric.add_sample(f"{family.name}{sample.suffix}", dict(sample.labels), sample.value)
        yield metric


class _LibraryCounters:
    """Counts in metrics of prometheus-client, whose multiprocess mode adds up the values of all processes."""

    def __init__(self) -> None:
        from prometheus_client import Counter, Histogram  # noqa: PLC0415 - loaded when used

        words = {family.name: family.help for family in job_families({})}

        def counter(name: str, *more: str) -> Counter:
            return Counter(name, words[name], ("queue", "task", *more))

        def histogram(name: str) -> Histogram:
            return Histogram(name, words[name], ("queue", "task"), buckets=DURATIONS)

        self._labels, self._lock = TaskLabels(), threading.Lock()
        self._created = counter("firelock_jobs_enqueued_total")
        self._finished = counter("firelock_jobs_finished_total", "outcome")
        self._retries = counter("firelock_job_retries_total")
        self._crashes = counter("firelock_job_crashes_total")
        self._duration = histogram("firelock_job_duration_seconds")
        self._wait = histogram("firelock_job_wait_seconds")

    def _labels_of(self, queue: str, task: str) -> tuple[str, str]:
        with self._lock:
            return self._labels.of(queue, task)

    def count_created(self, jobs: Iterable[NewJob]) -> None:
        """Count the stored jobs, except batches, which never run."""
        for job in jobs:
            if job.task != BATCH_TASK:
                self._created.labels(*self._labels_of(job.queue, job.task)).inc()

    def count_settled(self, settled: Iterable[Settled]) -> None:
        """Count the ended attempts."""
        for each in settled:
            end = EndedAttempt.of(each)
            if end is None:
                continue
            labels = self._labels_of(each.job.queue, each.job.task)
            if end.outcome is not None:
                self._finished.labels(*labels, str(end.outcome)).inc()
            self._retries.labels(*labels).inc(end.is_retried)
            self._crashes.labels(*labels).inc(end.is_crashed)
            self._duration.labels(*labels).observe(end.seconds)
            self._wait.labels(*labels).observe(end.waited)


@cache
def _library_counters() -> _LibraryCounters:
    """Return the only instance of the process."""
    try:
        return _LibraryCounters()
    except ImportError as error:
        raise _missing() from error


def _missing() -> ConfigurationError:
    return ConfigurationError(
        "Prometheus() needs prometheus-client outside of a server, and it is not installed. Run "
        'pip install "firelock[prometheus]".'
    )


def _register(registry: CollectorRegistry | None) -> None:
    try:
        from prometheus_client import REGISTRY  # noqa: PLC0415 - not needed in processes of a server
    except ImportError as error:
        raise _missing() from error
    chosen = REGISTRY if registry is None else registry
    with _lock:
        if chosen in _registered:
            return
        collector = JobCollector()
        try:
            chosen.register(collector)
        except ValueError as error:
            raise ConfigurationError(
                f"This registry of prometheus-client already has metrics with Firelock's names: {error}. "
                "Pass another registry: Prometheus(registry=…)."
            ) from error
        _registered[chosen] = collector
