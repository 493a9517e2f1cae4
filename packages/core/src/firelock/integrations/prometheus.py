"""Prometheus: counts jobs by queue and task, for a server's `/metrics` or for a registry of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from firelock import ConfigurationError, Settled, hookimpl
from firelock.server.job_counters import (
    Counted,
    counted_here,
    is_read_by_others,
    job_families,
    process_counters,
)

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

    from firelock.storage import NewJob

_lock = threading.Lock()
_registered: WeakKeyDictionary[CollectorRegistry, object] = WeakKeyDictionary()


class Prometheus:
    """A plugin that counts jobs: `Firelock(url, plugins=[Prometheus()])`.

    In the processes of `firelock server` it counts where the supervisor reads, and `/metrics` of the probe
    port shows all of them together; prometheus-client is not needed there. In any other process, such as a
    web application that only enqueues, the numbers stand in a registry of prometheus-client, beside your own.
    However many apps have this plugin, a process has one set of numbers, and a registry shows it once.

    Args:
        registry: where they stand; prometheus-client's default registry where it is left out.

    Raises:
        ConfigurationError: prometheus-client is not installed, and this is no process of a server; or the
            registry has other metrics of these names.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        process_counters()  # made now, so that a server's supervisor shows that somebody counts
        if registry is not None or not is_read_by_others():
            _register(registry)

    @hookimpl
    def jobs_created(self, jobs: Sequence[NewJob]) -> None:
        """They are counted."""
        process_counters().count_created(jobs)

    @hookimpl
    def jobs_settled(self, settled: Sequence[Settled]) -> None:
        """They are counted."""
        process_counters().count_settled(settled)


class JobCollector:
    """What this process has counted, for a registry of prometheus-client, which asks at each scrape."""

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without numbers, so that a registry sees whether it has these names."""
        return _metrics({})

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return _metrics(counted_here())


def _metrics(counted: Counted) -> Iterable[Metric]:
    from prometheus_client import Metric  # noqa: PLC0415 - who collects has it

    for family in job_families(counted):
        metric = Metric(family.name.removesuffix("_total"), family.help, family.kind)
        for sample in family.samples:
            metric.add_sample(f"{family.name}{sample.suffix}", dict(sample.labels), sample.value)
        yield metric


def _register(registry: CollectorRegistry | None) -> None:
    try:
        from prometheus_client import REGISTRY  # noqa: PLC0415 - a server's own processes need none
    except ImportError as error:
        raise ConfigurationError(
            "Prometheus() shows its numbers in a registry of prometheus-client, which is not installed. "
            'pip install "firelock[prometheus]".'
        ) from error
    chosen = REGISTRY if registry is None else registry
    with _lock:
        if chosen in _registered:
            return
        collector = JobCollector()
        try:
            chosen.register(collector)
        except ValueError as error:
            raise ConfigurationError(
                f"This registry of prometheus-client has metrics of Firelock's names already: {error}. Give "
                "Prometheus(registry=…) another one."
            ) from error
        _registered[chosen] = collector
