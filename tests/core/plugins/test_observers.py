"""Observers of ended attempts: order, independence, bounded queues, and log lines for slow observers."""

from __future__ import annotations

import logging
import threading
from contextlib import closing

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry

from firelock import Firelock, Retry, Settings, State
from firelock.integrations.opentelemetry import OpenTelemetry
from firelock.integrations.prometheus import Prometheus
from firelock.plugins import observers
from firelock.plugins.loader import Plugins
from firelock.plugins.observers import (
    CALL_LIMIT,
    QUEUE_LIMIT,
    EndObserver,
    EndObservers,
    SlowObservers,
    counts_in_memory,
)
from firelock.testing import eventually
from tests.core.fakes import plugin

LONG = 30.0  # seconds until a wait for a condition fails
SETTINGS = Settings(poll=0.05, heartbeat=0.2, session_timeout=60, sweep=60)


@pytest.fixture
def gate():
    """Yield an event for which observers of a test wait; it is set at the end."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def reports():
    """Yield a function that starts observers from hooks by plugin name; they are closed at the end."""
    started = []

    def make(**hooks):
        each = [EndObserver(name, hook, hook) for name, hook in hooks.items()]
        started.append(EndObservers(each))
        started[-1].start()
        return started[-1]

    yield make
    for one in started:
        one.close(0.0)


def blocked_by(gate, calls):
    """Return an observer that records its calls and waits in each of them."""

    def observe(settled):
        calls.append(list(settled))
        gate.wait(LONG)

    return observe


def dropped(name, count, in_all):
    """Return the log line about dropped ends."""
    return (
        f"Plugin '{name}': jobs_settled is slower than the jobs. Outcomes dropped: {count} ({in_all} in "
        "total). The jobs are not affected."
    )


# ---- the queue of a plugin -------------------------------------------------------------------------------


def test_outcomes_are_reported_in_order_in_calls_of_limited_size(reports, gate):
    """Outcomes that accumulate during a slow call are reported afterwards in a few calls."""
    calls = []
    ends = reports(slow=blocked_by(gate, calls))
    ends.report([0])
    eventually(lambda: calls, within=LONG)
    for number in range(1, 2 * CALL_LIMIT + 1):
        ends.report([number])
    gate.set()
    ends.close(LONG)

    assert [1, CALL_LIMIT, CALL_LIMIT] == [len(call) for call in calls]
    assert list(range(2 * CALL_LIMIT + 1)) == [end for call in calls for end in call]


def test_outcomes_above_the_limit_are_dropped_and_logged(reports, gate, caplog):
    """The first dropped outcome is logged immediately.

    For later ones, their number is logged. The memory use does not grow.
    """
    caplog.set_level(logging.WARNING)
    calls = []
    ends = reports(exporter=blocked_by(gate, calls))
    ends.report([0])
    eventually(lambda: calls, within=LONG)

    ends.report(range(1, QUEUE_LIMIT + 10))
    first = caplog.messages.copy()
    ends.report([0] * 90)
    gate.set()
    ends.close(LONG)

    assert first == [dropped("exporter", 10, 10)]
    assert caplog.messages[1:] == [dropped("exporter", 90, 100)]
    assert QUEUE_LIMIT == sum(map(len, calls))


def test_dropped_outcomes_are_summed_up_per_interval(reports, gate, caplog, monkeypatch):
    """The sum is logged even if no more outcomes are reported."""
    caplog.set_level(logging.WARNING)
    calls = []
    ends = reports(exporter=blocked_by(gate, calls))
    ends.report(range(QUEUE_LIMIT + 1))
    ends.report([0] * 9)
    monkeypatch.setattr(observers, "LOG_INTERVAL", 0.0)
    gate.set()

    eventually(lambda: "Outcomes dropped: 9 (10 in total)" in caplog.text, within=LONG)


def test_blocked_observer_does_not_delay_another(reports, gate):
    """Each plugin has its own queue."""
    calls, seen = [], []
    ends = reports(blocked=blocked_by(gate, calls), quick=seen.extend)

    for number in range(3):
        ends.report([number])

    eventually(lambda: seen == [0, 1, 2], within=LONG)
    assert not ends.is_drained


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_observer_that_raises_receives_the_next_outcomes(reports, caplog, error):
    """The error is logged with the name of the plugin."""
    seen = []

    def observe(settled):
        seen.extend(settled)
        if settled == [1]:
            raise error("broken")

    ends = reports(broken=observe)
    ends.report([1])
    eventually(lambda: ends.is_drained, within=LONG)
    ends.report([2])
    eventually(lambda: ends.is_drained, within=LONG)

    assert [1, 2] == seen
    assert "Plugin 'broken' raised an exception in jobs_settled; no job is affected." in caplog.messages


def test_close_reports_the_waiting_outcomes(reports):
    """The last outcomes of a process are not lost."""
    seen = []
    ends = reports(quick=seen.extend)

    ends.report(range(2 * CALL_LIMIT))
    ends.close(LONG)

    assert list(range(2 * CALL_LIMIT)) == seen


def test_close_abandons_a_blocked_observer_and_logs_it(reports, gate, caplog):
    """Later outcomes count as dropped."""
    calls = []
    ends = reports(blocked=blocked_by(gate, calls))
    ends.report([1])
    eventually(lambda: calls, within=LONG)
    ends.report([2, 3])

    ends.close(0.0)
    ends.report([4])

    assert caplog.messages == [
        "Plugin 'blocked': the server stopped before jobs_settled had returned; outcomes not reported: 3.",
        dropped("blocked", 1, 1),
    ]


def test_observers_that_count_in_memory_are_called_directly(reports, gate):
    """Such observers receive every outcome even if other plugins are blocked, and do not need a thread."""
    calls, threads = [], []

    @counts_in_memory
    def count(settled):
        threads.append((threading.current_thread(), len(settled)))

    ends = reports(count=count, blocked=blocked_by(gate, calls))
    for _ in range(3):
        ends.report([0] * QUEUE_LIMIT)

    assert [(threading.current_thread(), QUEUE_LIMIT)] * 3 == threads


def test_counters_of_firelock_count_in_memory():
    """If a queue dropped an outcome, it would be missing from every later total."""
    own = [Prometheus(CollectorRegistry()), OpenTelemetry(meter_provider=MeterProvider())]

    found = Plugins([*own, plugin(jobs_settled=lambda settled: None)], use_entry_points=False).end_observers()

    assert [False, True, True] == sorted(one.is_direct for one in found)
    assert [True, True] == [
        one.is_direct for one in found if one.plugin.partition("#")[0] in {"Prometheus", "OpenTelemetry"}
    ]


# ---- slow observers --------------------------------------------------------------------------------------


def test_slow_observer_is_logged_once_per_interval(caplog, monkeypatch):
    """Each hook of each plugin has a separate interval."""
    caplog.set_level(logging.INFO)
    slow = SlowObservers()

    for name, hook in [
        ("a", "jobs_created"),
        ("a", "jobs_created"),
        ("a", "jobs_settled"),
        ("b", "jobs_created"),
    ]:
        slow.note(name, hook, 0.6)
    slow.note("quick", "jobs_created", 0.5)
    lines = caplog.messages.copy()
    monkeypatch.setattr(observers, "LOG_INTERVAL", 0.0)
    slow.note("a", "jobs_created", 2.0, is_running=True)

    assert lines == [
        "Plugin 'a': jobs_created ran for 0.6 s. The call that created the jobs waited for it.",
        "Plugin 'a': jobs_settled ran for 0.6 s. The ends of later jobs wait for it.",
        "Plugin 'b': jobs_created ran for 0.6 s. The call that created the jobs waited for it.",
    ]
    assert caplog.messages[3:] == [
        "Plugin 'a': jobs_created has been running for 2.0 s. The call that created the jobs waited for it."
    ]


def test_every_observer_hook_is_timed(caplog, monkeypatch):
    """The setup of a process often takes a long time, so it does not cause a warning."""
    caplog.set_level(logging.INFO, "firelock.plugins.observers")
    monkeypatch.setattr(observers, "SLOW_SECONDS", -1.0)
    hooks = [
        "jobs_created", "attempt_failed", "jobs_settled", "server_started", "server_stopped",
        "worker_process_started", "worker_process_stopped",
    ]  # fmt: skip
    watching = plugin(**dict.fromkeys(hooks, lambda: None))
    with closing(Firelock("memory://", settings=SETTINGS, plugins=[watching])) as fire:

        @fire.task(name="fall", retry=Retry.never())
        def fall() -> None:
            raise ValueError("as it was asked to")

        with fire.server(workers=1):
            job = fall.enqueue()
            eventually(lambda: job.refresh().state is State.FAILED, within=LONG)

    named = {
        hook: record.levelname
        for record in caplog.records
        for hook in hooks
        if f": {hook} ran for" in record.getMessage()
    }
    assert named == {hook: "INFO" if hook.startswith("worker_process") else "WARNING" for hook in hooks}


# ---- servers ---------------------------------------------------------------------------------------------


def threads():
    """Return the names of the running observer threads."""
    return [one.name for one in threading.enumerate() if one.name.startswith("firelock-observer")]


def serve(*plugins):
    """Return an app and a task that does nothing."""
    fire = Firelock("memory://", settings=SETTINGS, plugins=list(plugins))
    return fire, fire.task(name="noop")(lambda: None)


def test_server_stop_reports_every_outcome(gate):
    """The hook can use the remaining grace time."""
    seen = []

    def observe(settled):
        gate.wait(LONG)
        seen.extend(end.job.id for end in settled)

    fire, noop = serve(plugin(jobs_settled=observe))
    with closing(fire):
        server = fire.server(workers=2).start()
        jobs = noop.enqueue_many([()] * 20)
        eventually(lambda: all(job.refresh().state is State.SUCCEEDED for job in jobs), within=LONG)
        gate.set()
        server.stop()

    assert sorted(job.id for job in jobs) == sorted(seen)
    assert threads() == []


def test_jobs_and_counters_continue_while_an_observer_is_blocked(gate):
    """A hook that does not return affects only its own plugin."""
    registry = CollectorRegistry()
    fire, noop = serve(Prometheus(registry), plugin(jobs_settled=lambda settled: gate.wait(LONG)))
    with closing(fire):
        server = fire.server(workers=2).start()
        try:
            for _ in range(3):
                jobs = noop.enqueue_many([()] * 5)
                eventually(lambda: all(job.refresh().state is State.SUCCEEDED for job in jobs), within=LONG)  # noqa: B023 - called before the next round
            server.stop(grace=0)
        finally:
            gate.set()

    labels = {"queue": "default", "task": "noop", "outcome": "succeeded"}
    assert 15.0 <= registry.get_sample_value("firelock_jobs_finished_total", labels)


def test_no_thread_is_started_without_an_observer():
    """Counters that count in memory do not need a thread either."""
    fire, _ = serve(Prometheus(CollectorRegistry()), plugin(jobs_created=lambda jobs: None))
    with closing(fire), fire.server(workers=1):
        assert threads() == []
