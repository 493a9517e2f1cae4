"""`firelock doctor`: each finding is reported, and a healthy storage has none."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import attrs
import pytest

from firelock import Every, Firelock
from firelock.control.doctor import check_schema, diagnose
from firelock.control.findings import Readings, list_findings
from firelock.jobs.unread import RETRY
from firelock.model import lifecycle
from firelock.schedules.recurring_job import put_recurring
from firelock.storage import Feature, Finding, Renewal, SchemaState, Severity
from firelock.storage.memory import MemoryStorage
from tests.end_to_end.cli_run import begin_session, claim, fail

SECOND = 1_000_000


class SharedMemory(MemoryStorage):
    """A storage that has no findings itself."""

    features = frozenset({Feature.SHARED})


@pytest.fixture
def app():
    """An app with one task, in a storage that has no findings itself."""
    with Firelock(SharedMemory()) as app:

        @app.task(name="shop.add")
        def add(user: int): ...

        app.add = add
        yield app


def found(app, *, knows_tasks=False):
    """Return an app's findings as pairs of `is_error` and `what`; the host's clock equals the storage's."""
    diagnosis = diagnose(app.runtime, host_clock=app.storage.clock, knows_tasks=knows_tasks)
    return [(finding.is_error, finding.what) for finding in diagnosis.findings]


def test_healthy_storage_has_no_findings(app):
    """A running server serves all queues, so no job waits in vain."""
    begin_session(app)
    app.add.enqueue(1)

    assert found(app, knows_tasks=True) == []


def test_silent_server_is_an_error(app):
    """If a session has expired but no sweep has ended it, its server is unreachable or stuck."""
    begin_session(app, timeout_seconds=-5.0)

    [(is_error, what)] = found(app)

    assert is_error
    assert what.startswith("Server vm:1 has not sent a heartbeat for ")


@pytest.mark.parametrize(
    ("stops", "successor", "expected"),
    [
        (True, "default", False),
        (False, "default", True),
        (False, "mail", False),
    ],
    ids=["ended", "killed: it never reported a stop", "replaced by another one"],
)
def test_lost_server_without_a_successor_is_an_error(app, stops, successor, expected):
    """A server is not reported if it was stopped normally or if another server serves its queues."""
    begin_session(app, server="vm:1", queues="mail")
    if stops:
        app.storage.renew([Renewal("s1", state="stopping")])
    app.storage.end_session("s1", () if stops else None, reason="over")
    begin_session(app, "s2", server="vm:2", queues=successor)

    reported = found(app)

    assert [is_error for is_error, _ in reported] == [True] * expected
    assert all(what.startswith("Server vm:1 has not sent a heartbeat") for _, what in reported)


def test_queue_without_a_server_is_an_error(app):
    """The jobs of a queue that no running server serves would never run."""
    begin_session(app, queues="critical:3,default:1")
    app.add.enqueue(1)
    app.add.using(queue="mail").enqueue(2)

    assert found(app) == [(True, "Queue mail: 1 job is enqueued, but no server listens to it.")]


def test_paused_queue_is_a_warning(app):
    """The warning contains the note of the pause and the number of waiting jobs."""
    begin_session(app)
    app.queues.pause("mail", note="provider is down")

    assert found(app) == [(False, "Queue mail is paused: provider is down; 0 jobs are enqueued.")]


@pytest.mark.parametrize(
    ("wait", "lacks"),
    [
        (lifecycle.unknown_task, "has task shop.add"),
        (lifecycle.unknown_serializer, "has the serializer json"),
        (
            partial(lifecycle.unread_part, what=RETRY),
            "can read its retry policy, which a newer release may have stored",
        ),
    ],
)
def test_jobs_postponed_by_servers_are_an_error(app, wait, lacks):
    """The finding names the missing task or serializer, or what cannot be read, and the number of jobs."""
    holder = begin_session(app)
    app.add.enqueue(1)
    app.storage.apply([wait(claim(app, holder), holder, at=app.storage.clock())])

    assert found(app) == [(True, f"1 job is postponed because no claiming server {lacks}.")]


@pytest.mark.parametrize(
    ("number", "counted"),
    [(600, "600 jobs are"), (2_000, "2,000 jobs are"), (2_001, "At least 2,000 jobs are")],
)
def test_jobs_are_counted_over_every_page_of_a_sample(app, number, counted):
    """Jobs are counted even if they fill more than one page.

    If the sample does not contain all of them, the finding states "at least".
    """
    begin_session(app)
    Firelock(app.storage).task(name="shop.gone")(lambda number: None).enqueue_many(
        [(one,) for one in range(number)]
    )

    assert found(app, knows_tasks=True) == [
        (False, f"{counted} enqueued for task shop.gone, which this app does not have.")
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"error": "no such zone"}, (True, "Recurring job often cannot run: no such zone")),
        (
            {"is_gone": True},
            (False, "Recurring job often is no longer declared in code, but still runs."),
        ),
        ({"is_paused": True}, (False, "Recurring job often is paused; it has never run.")),
        (
            {"is_paused": True, "error": "no such zone"},
            (False, "Recurring job often cannot run: no such zone"),
        ),
    ],
)
def test_recurring_jobs_that_do_not_run_are_found(app, change, expected):
    """The doctor reports definitions that have an error, are paused, or are no longer in the code."""
    one = app.add.recur("often", Every(timedelta(minutes=5)), 1)
    put_recurring(app.storage, attrs.evolve(one.record, **change), keep_progress=False)

    first, *others = found(app)
    assert expected == first
    assert len(others) == (len(change) > 1)


def test_continuations_of_failed_parents_are_a_warning(app):
    """Continuations of a failed parent wait until a person requeues the parent."""
    parent = app.add.enqueue(1)
    parent.then(app.add, 2)
    fail(app)
    app.storage.release(10)

    assert found(app) == [
        (False, "1 job is waiting for a parent that has failed."),
        (False, "1 job has failed, 1 of them of shop.add."),
    ]


def test_doctor_warns_about_a_storage_in_memory():
    """A storage in the memory of one process is suitable for tests, so the finding is only a warning."""
    with Firelock("memory://") as app:
        [(is_error, what)] = found(app)

    assert not is_error
    assert what.startswith("This storage belongs to one process")


def test_findings_of_the_storage_are_included():
    """The report includes the results of `diagnose()` and `describe()` of the storage."""

    class Ailing(SharedMemory):
        def diagnose(self):
            return [Finding(Severity.ERROR, "evicts", "It evicts.", "Set noeviction.")]

        def describe(self):
            return {"storage": "memory://", "durability": "none"}

    with Firelock(Ailing()) as app:
        diagnosis = diagnose(app.runtime, host_clock=app.storage.clock, knows_tasks=False)

    assert list(diagnosis.findings) == [Finding(Severity.ERROR, "evicts", "It evicts.", "Set noeviction.")]
    assert diagnosis.about["durability"] == "none"
    assert diagnosis.has_errors


@pytest.mark.parametrize(
    ("found_version", "is_error", "message"),
    [(0, False, "The storage has no schema yet"), (1, True, "needs 2"), (3, True, "supports 2")],
)
def test_schema_of_another_version_is_an_error(found_version, is_error, message):
    """An older or newer schema is an error, and a missing schema is only a note."""
    assert check_schema(SchemaState(2, 2)) is None
    finding = check_schema(SchemaState(found_version, 2))

    assert finding.is_error is is_error
    assert message in finding.what


@pytest.mark.parametrize(
    ("skew", "what"),
    [
        (2 * SECOND, []),
        (-2 * SECOND, []),
        (3 * SECOND, ["The storage's clock is 3.0 s ahead of this host's clock."]),
        (-90 * SECOND, ["The storage's clock is 2 min behind this host's clock."]),
    ],
)
def test_clock_difference_is_reported(skew, what):
    """A difference of more than two seconds is reported together with its direction."""
    assert [finding.what for finding in list_findings(Readings(0, skew=skew))] == what


def test_clock_difference_is_measured_from_the_middle_of_the_round_trip(app):
    """The storage's time is compared with the midpoint between the host's times before and after the read."""
    here = app.storage.clock() - 10 * SECOND

    diagnosis = diagnose(app.runtime, host_clock=lambda: here, knows_tasks=False)

    assert [finding.what[:31] for finding in diagnosis.findings] == ["The storage's clock is 10 s ahe"]


# ---- the command -----------------------------------------------------------------------------------------


def test_errors_make_the_command_fail(run):
    """The exit code is 1. Errors are listed first, each with its fix."""
    with Firelock("memory://ailing") as app:
        app.task(name="shop.add")(lambda: None).enqueue()

        ran = run("doctor --storage memory://ailing")

    assert ran.code == 1
    assert "error    1 job is enqueued, but no server is alive.  no_server\n         Start one:" in ran.out
    assert ran.out.endswith("1 error, 0 warnings, 1 note.\n")
    assert ran.out.index("error  ") < ran.out.index("note  ")


def test_warnings_alone_do_not_fail_the_command(run):
    """The exit code is 0 if everything works, and the JSON contains the same result."""
    ran = run("doctor --storage memory:// --json")

    answer = ran.json
    assert (ran.code, answer["is_well"]) == (0, True)
    assert [(one["severity"], one["code"], one["subject"]) for one in answer["findings"]] == [
        ("note", "not_shared", "storage")
    ]
    assert answer["about"]["servers"] == "none alive"
    assert "sql (firelock-sql " in answer["about"]["plugins"]


def test_failed_jobs_are_reported_with_the_command_that_groups_them(run):
    """Failed jobs are reported instead of "No problems found", even if the installation has no problems."""
    with Firelock("memory://failures") as app:
        begin_session(app)
        app.add = app.task(name="shop.add")(lambda user: None)
        for number in range(3):
            app.add.enqueue(number)
            fail(app)

        ran = run("doctor --storage memory://failures")

    assert ran.code == 0
    assert "No problems found" not in ran.out
    assert "3 jobs have failed, 3 of them of shop.add." in ran.out
    assert "firelock jobs failures" in ran.out


def test_no_problems_found(run, tmp_path):
    """The report about a storage without findings ends with "No problems found.", and the exit code is 0."""
    (tmp_path / "sound_shop.py").write_text(
        "from firelock import Firelock\n"
        "from firelock.storage.memory import MemoryStorage\n"
        "from firelock.storage import Feature\n"
        "class Sound(MemoryStorage):\n    features = frozenset({Feature.SHARED})\n"
        "fire = Firelock(Sound())\n"
    )

    ran = run("doctor --app", f"{tmp_path / 'sound_shop.py'}:fire")

    assert (ran.code, ran.error) == (0, "")
    assert ran.out.endswith("\nNo problems found.\n")


def test_unreachable_storage_is_a_finding(run):
    """The doctor reports a finding instead of exiting with code 3, as other commands do."""
    ran = run("doctor --storage sqlite:////no/such/folder/jobs.db")

    assert ran.code == 1
    assert "the folder /no/such/folder does not exist" in ran.out


def test_app_is_compared_with_its_jobs(run, tmp_path):
    """With --app, the tasks are imported, so the doctor finds jobs of a renamed task."""
    (tmp_path / "renamed_shop.py").write_text(
        "from firelock import Firelock\n"
        "fire = Firelock('memory://renamed')\n"
        "@fire.task\ndef new_name(): ...\n"
    )
    with Firelock("memory://renamed") as app:
        app.task(name="renamed_shop.old_name")(lambda: None).enqueue()

        ran = run("doctor --app", f"{tmp_path / 'renamed_shop.py'}:fire")

    assert "enqueued for task renamed_shop.old_name, which this app does not have." in ran.out
