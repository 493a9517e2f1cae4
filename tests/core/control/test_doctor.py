"""`fire.diagnose()`: the findings of a storage, including an unreachable one."""

from __future__ import annotations

import asyncio
import sys
import types

import pytest

from firelock import Diagnosis, Firelock, Limit, Retry, Unique
from firelock.errors import SchemaMismatch, StorageError, StorageUnavailable
from tests.core.fakes import FailingStorage, Worker


@pytest.fixture
def storage():
    """A storage with programmable failures."""
    return FailingStorage()


def words(diagnosis):
    """Return the text of all findings."""
    return "\n".join(finding.what for finding in diagnosis.findings)


def test_diagnose_returns_findings_with_advice(storage):
    """The report also describes the examined storage. The async method returns the same report."""
    fire = Firelock(storage)
    fire.task(name="report")(lambda: None).enqueue()

    diagnosis = fire.diagnose()

    assert isinstance(diagnosis, Diagnosis)
    assert diagnosis.has_errors
    assert (
        "no_server",
        "1 job is enqueued, but no server is alive.",
        "Start one: firelock server app:fire",
    ) in [(finding.code, finding.what, finding.advice) for finding in diagnosis.findings]
    assert storage.url == diagnosis.about["storage"]
    assert words(diagnosis) == words(asyncio.run(fire.adiagnose()))


def test_advice_contains_the_name_of_the_app(storage, monkeypatch):
    """Only an app that is a global variable of a module has a name."""
    module = types.ModuleType("shop_named")
    module.fire = Firelock(storage)
    monkeypatch.setitem(sys.modules, "shop_named", module)
    module.fire.task(name="send")(lambda: None).enqueue()

    advice = [one.advice for one in module.fire.diagnose().findings if one.code == "no_server"]

    assert ["Start one: firelock server shop_named:fire"] == advice


def test_unknown_tasks_are_reported_if_the_app_has_tasks(storage):
    """An app without tasks does not report unknown tasks, unless a parameter requests it."""
    with_task, without = Firelock(storage), Firelock(storage)
    with_task.task(name="report")(lambda: None).enqueue()
    other = Firelock(storage)
    other.task(name="other")(lambda: None)
    foreign = "enqueued for task report, which this app does not have"

    assert foreign in words(other.diagnose())
    assert foreign not in words(with_task.diagnose())
    assert foreign not in words(without.diagnose())
    assert foreign in words(without.diagnose(knows_tasks=True))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (StorageUnavailable("it is away"), "Start it, or correct its address"),
        (StorageError("no such column"), "The storage refuses an operation"),
        (SchemaMismatch("Its tables are of an older release; run firelock migrate."), "Do this first"),
    ],
)
def test_storage_error_is_a_finding_with_fitting_advice(storage, error, advice):
    """An unreachable storage does not raise an exception."""
    storage.fail_always("counts", error)

    finding = Firelock(storage).diagnose().findings[-1]

    assert (True, str(error)) == (finding.is_error, finding.what)
    assert finding.advice.startswith(advice)


def fails():
    """Raise an error, as the task of a test."""
    raise ValueError


def test_problems_with_limits_and_unique_keys_are_found(storage):
    """The problems are costs above the limit and jobs without their task's limits.

    Another problem is a unique key of a job that cannot run.
    """
    stub = Firelock(storage)
    with Firelock(storage) as fire:
        parent = fire.task(name="parent", retry=Retry(attempts=0))(fails).enqueue()
        child = parent.then(fire.task(name="child", unique=Unique("day"))(lambda: None))
        Worker(fire).run()
        fire.task(name="report", limits=[Limit("tenant", concurrent=1)])(lambda: None)

        @fire.task(name="ask", limits=[Limit("api", rate=10, per=60, burst=5, cost="{tokens}")])
        def ask(tokens: int): ...

        stub.task(name="report", remote=True)(lambda: None).enqueue()
        ask.enqueue(9)
        fire.limits.sync()

        findings = {finding.code: finding for finding in fire.diagnose().findings}

    assert ("api", 9) == (findings["limit_cost"].values["limit"], findings["limit_cost"].values["count"])
    assert "The job is not lost" in findings["limit_cost"].what
    assert ("report", 1) == (findings["unlimited"].values["task"], findings["unlimited"].values["count"])
    assert ("day", "child", child.id) == tuple(
        findings["unique_in_vain"].values[name] for name in ("key", "task", "job")
    )


def test_limits_in_code_are_checked_on_a_partitioned_storage(storage):
    """Unique keys are checked as well. The checks do not exist for other storages."""
    with Firelock(storage) as fire:
        apart = [Limit("smtp", concurrent=9), Limit("tenant:{n}", concurrent=1)]
        fire.task(name="apart", limits=apart)(lambda n: None)
        fire.task(name="unique", limits=apart[1:], unique=Unique())(lambda n: None)
        fire.task(name="alike", limits=[apart[1]], unique=Unique("tenant:{n}/day"))(lambda n: None)
        before = [one for one in fire.diagnose().findings if one.code == "limit_apart"]
        storage.describe = lambda: {"partitions": "16"}

        findings = [one for one in fire.diagnose().findings if one.code == "limit_apart"]

    assert ([], ["apart", "unique"]) == (before, [one.values["task"] for one in findings])
    assert "(all arguments, as unique key)" in findings[1].what


# ---- writing ---------------------------------------------------------------------------------------------


def findings_with(error):
    """Return the findings if a write of test records raises this error, and the remaining test records."""
    with Firelock(FailingStorage()) as fire:
        if error is not None:
            fire.storage.fail_always("put_record", error)
        findings = [
            (finding.is_error, finding.what) for finding in fire.diagnose().findings if "writ" in finding.what
        ]
        return findings, fire.storage.list_records("doctor")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, []),
        (StorageUnavailable("disk full"), [(True, "A test record could not be written: disk full")]),
        (
            StorageError("denied"),
            [(
                False,
                "The write access of servers was not checked, because this user must not write: denied",
            )],
        ),
    ],
    ids=["well", "full", "not allowed"],
)  # fmt: skip
def test_doctor_writes_and_deletes_test_records(error, expected):
    """Test records are needed because a storage with a full disk still responds to every read."""
    assert (expected, []) == findings_with(error)
