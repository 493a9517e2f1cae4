"""The conditions of a search, from a query or typed text, and the parts of them that the storage looks up."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from firelock.storage import JobFilter, JobRecord, State
from firelock_dashboard.stats.job_search import (
    Chips,
    KnownTasks,
    argument_at,
    is_found,
    plan,
    read_typed,
)
from firelock_dashboard.web.fields import SentFields

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
MICROS = int(NOW.timestamp()) * 1_000_000
HOUR = 3_600_000_000
KNOWN = KnownTasks(
    {"shop.mail.send": ("user:{user_id}",), "shop.sms.send": (), "shop.pay.charge": ("user:{user_id}", "eu")}
)
JOB = JobRecord(
    "a" * 8, "shop.mail.send", '{"user_id":7}', "json", State.FAILED, "mail", 0, MICROS, changed_at=MICROS
)


def chips(query, **more):
    return Chips.read(SentFields.parse(query), **more)


def planned(query, arguments=None, **more):
    return plan(chips(query, **more), NOW, KNOWN, lambda job: arguments)


def test_unambiguous_short_name_selects_its_task():
    """If several tasks have the short name, the name is used unchanged and the result lists these tasks."""
    assert "shop.pay.charge" == planned("task=charge").where.task
    assert "send" == planned("task=send").where.task
    assert ("shop.mail.send", "shop.sms.send") == planned("task=send").several_tasks


def test_argument_is_looked_up_by_its_tag():
    """Each job that has the tag is still tested, because any job may have been given this tag."""
    found = planned("task=shop.mail.send&arg=user_id:7", {"user_id": 7})

    assert "user:7" == found.where.tag == found.by_tag
    assert found.accepts(JOB)
    assert not planned("task=shop.mail.send&arg=user_id:7", {"user_id": 8}).accepts(JOB)


def test_age_is_a_storage_filter_in_order_of_creation():
    """The list is ordered by creation time, so the storage can look up the period."""
    assert JobFilter(until=MICROS - 2 * HOUR) == planned("created=%3E2h").where
    assert JobFilter(since=MICROS - HOUR) == planned("created=%3C1h").where


def test_age_is_tested_per_job_in_order_of_change():
    """The age of each job is tested, because the list is not ordered by creation time.

    A maximum age also limits the period that the storage looks up, because a job cannot have changed before
    it was created.
    """
    older = planned("state=failed&created=%3E2h")
    younger = planned("state=failed&created=%3C1h")

    assert JobFilter(state=State.FAILED) == older.where
    assert not older.accepts(JOB)
    assert JobFilter(state=State.FAILED, since=MICROS - HOUR) == younger.where
    assert younger.accepts(JOB)
    assert not younger.is_whole


@pytest.mark.parametrize(
    ("typed", "chip"),
    [
        ("charge", ("task", "charge")), ("failed", ("state", "failed")), ("retrying", ("state", "retrying")),
        ("0192ab34", ("id", "0192ab34")), ("timed out", ("error", "timed out")),
        ("https://x.example/1", ("error", "https://x.example/1")), ("deadline", ("error", "deadline")),
    ],
)  # fmt: skip
def test_free_text_is_a_task_state_id_or_error(typed, chip):
    """The typed text is tried as a task, a state, an id and an error, in this order.

    The result is shown as a chip.
    """
    assert [chip] == read_typed(typed, KNOWN)


@pytest.mark.parametrize(
    ("typed", "known", "chip"),
    [
        ("200", {"customer:200"}, ("tag", "customer:200")),
        ("200", {"200"}, ("tag", "200")),
        ("200", {"customer:200", "order:200"}, ("arg", "200")),
        ("200", set(), ("arg", "200")),
        ("deadline", set(), ("error", "deadline")),
        ("zoe", {"customer:zoe"}, ("tag", "customer:zoe")),
    ],
)
def test_plain_value_is_looked_up_in_tags_and_arguments_before_errors(typed, known, chip):
    """A number on its own is usually a customer or an order, and rarely a part of an error.

    The search suggestions follow the same rule.
    """
    tasks = KnownTasks({"shop.pay": ("customer:{customer}", "order:{order}")})

    assert [chip] == read_typed(typed, tasks, kind_of=lambda word: "tag" if word in known else None)


def test_typed_text_never_raises(hostile):
    """Every string is a valid search."""
    read_typed(hostile, KNOWN)
    read_typed(f"error:{hostile}", KNOWN)


def test_argument_path_reaches_into_objects_and_lists():
    """`items.0.id` is the id of the first item."""
    assert 5 == argument_at({"items": [{"id": 5}]}, "items.0.id")
    assert argument_at({"items": []}, "items.9999999999.id") is None
    assert is_found(True, "true")
    assert is_found({"to": ["a@b.c"]}, "A@B")
    assert not is_found(None, "None")
