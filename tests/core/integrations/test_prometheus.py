"""The Prometheus plugin in applications with and without an embedded server."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from firelock import ConfigurationError, Firelock, JobContext
from firelock.integrations.prometheus import Prometheus
from firelock.server import job_counters
from firelock.testing import Tester
from tests.core.fakes import until
from tests.ports import free_port


@pytest.fixture(autouse=True)
def fresh_counters(monkeypatch):
    """Reset the counters of this process."""
    monkeypatch.setattr(job_counters, "_of_this_process", job_counters._ProcessCounters())  # noqa: SLF001


@pytest.fixture
def registry():
    """Return an empty registry."""
    return CollectorRegistry()


def add(left: int, right: int) -> int:
    return left + right


def value(registry, name, **labels):
    """Return the value of a sample, or None if it does not exist."""
    return registry.get_sample_value(name, labels)


def test_enqueued_jobs_are_counted_in_the_registry_of_the_application(registry):
    """The labels contain the queue and the task, but no other data of the job."""
    Gauge("my_own", "Mine.", registry=registry).set(7)
    with Firelock("memory://", plugins=[Prometheus(registry)]) as fire:
        task = fire.task(name="shop.add", queue="mail", tags=["secret"])(add)
        task.enqueue(1, 2)
        task.enqueue_many([(1, 2), (3, 4)])

    assert value(registry, "firelock_jobs_enqueued_total", queue="mail", task="shop.add") == 3.0
    assert value(registry, "my_own") == 7.0
    labels = {label for family in registry.collect() for sample in family.samples for label in sample.labels}
    assert labels == {"queue", "task", "outcome", "le"}


def test_embedded_server_is_counted_in_registry_and_at_its_port(registry):
    """The metrics are in the registry and at the server's own port.

    The first job creates samples for all outcomes.
    """
    port = free_port()
    with Firelock("memory://", plugins=[Prometheus(registry)]) as fire:
        task = fire.task(name="shop.add")(add)
        with fire.server(workers=1, probe_port=port):
            task.enqueue(1, 2).result(timeout=10)
            until(
                lambda: value(
                    registry, "firelock_job_duration_seconds_count", queue="default", task="shop.add"
                )
            )
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
                families = list(text_string_to_metric_families(reply.read().decode()))

    samples = {(one.name, *one.labels.values()): one.value for each in families for one in each.samples}
    assert samples["firelock_jobs_finished_total", "default", "shop.add", "succeeded"] == 1.0
    assert samples["firelock_jobs_finished_total", "default", "shop.add", "failed"] == 0.0
    assert samples["firelock_worker_process_up", "0"] == 1.0
    assert all(family.documentation for family in families)


@pytest.mark.parametrize("is_shared", [False, True], ids=["alone", "several processes"])
def test_batch_does_not_count_as_a_job(registry, is_shared, tmp_path):
    """The members and continuations of a batch are counted.

    The batch itself never runs, so it would never count as finished.
    """
    program = COUNTED.format(registry="" if is_shared else "registry")
    folder = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)} if is_shared else {}
    output = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **folder}, capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip

    assert "firelock_jobs_enqueued_total work 3.0\n" == output


COUNTED = """
from prometheus_client import REGISTRY as registry
from firelock import Firelock
from firelock.integrations.prometheus import Prometheus

with Firelock("memory://", plugins=[Prometheus({registry})]) as fire:
    work = fire.task(name="work")(lambda: None)
    with fire.batch("two") as batch:
        batch.add_many([work.call(), work.call()])
        batch.then(work)
for family in registry.collect():
    for sample in family.samples:
        if sample.name == "firelock_jobs_enqueued_total":
            print(sample.name, sample.labels["task"], sample.value)
"""


def test_run_that_ends_in_a_wait_is_not_counted(registry):
    """A run that ends in a wait does not use an attempt. Only the last run is counted, with its latency."""
    with Firelock("memory://", plugins=[Prometheus(registry)]) as fire:

        @fire.task(name="sleepy")
        def sleepy(job: JobContext) -> None:
            job.sleep("a day", timedelta(days=1))

        with Tester(fire) as tester:
            sleepy.enqueue()
            tester.drain()
            waiting = value(registry, "firelock_job_duration_seconds_count", queue="default", task="sleepy")
            tester.clock.advance(days=1)

    def found(name, **labels):
        return value(registry, name, queue="default", task="sleepy", **labels)

    assert 0.0 == waiting
    assert 1.0 == found("firelock_jobs_finished_total", outcome="succeeded")
    assert 1.0 == found("firelock_job_duration_seconds_count") == found("firelock_job_wait_seconds_count")
    assert 0.0 == found("firelock_job_wait_seconds_sum")


def test_two_apps_in_a_process_share_their_counters(registry):
    """The registry contains the counters only once."""
    for _ in range(2):
        with Firelock("memory://", plugins=[Prometheus(registry)]) as fire:
            fire.task(name="shop.add")(add).enqueue(1, 2)

    assert value(registry, "firelock_jobs_enqueued_total", queue="default", task="shop.add") == 2.0


def test_registry_with_conflicting_names_raises(registry):
    """The message contains the fix."""
    with Firelock("memory://", plugins=[Prometheus(CollectorRegistry())]) as fire:
        fire.task(name="shop.add")(add).enqueue(1, 2)
    Gauge("firelock_jobs_enqueued", "Somebody else's.", registry=registry)

    with pytest.raises(ConfigurationError, match=r"already has metrics.*Prometheus\(registry=…\)"):
        Prometheus(registry)


WITHOUT = """
import sys
sys.modules["prometheus_client"] = None
from firelock import ConfigurationError
from firelock.integrations.prometheus import Prometheus
from firelock.server.job_counters import count_in
try:
    Prometheus()
except ConfigurationError as error:
    print(error)
count_in(None)
Prometheus()
print("counts")
"""


def test_missing_client_library_raises_except_in_worker_processes():
    """The error contains the package to install."""
    output = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True
    ).stdout.splitlines()

    assert output[0].endswith('pip install "firelock[prometheus]".')
    assert output[1] == "counts"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_forked_process_has_separate_counters():
    """If both processes wrote to the same memory, each would overwrite the values of the other."""
    job_counters.count_in(None)
    fork = job_counters._of_this_process  # noqa: SLF001 - the fork hook changes this
    before = job_counters.process_counters()

    fork.forget_parent()

    assert job_counters.process_counters() is not before
    assert not job_counters.is_read_by_others()


SEVERAL = """
import os, sys

from firelock import Firelock
from firelock.integrations.prometheus import Prometheus

fire = Firelock("memory://", plugins=[Prometheus()])
task = fire.task(name="shop.add")(lambda left, right: left + right)
task.enqueue(1, 2)
if os.fork() == 0:
    for number in range(2):
        task.enqueue(1, number)
    with fire.server(workers=1):
        task.enqueue(1, 2).result(timeout=10)
    os._exit(0)
_, status = os.wait()
assert status == 0

from prometheus_client import CollectorRegistry, generate_latest, multiprocess

registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_counters_of_web_server_processes_are_added(tmp_path):
    """The processes use the multiprocess mode of prometheus-client if its folder is set."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    text = subprocess.run(
        [sys.executable, "-c", SEVERAL], env=environment, capture_output=True, text=True, check=True
    ).stdout

    samples = {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }
    assert samples["firelock_jobs_enqueued_total", "default", "shop.add"] == 4.0
    assert samples["firelock_jobs_finished_total", "succeeded", "default", "shop.add"] >= 1.0
    assert samples["firelock_job_duration_seconds_count", "default", "shop.add"] >= 1.0
