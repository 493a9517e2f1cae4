"""Health: what is wrong, told from a snapshot; each trouble only when it is one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest

from firelock import RecurringJob
from firelock.control.queues import QueueView
from firelock.control.servers import ServerView
from firelock.storage import Finding, NewSession, RecurringRecord, Renewal, SessionRecord
from firelock_dashboard.health import Severity, Snapshot, TroubleKind, troubles
from firelock_dashboard.stats.history import TaskStats

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


def stats(runs, failed):
    return TaskStats(runs, runs - failed, failed, 0, 0.1, 0.2, 0.1, NOW)


def kinds(**seen):
    return [trouble.kind for trouble in troubles(Snapshot(NOW, **seen))]


def only(**seen):
    (trouble,) = troubles(Snapshot(NOW, **seen))
    return trouble


def test_nothing_is_wrong_where_all_is_well():
    """Jobs that wait, a server that listens, a recurring job that comes: no trouble."""
    assert [] == kinds()
    assert [] == kinds(
        queues=[queue()], servers=[server()], recurring=[recurring()],
        oldest={"mail": NOW - timedelta(seconds=9)}, lately={"send": stats(50, 2)},
        usually={"send": stats(900, 30)}, skew_seconds=-4.0,
    )  # fmt: skip


@pytest.mark.parametrize("servers", [[], [server(is_alive=False)], [server(expires_in=-1)]])
def test_jobs_that_wait_without_any_server_are_a_trouble(servers):
    """No living server at all is said once, with how many jobs wait and since when."""
    since = NOW - timedelta(minutes=14)

    trouble = only(queues=[queue(enqueued=3), queue("bulk", 4)], servers=servers, oldest={"mail": since})

    assert (TroubleKind.NO_SERVER, Severity.BAD, 7, since) == (
        trouble.kind, trouble.severity, trouble.values["count"], trouble.since,
    )  # fmt: skip
    assert "/servers" == trouble.action.path


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
    found = kinds(queues=[queue("mail", 12)], servers=[server(queues=queues)])

    assert ([] if listens else [TroubleKind.NO_LISTENER]) == found


@pytest.mark.parametrize("state", ["quiet", "stopping"])
def test_a_server_that_takes_no_jobs_does_not_listen(state):
    """A quiet server is there, but nobody takes the jobs."""
    assert [TroubleKind.NO_LISTENER] == kinds(queues=[queue()], servers=[server(state=state)])


def test_an_empty_or_paused_queue_needs_no_listener():
    """Only jobs that wait and may run are missed by anybody."""
    seen = [queue("empty", 0), queue("held", 9, is_paused=True)]

    assert [] == kinds(queues=seen, servers=[server(queues="mail")])


def test_a_server_that_misses_renewals_has_stopped_reporting():
    """A session that was not renewed for most of its timeout is told with its name and when it was heard."""
    trouble = only(servers=[server(expires_in=5.0), server("two")])

    assert (TroubleKind.SERVER_LOST, 1, "one") == (
        trouble.kind, trouble.values["count"], trouble.values["servers"],
    )  # fmt: skip
    assert NOW - timedelta(seconds=25) == trouble.since


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

    assert ([TroubleKind.SERVER_LOST] if is_told else []) == kinds(servers=[server(), gone])


def test_a_server_that_is_back_is_not_lost():
    """A restarted server has its name back; its former sessions are of no interest."""
    gone = server("one", is_alive=False, busy=3, expires_in=-60)

    assert [] == kinds(servers=[gone, server("one")])


@pytest.mark.parametrize(
    ("lately", "usually", "severity"),
    [
        (stats(20, 4), stats(1_000, 5), Severity.WARN),
        (stats(20, 12), stats(1_000, 5), Severity.BAD),
        (stats(9, 9), stats(1_000, 5), None),
        (stats(100, 9), stats(1_000, 9), None),
        (stats(20, 4), stats(1_000, 150), None),
        (stats(20, 4), stats(20, 4), None),
        (stats(20, 12), None, Severity.BAD),
    ],
)
def test_a_task_fails_more_than_usual(lately, usually, severity):
    """A tenth at least, three times the rest of the day, ten runs; half where the day says nothing."""
    found = troubles(
        Snapshot(NOW, lately={"charge": lately}, usually={} if usually is None else {"charge": usually})
    )

    assert ([] if severity is None else [severity]) == [trouble.severity for trouble in found]


def test_recurring_jobs_that_cannot_run_or_did_not_are_told_apart():
    """An error has its text; what is late is told together, the latest first; paused ones are at rest."""
    found = troubles(
        Snapshot(
            NOW,
            recurring=[
                recurring("broken", error="the task is unknown", next_in=-300),
                recurring("late", next_in=-300),
                recurring("later", next_in=-900),
                recurring("paused", next_in=-900, is_paused=True),
                recurring("soon", next_in=-30),
            ],
        )
    )

    assert [TroubleKind.RECURRING_ERROR, TroubleKind.RECURRING_LATE] == [one.kind for one in found]
    assert "the task is unknown" == found[0].values["error"]
    assert ("later", 1) == (found[1].values["recurring"], found[1].values["others"])


def test_a_long_wait_is_a_trouble_where_somebody_listens():
    """Ten minutes at the head of a line; a paused queue waits on purpose."""
    oldest = {"mail": NOW - timedelta(minutes=10), "bulk": NOW - timedelta(minutes=9)}
    seen = {"servers": [server()], "oldest": oldest}

    assert [TroubleKind.LONG_WAIT] == kinds(queues=[queue(), queue("bulk")], **seen)
    assert [] == kinds(queues=[queue(is_paused=True)], **seen)


def test_a_paused_queue_with_many_jobs_offers_to_be_resumed():
    """The remedy is a form for whoever may pause queues."""
    trouble = only(queues=[queue("mail", 100, is_paused=True, note="until 15:00")], servers=[server()])

    assert (TroubleKind.PAUSED, "until 15:00") == (trouble.kind, trouble.values["note"])
    assert trouble.action.is_form
    assert ("/queues/resume", {"queue": "mail"}, "pause_queue") == (
        trouble.action.path, trouble.action.fields, trouble.action.permission,
    )  # fmt: skip


def test_tasks_clocks_and_findings_are_told():
    """A task that no server knows, clocks apart, and what the storage finds wrong with itself."""
    findings = [Finding(True, "The disk is full.", "Make room."), Finding(False, "No index.", "Add it.")]

    found = kinds(unknown_tasks={"old.task": 4}, skew_seconds=-42.0, findings=findings)

    assert [TroubleKind.STORAGE, TroubleKind.UNKNOWN_TASK, TroubleKind.SKEW] == found


def test_at_most_three_of_a_kind_are_shown():
    """The rest is counted, and the worst stand first."""
    queues = [queue(f"q{number}", 10 + number) for number in range(7)]

    found = troubles(Snapshot(NOW, queues=queues, servers=[server(queues="other")], skew_seconds=60))

    assert ["q6", "q5", "q4"] == [trouble.values["queue"] for trouble in found[:3]]
    assert (TroubleKind.MORE, 4, "/queues") == (
        found[3].kind, found[3].values["count"], found[3].action.path,
    )  # fmt: skip
    assert TroubleKind.SKEW == found[-1].kind
