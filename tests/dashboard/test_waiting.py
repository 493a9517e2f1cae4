"""Why a job is not running: each reason, and which of them counts first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest

from firelock.control.servers import ServerView
from firelock.storage import ErrorInfo, JobRecord, NewSession, Renewal, SessionRecord, State
from firelock_dashboard.formatting import span
from firelock_dashboard.texts import Texts
from firelock_dashboard.waiting import Parent, Waiting, Weight, explain

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
MICROS = int(NOW.timestamp()) * 1_000_000
JOB = JobRecord("j1", "shop.send", "{}", "json", State.ENQUEUED, "mail", 0, MICROS, changed_at=MICROS)


def server(queues, *, state="running", workers=4, busy=0, name="web-1"):
    session = NewSession("s1", "v1", name, "web", 1, MICROS, 30.0, workers, queues)
    record = SessionRecord(session, MICROS + 29_000_000, True, Renewal("s1", busy, state))
    return ServerView("v1", name, "web", queues, workers, NOW, True, busy, (record,))


def snapshot(*servers, job=JOB, **more):
    return Waiting(job, NOW, servers=servers, **more)


def keys(at):
    return [reason.key for reason in explain(at)]


def test_a_running_or_ended_job_needs_no_reason():
    """Only what waits is explained."""
    for state in (State.PROCESSING, State.SUCCEEDED, State.FAILED, State.DELETED):
        assert [] == explain(snapshot(job=attrs.evolve(JOB, state=state)))


def test_a_paused_queue_is_told_with_its_note():
    """And what is ahead does not matter then."""
    reasons = explain(snapshot(server("*"), is_paused=True, note="provider down", ahead=9))

    assert ["why_paused_note"] == [reason.key for reason in reasons]
    assert "provider down" == reasons[0].values["note"]
    assert ["why_paused"] == keys(snapshot(server("*"), is_paused=True))


def test_no_server_at_all_is_told():
    """With the command that starts one."""
    assert ["why_no_servers"] == keys(snapshot())


@pytest.mark.parametrize("queues", ["*", "mail", "other,mail", "other:3,mail:1"])
def test_a_server_listens_by_any_form_of_its_queues(queues):
    """Every queue, a list, or weights."""
    assert ["why_next"] == keys(snapshot(server(queues), ahead=0))


@pytest.mark.parametrize("queues", ["other", "mailbox,e-mail", "other:3,mail2:1"])
def test_a_queue_that_nobody_listens_to_is_told(queues):
    """Names are compared whole."""
    assert ["why_no_listener"] == keys(snapshot(server(queues), ahead=0))


def test_quiet_servers_are_told():
    """They listen and claim nothing."""
    assert ["why_quiet"] == keys(snapshot(server("*", state="quiet"), ahead=0))


def test_how_many_are_ahead_and_how_long_that_takes():
    """By the rate of late."""
    reasons = explain(snapshot(server("*"), ahead=120, per_minute=60))

    assert "why_ahead_rate" == reasons[0].key
    assert {"count": 120, "queue": "mail", "span": span(120)} == reasons[0].values
    assert ["why_ahead"] == keys(snapshot(server("*"), ahead=120))
    assert ["why_ahead_cut_rate"] == keys(snapshot(server("*"), ahead=2_000, is_ahead_cut=True, per_minute=1))


def test_busy_workers_are_told():
    """Nothing is ahead, and no slot is free."""
    assert ["why_busy"] == keys(snapshot(server("*", workers=2, busy=2), ahead=0))


def test_a_task_that_nobody_knows_is_told():
    """It would be handed back by every server."""
    assert ["why_unregistered"] == keys(snapshot(server("*"), ahead=3, is_registered=False))


def test_a_serializer_that_no_server_has_is_told():
    """By the reason that the server gave which put the job off, also where it was retried before."""
    reason = "serializer 'sealed' is not installed on server host:a; waiting for one that has it"
    job = attrs.evolve(
        JOB, state=State.SCHEDULED, due_at=MICROS + 15_000_000, serializer="sealed", reason=reason, retries=1
    )

    reasons = explain(snapshot(server("*"), job=job))

    assert [("why_unreadable", "sealed")] == [(one.key, one.values["serializer"]) for one in reasons]


def test_a_job_that_is_due_later_is_told_when():
    """With what else would hinder it."""
    job = attrs.evolve(JOB, state=State.SCHEDULED, due_at=MICROS + 360_000_000)

    reasons = explain(snapshot(server("*"), job=job))

    assert ["why_due"] == [reason.key for reason in reasons]
    assert span(360) == reasons[0].values["span"]
    assert ["why_no_listener", "why_due"] == keys(snapshot(server("other"), job=job))


def test_a_retry_is_told_with_its_error():
    """Which retry it is and after what."""
    job = attrs.evolve(
        JOB, state=State.SCHEDULED, due_at=MICROS + 1_000_000, retries=2, error=ErrorInfo("E", "broke", "f")
    )

    reason = explain(snapshot(server("*"), job=job))[0]

    assert "why_retry" == reason.key
    assert ("E: broke", 2) == (reason.values["error"], reason.values["number"])


def test_an_instant_that_has_passed_is_told():
    """Nobody promotes: no server looks after the storage."""
    job = attrs.evolve(JOB, state=State.SCHEDULED, due_at=MICROS - 60_000_000)

    assert "why_overdue" == explain(snapshot(server("*"), job=job))[0].key


@pytest.mark.parametrize(
    ("parent", "key", "weight"),
    [
        (Parent("p", "succeeded", State.PROCESSING), "why_parent", Weight.NOTE),
        (Parent("p", "succeeded", State.FAILED), "why_parent_failed", Weight.BAD),
        (Parent("p", "succeeded", None), "why_parent_gone", Weight.BAD),
    ],
)
def test_a_job_that_waits_for_a_parent_is_told_how_that_is(parent, key, weight):
    """A parent that ended otherwise, or is gone, needs somebody."""
    reason = explain(snapshot(job=attrs.evolve(JOB, state=State.AWAITING), parents=(parent,)))[0]

    assert (key, weight) == (reason.key, reason.weight)


def test_a_job_that_waits_for_nobody_is_told():
    """It would wait for ever."""
    assert ["why_no_parent"] == keys(snapshot(job=attrs.evolve(JOB, state=State.AWAITING)))


def test_the_tail_of_a_former_run_is_told():
    """A holder that was told to stop may still run it."""
    assert "why_tail" in keys(snapshot(server("*"), job=attrs.evolve(JOB, session="s9"), ahead=0))


def test_a_stale_server_still_claims():
    """It has missed a renewal, no more."""
    late = server("*")
    record = attrs.evolve(late.sessions[0], expires_at=MICROS + 2_000_000)

    assert ["why_next"] == keys(snapshot(attrs.evolve(late, sessions=(record,)), ahead=0))


def test_what_needs_somebody_comes_first():
    """A list is read from the top."""
    job = attrs.evolve(JOB, state=State.SCHEDULED, due_at=MICROS + 10**9)

    weights = [reason.weight for reason in explain(snapshot(server("x"), job=job, is_paused=True))]

    assert sorted(weights, key=list(Weight).index) == weights


def test_each_reason_has_its_sentence():
    """With the values that it is given."""
    texts = Texts()
    at = [
        snapshot(), snapshot(server("x")), snapshot(server("*"), is_paused=True, note="n"),
        snapshot(server("*"), ahead=1, is_ahead_cut=True, per_minute=3), snapshot(server("*"), ahead=2),
        snapshot(server("*", state="quiet")), snapshot(server("*", workers=1, busy=1), ahead=0),
        snapshot(job=attrs.evolve(JOB, state=State.AWAITING, session="s")),
        snapshot(job=attrs.evolve(JOB, state=State.SCHEDULED, due_at=MICROS + 5)),
        snapshot(server("*"), is_registered=False),
    ]  # fmt: skip

    for reason in (reason for one in at for reason in explain(one)):
        assert "{" not in texts(f"job.{reason.key}", **reason.values)


def test_the_default_of_a_snapshot_has_no_servers():
    """Nothing is known, so nobody listens."""
    assert ["why_no_servers"] == keys(Waiting(JOB, NOW + timedelta(seconds=1)))
