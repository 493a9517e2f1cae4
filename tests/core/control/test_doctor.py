"""What the doctor tells whoever watches, out of one sight; each trouble only when it is one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from firelock import Diagnosis, Firelock, RecurringJob
from firelock.control.doctor import Sight, check_running
from firelock.control.queues import QueueView
from firelock.control.servers import ServerView
from firelock.errors import SchemaMismatch, StorageUnavailable
from firelock.recurring_job import RecurringRecord
from firelock.storage import Finding, NewSession, Renewal, SessionRecord
from tests.core.fakes import FailingStorage

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
MICROS = 1_000_000


def at(**span):
    return int((NOW + timedelta(**span)).timestamp() * MICROS)


def queue(name="mail", enqueued=5, **fields):
    return QueueView(name, enqueued, 0, 0, fields.get("is_paused", False), fields.get("note"))


def server(name="one", queues="*", *, expires_in=30.0, is_alive=True, busy=0, state="running"):
    session = NewSession(f"s-{name}", f"id-{name}", name, "host", 1, at(hours=-1), 30.0, 10, queues)
    record = SessionRecord(session, at(seconds=expires_in), is_alive, Renewal(session.id, busy, state))
    return ServerView(f"id-{name}", name, "host", queues, 10, NOW, is_alive, busy, (record,))


def recurring(recurring_id="nightly", *, next_in=3_600.0, **fields):
    record = RecurringRecord(recurring_id, "tasks.report", "", "json", "", "default", **fields)
    return RecurringJob(attrs.evolve(record, next_at=at(seconds=next_in)))


@attrs.frozen
class Ended:
    """How a task's attempts ended."""

    runs: int
    failed_attempts: int


def found(**seen):
    return check_running(Sight(at(), **seen))


def kinds(**seen):
    return [finding.code for finding in found(**seen)]


def only(**seen):
    (finding,) = found(**seen)
    return finding


def test_nothing_is_wrong_where_all_is_well():
    """Jobs that wait, a server that listens, a recurring job that comes: no trouble."""
    assert [] == kinds()
    assert [] == kinds(
        queues=[queue()], servers=[server()], recurring=[recurring()],
        oldest={"mail": at(seconds=-9)}, lately={"send": Ended(50, 2)},
        usually={"send": Ended(900, 30)}, skew=-2 * MICROS,
    )  # fmt: skip


@pytest.mark.parametrize("servers", [[], [server(is_alive=False)], [server(expires_in=-1)]])
def test_jobs_that_wait_without_any_server_are_a_trouble(servers):
    """No living server at all is said once, with how many jobs wait and since when."""
    since = at(minutes=-14)

    trouble = only(queues=[queue(enqueued=3), queue("bulk", 4)], servers=servers, oldest={"mail": since})

    assert ("no_server", True, 7, since) == (
        trouble.code, trouble.is_error, trouble.values["count"], trouble.since,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("queues", "listens"),
    [
        ("*", True),
        ("mail", True),
        ("bulk,mail", True),
        ("bulk:3,mail:1", True),
        ("bulk", False),
        ("email", False),
    ],
)
def test_a_queue_that_no_server_listens_to_is_a_trouble(queues, listens):
    """What a server listens to is read from its text: all, a list, or weights."""
    told = kinds(queues=[queue("mail", 12)], servers=[server(queues=queues)])

    assert ([] if listens else ["no_listener"]) == told


@pytest.mark.parametrize(("state", "told"), [("quiet", ["no_listener"]), ("stopping", [])])
def test_a_server_that_takes_no_jobs_does_not_listen(state, told):
    """A quiet server is there, but nobody takes the jobs; one that stops is soon gone, as in each deploy."""
    assert told == kinds(queues=[queue()], servers=[server(state=state)])


def test_an_empty_or_paused_queue_needs_no_listener():
    """Only jobs that wait and may run are missed by anybody."""
    seen = [queue("empty", 0), queue("held", 9, is_paused=True)]

    assert [] == kinds(queues=seen, servers=[server(queues="mail")])


def test_a_server_that_misses_renewals_has_stopped_reporting():
    """A session that was not renewed for most of its timeout is told with its name and when it was heard."""
    trouble = only(servers=[server(expires_in=5.0), server("two")])

    assert ("server_lost", 1, "one") == (
        trouble.code, trouble.values["count"], trouble.values["servers"],
    )  # fmt: skip
    assert at(seconds=-25) == trouble.since


@pytest.mark.parametrize(
    ("lost", "is_told"),
    [
        ({"busy": 3}, True),
        ({"busy": 0}, False),
        ({"busy": 3, "state": "stopping"}, False),
        ({"busy": 3, "expires_in": -7_200}, False),
    ],
)
def test_a_server_that_died_in_the_midst_of_work_is_told_for_an_hour(lost, is_told):
    """One that stopped in order, or had nothing to do, is no trouble."""
    gone = server("two", is_alive=False, **{"expires_in": -60, **lost})

    assert (["server_lost"] if is_told else []) == kinds(servers=[server(), gone])


def test_a_server_that_is_back_is_not_lost():
    """A restarted server has its name back; its former sessions are of no interest."""
    gone = server("one", is_alive=False, busy=3, expires_in=-60)

    assert [] == kinds(servers=[gone, server("one")])


@pytest.mark.parametrize(
    ("lately", "usually", "is_error"),
    [
        (Ended(20, 4), Ended(1_000, 5), False),
        (Ended(20, 12), Ended(1_000, 5), True),
        (Ended(9, 9), Ended(1_000, 5), None),
        (Ended(100, 9), Ended(1_000, 9), None),
        (Ended(20, 4), Ended(1_000, 150), None),
        (Ended(20, 4), Ended(20, 4), None),
        (Ended(20, 12), None, True),
    ],
)
def test_a_task_fails_more_than_usual(lately, usually, is_error):
    """A tenth at least, three times the rest of the day, ten runs; half where the day says nothing."""
    told = found(lately={"charge": lately}, usually={} if usually is None else {"charge": usually})

    assert ([] if is_error is None else [is_error]) == [finding.is_error for finding in told]


@pytest.mark.parametrize(("share", "told"), [(0.0, [0.6]), (0.5, [0.3]), (0.9, []), (1.0, [])])
def test_what_is_muted_is_not_told(share, told):
    """Of 20 runs 12 failed: with half of them muted three in ten, with nine of ten too few to tell of."""
    failing = found(lately={"t": Ended(20, 12)}, usually={"t": Ended(520, 12)}, muted={"t": share})

    assert told == [finding.values["rate"] for finding in failing]


def test_recurring_jobs_that_cannot_run_or_did_not_are_told_apart():
    """An error has its text; what is late is told together, the latest first; paused ones are at rest."""
    told = found(
        recurring=[
            recurring("broken", error="the task is unknown", next_in=-300),
            recurring("late", next_in=-300),
            recurring("later", next_in=-900),
            recurring("paused", next_in=-900, is_paused=True),
            recurring("soon", next_in=-30),
        ]
    )

    assert ["recurring_error", "recurring_late"] == [one.code for one in told]
    assert "the task is unknown" == told[0].values["error"]
    assert ("later", 1) == (told[1].values["recurring"], told[1].values["others"])


def test_a_long_wait_is_a_trouble_where_somebody_listens():
    """Ten minutes at the head of a line; a paused queue waits on purpose."""
    oldest = {"mail": at(minutes=-10), "bulk": at(minutes=-9)}
    seen = {"servers": [server()], "oldest": oldest}

    assert ["long_wait"] == kinds(queues=[queue(), queue("bulk")], **seen)
    assert [] == kinds(queues=[queue(is_paused=True)], **seen)


def test_a_paused_queue_with_many_jobs_is_told_with_its_note():
    """Somebody may have forgotten it."""
    trouble = only(queues=[queue("mail", 100, is_paused=True, note="until 15:00")], servers=[server()])

    assert ("paused", "until 15:00") == (trouble.code, trouble.values["note"])
    assert [] == kinds(queues=[queue("mail", 99, is_paused=True)], servers=[server()])


def test_tasks_clocks_and_findings_are_told():
    """A task that no server knows, clocks apart, and what the storage finds wrong with itself."""
    findings = [Finding(True, "The disk is full.", "Make room."), Finding(False, "No index.", "Add it.")]

    told = kinds(unknown_tasks={"old.task": 4}, skew=-42 * MICROS, storage=findings)

    assert ["storage", "unknown_task", "skew"] == told


@pytest.fixture
def storage():
    """A storage that fails as told."""
    return FailingStorage()


def words(diagnosis):
    """What was found, in one text."""
    return "\n".join(finding.what for finding in diagnosis.findings)


def test_an_app_finds_what_doctor_finds(storage):
    """Findings with what to do, and what was looked at; the same without blocking."""
    fire = Firelock(storage)
    fire.task(name="report")(lambda: None).enqueue()

    diagnosis = fire.diagnose()

    assert isinstance(diagnosis, Diagnosis)
    assert diagnosis.has_errors
    assert (
        "no_server",
        "1 job is enqueued and no server is alive.",
        "Start one: firelock server app:fire",
    ) in [(finding.code, finding.what, finding.mend) for finding in diagnosis.findings]
    assert storage.url == diagnosis.about["storage"]
    assert words(diagnosis) == words(asyncio.run(fire.adiagnose()))


def test_jobs_are_compared_with_tasks_where_the_app_has_them(storage):
    """An app without a task knows nothing of them; it can be told otherwise."""
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
        (StorageUnavailable("it is away"), "Start it, or mend its address"),
        (SchemaMismatch("Its tables are of an older release; run firelock migrate."), "Do that first"),
    ],
)
def test_the_advice_fits_what_stops_the_look(storage, error, advice):
    """A storage that does not answer is a finding, not an exception."""
    storage.fail_always("counts", error)

    finding = Firelock(storage).diagnose().findings[-1]

    assert (True, str(error)) == (finding.is_error, finding.what)
    assert finding.mend.startswith(advice)
