"""The reasons why a job is not running, and their order."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs
import pytest

from firelock.control.servers import ServerView
from firelock.storage import ErrorInfo, JobRecord, NewSession, Renewal, SessionRecord, State
from firelock_dashboard.stats.waiting import JobWait, Parent, Weight, explain
from firelock_dashboard.web.formatting import span
from firelock_dashboard.web.texts import Texts

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
MICROS = int(NOW.timestamp()) * 1_000_000
JOB = JobRecord("j1", "shop.send", "{}", "json", State.ENQUEUED, "mail", 0, MICROS, changed_at=MICROS)


def server(queues, *, state="running", workers=4, busy=0, name="web-1"):
    session = NewSession("s1", "v1", name, "web", 1, MICROS, 30.0, workers, queues)
    record = SessionRecord(session, MICROS + 29_000_000, True, Renewal("s1", busy, state))
    return ServerView("v1", name, "web", queues, workers, NOW, True, busy, (record,))


def snapshot(*servers, job=JOB, **more):
    return JobWait(job, NOW, servers=servers, **more)


def keys(at):
    return [reason.key for reason in explain(at)]


AWAITING, SCHEDULED = {"state": State.AWAITING}, {"state": State.SCHEDULED}
LATE = attrs.evolve(
    server("*"), sessions=(attrs.evolve(server("*").sessions[0], expires_at=MICROS + 2_000_000),)
)
SEALED = "serializer 'sealed' is not installed on server host:a; waiting for a server that has it"


@pytest.mark.parametrize(
    ("servers", "job", "around", "keys", "values"),
    [
        ([server("*")], {"state": State.PROCESSING}, {}, [], {}),
        ([server("*")], {"state": State.FAILED}, {}, [], {}),
        (
            [server("*")],
            {},
            {"is_paused": True, "note": "away", "ahead": 9},
            ["why_paused_note"],
            {"note": "away"},
        ),
        ([server("*")], {}, {"is_paused": True}, ["why_paused"], {}),
        ([], {}, {}, ["why_no_servers"], {}),
        *[
            ([server(text)], {}, {"ahead": 0}, ["why_next"], {})
            for text in ("*", "other,mail", "other:3,mail:1")
        ],
        *[
            ([server(text)], {}, {"ahead": 0}, ["why_no_listener"], {})
            for text in ("other", "mailbox,e-mail:1")
        ],
        ([server("*", state="quiet")], {}, {"ahead": 0}, ["why_quiet"], {}),
        ([LATE], {}, {"ahead": 0}, ["why_next"], {}),
        (
            [server("*")],
            {},
            {"ahead": 120, "per_minute": 60},
            ["why_ahead_rate"],
            {"count": 120, "span": span(120)},
        ),
        ([server("*")], {}, {"ahead": 120}, ["why_ahead"], {}),
        ([server("*")], {}, {"ahead": 2, "is_ahead_cut": True, "per_minute": 1}, ["why_ahead_cut_rate"], {}),
        ([server("*", workers=2, busy=2)], {}, {"ahead": 0}, ["why_busy"], {}),
        ([server("*")], {}, {"ahead": 3, "is_registered": False}, ["why_unregistered"], {}),
        (
            [server("*")],
            {**SCHEDULED, "due_at": MICROS + 15, "serializer": "sealed", "reason": SEALED, "retries": 1},
            {},
            ["why_unreadable"],
            {"serializer": "sealed"},
        ),
        (
            [server("other")],
            {**SCHEDULED, "due_at": MICROS + 360_000_000},
            {},
            ["why_no_listener", "why_due"],
            {},
        ),
        (
            [server("*")],
            {**SCHEDULED, "due_at": MICROS + 9, "retries": 2, "error": ErrorInfo("E", "broke", "f")},
            {},
            ["why_retry"],
            {"error": "E: broke", "number": 2},
        ),
        ([server("*")], {**SCHEDULED, "due_at": MICROS - 60_000_000}, {}, ["why_overdue"], {}),
        *[
            ([], AWAITING, {"parents": (Parent("p", "succeeded", state),)}, [key], {})
            for state, key in (
                (State.PROCESSING, "why_parent"),
                (State.FAILED, "why_parent_failed"),
                (None, "why_parent_gone"),
            )
        ],
        *[
            (
                [],
                AWAITING,
                {"parents": (Parent("p", on, state), Parent("q", "succeeded", State.ENQUEUED))},
                ["why_parent", "why_parents_done" + end],
                {"state": State.ENQUEUED},
            )
            for on, state, end in (
                ("succeeded", State.SUCCEEDED, ""),
                ("finished", State.FAILED, "_ended"),
                ("failed", State.FAILED, "_ended"),
                ("finished", State.DELETED, "_ended"),
            )
        ],
        ([], AWAITING, {"parents": (Parent("p", "succeeded", State.SUCCEEDED),)}, ["why_parents_all"], {}),
        (
            [],
            AWAITING,
            {"parents": (Parent("p", "succeeded", State.PROCESSING),) * 13},
            [*["why_parent"] * 10, "why_parent_more"],
            {},
        ),
        ([], AWAITING, {}, ["why_no_parent"], {}),
        ([server("*")], {"session": "s9"}, {"ahead": 0}, ["why_tail", "why_next"], {}),
    ],
)
def test_every_reason_is_reported_with_its_values(servers, job, around, keys, values):
    """Each reason contains its numbers and names. A job that is running or has ended has no reasons."""
    reasons = explain(snapshot(*servers, job=attrs.evolve(JOB, **job), **around))

    assert keys == [reason.key for reason in reasons]
    assert values == {name: reasons[0].values[name] for name in values}


def test_reasons_that_need_a_person_come_first():
    """Readers start at the top of the list, where they find the problems that a person must solve."""
    job = attrs.evolve(JOB, state=State.SCHEDULED, due_at=MICROS + 10**9)

    weights = [reason.weight for reason in explain(snapshot(server("x"), job=job, is_paused=True))]

    assert sorted(weights, key=list(Weight).index) == weights


def test_every_reason_has_a_sentence():
    """Filled in with the values of its reason, each sentence is complete."""
    texts = Texts()
    at = [
        snapshot(), snapshot(server("x")), snapshot(server("*"), is_paused=True, note="n"),
        snapshot(server("*"), ahead=1, is_ahead_cut=True, per_minute=3), snapshot(server("*"), ahead=2),
        snapshot(server("*", state="quiet")), snapshot(server("*", workers=1, busy=1), ahead=0),
        snapshot(job=attrs.evolve(JOB, state=State.AWAITING, session="s")),
        snapshot(job=attrs.evolve(JOB, state=State.SCHEDULED, due_at=MICROS + 5)),
        snapshot(server("*"), is_registered=False),
        *[
            snapshot(
                job=attrs.evolve(JOB, state=State.AWAITING),
                parents=[Parent("p", "finished", state, call="load(1)") for state in states],
            )
            for states in (
                [State.PROCESSING] * 12, [State.SUCCEEDED], [State.DELETED] * 2, [None] * 12,
                [State.PROCESSING, State.SUCCEEDED], [State.PROCESSING, State.FAILED],
            )
        ],
        snapshot(
            job=attrs.evolve(JOB, state=State.AWAITING), parents=[Parent("p", "succeeded", State.FAILED)] * 12
        ),
    ]  # fmt: skip

    for reason in (reason for one in at for reason in explain(one)):
        assert "{" not in texts(f"job.{reason.key}", command="firelock server app:fire", **reason.values)
