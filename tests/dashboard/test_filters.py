"""What is asked for, by query or as typed, and what of it a storage looks up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest

from firelock.storage import ErrorInfo, JobFilter, JobRecord, State
from firelock_dashboard.fields import SentFields
from firelock_dashboard.job_search import Age, Chips, KnownTasks, argument_at, is_found, plan, read_typed
from firelock_dashboard.problems import BadRequest

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


def test_a_query_is_read_and_written_back_in_one_order():
    """Whatever the order in which chips were asked for, one address stands for them."""
    read = chips("error=Timeout&tag=eu&task=shop.mail.send&state=failed&tag=vip&created=%3E2h")

    written = {name: value for name, value in read.query().items() if value}

    assert list(written) == ["state", "task", "tag", "error", "created"]
    assert ("eu", "vip") == written["tag"]


def test_each_chip_knows_the_query_without_it():
    """A chip is dropped alone: the others and the state stay."""
    shown = chips("state=failed&tag=eu&tag=vip&error=x").shown()

    assert ["tag", "tag", "error"] == [chip.name for chip in shown]
    assert ("vip",) == shown[0].rest["tag"]
    assert "failed" == shown[0].rest["state"]
    assert shown[2].rest["error"] is None


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("state=gone", "state="), ("created=2h", "created="), ("created=%3C9999999999h", "created="),
        ("since=yesterday", "since="), ("since=2026-01-01T00:00:00", "zone"), ("task=" + "x" * 201, "task"),
        ("since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", "until"), ("tag=%00", "tag"),
        ("&".join("tag=x" for _ in range(11)), "tag"), ("state=failed&state=enqueued", "state"),
    ],
)  # fmt: skip
def test_a_wrong_chip_is_refused_by_name(query, word):
    """The message names the field."""
    with pytest.raises(BadRequest, match=word):
        chips(query)


def test_an_age_is_younger_or_older_than_a_span():
    """`<30m` is younger, `>2h` is older."""
    assert Age("<30m", False, timedelta(minutes=30)) == Age.read("<30m")
    assert Age.read(">2h").is_older


def test_chips_that_a_storage_knows_become_its_filter():
    """Nothing is left to be tested then."""
    found = planned(
        "state=failed&task=shop.mail.send&queue=mail&tag=eu&server=w1&id=0192&recurring=r&parent=p"
    )

    expected = JobFilter(
        State.FAILED, "shop.mail.send", "mail", "eu", "w1", None, "r", "0192", "p", None, None, None
    )
    assert expected == found.where
    assert () == found.tests
    assert found.is_whole


def test_a_short_name_of_one_task_stands_for_it():
    """Where several tasks are called so, the name is taken as it is and the others are told."""
    assert "shop.pay.charge" == planned("task=charge").where.task
    assert "send" == planned("task=send").where.task
    assert ("shop.mail.send", "shop.sms.send") == planned("task=send").several_tasks


def test_retries_are_scheduled_jobs_with_retries():
    """The list of retries has a filter of its own."""
    found = planned("queue=mail", is_retrying=True)

    assert JobFilter(state=State.SCHEDULED, queue="mail", is_retrying=True) == found.where


def test_an_argument_is_looked_up_by_the_tag_that_its_task_makes_of_it():
    """And each job found is tested still, since anybody may have given it that tag."""
    found = planned("task=shop.mail.send&arg=user_id:7", {"user_id": 7})

    assert "user:7" == found.where.tag == found.by_tag
    assert found.accepts(JOB)
    assert not planned("task=shop.mail.send&arg=user_id:7", {"user_id": 8}).accepts(JOB)


def test_an_argument_without_a_tag_is_searched_for():
    """Then no tag is looked up."""
    found = planned("task=shop.sms.send&arg=user_id:7", {"user_id": 7})

    assert found.where.tag is None
    assert found.accepts(JOB)
    assert not found.is_whole


def test_an_argument_that_may_not_be_seen_matches_nothing():
    """Whoever may not see arguments learns nothing about them by searching."""
    assert not planned("arg=user_id:7", None).accepts(JOB)


def test_the_words_of_an_error_are_found_in_type_and_message():
    """Upper and lower case alike."""
    failed = attrs.evolve(JOB, error=ErrorInfo("app.TimeoutError", "SMTP is slow", "f"))
    found = planned("error=timeouterror: smtp")

    assert found.accepts(failed)
    assert not found.accepts(JOB)
    assert {"error": "timeouterror: smtp"} == found.contains
    assert found.is_whole


def test_the_age_is_a_window_where_the_list_is_in_order_of_creation():
    """So the storage looks it up."""
    assert JobFilter(until=MICROS - 2 * HOUR) == planned("created=%3E2h").where
    assert JobFilter(since=MICROS - HOUR) == planned("created=%3C1h").where


def test_the_age_is_tested_where_the_list_is_in_order_of_change():
    """What changed earlier was created earlier: the window still bounds how far is looked."""
    older = planned("state=failed&created=%3E2h")
    younger = planned("state=failed&created=%3C1h")

    assert JobFilter(state=State.FAILED) == older.where
    assert not older.accepts(JOB)
    assert JobFilter(state=State.FAILED, since=MICROS - HOUR) == younger.where
    assert younger.accepts(JOB)
    assert not younger.is_whole


def test_several_tags_are_all_wanted():
    """A storage looks up the first, the rest is tested."""
    found = planned("tag=eu&tag=vip")

    assert "eu" == found.where.tag
    assert found.accepts(attrs.evolve(JOB, tags=("eu", "vip")))
    assert not found.accepts(attrs.evolve(JOB, tags=("eu",)))


def test_typed_text_becomes_chips():
    """Names with a colon, quotes for blanks, and the dotted form of an argument."""
    typed = 'state:failed task:charge args.user_id:7 created:>2h error:"too many rows" tag:eu tag:vip'

    expected = [
        ("state", "failed"), ("task", "charge"), ("created", ">2h"), ("error", "too many rows"),
        ("arg", "user_id:7"), ("tag", "eu"), ("tag", "vip"),
    ]  # fmt: skip
    assert expected == read_typed(typed, KNOWN)


@pytest.mark.parametrize(
    ("typed", "chip"),
    [
        ("charge", ("task", "charge")), ("failed", ("state", "failed")), ("retrying", ("state", "retrying")),
        ("0192ab34", ("id", "0192ab34")), ("timed out", ("error", "timed out")),
        ("https://x.example/1", ("error", "https://x.example/1")), ("deadline", ("error", "deadline")),
    ],
)  # fmt: skip
def test_free_text_is_a_task_a_state_an_id_or_words_of_an_error(typed, chip):
    """In this order; what it was taken for is shown as a chip."""
    assert [chip] == read_typed(typed, KNOWN)


def test_typed_chips_are_added_to_those_that_hold():
    """A later one takes the place of an earlier one of its name."""
    former = chips("state=failed&queue=mail&tag=eu").query()

    added = dict(read_typed("queue:slow tag:vip", KNOWN, former)[:2])

    assert {"state": "failed", "queue": "slow"} == added
    assert ("tag", "vip") in read_typed("queue:slow tag:vip", KNOWN, former)
    assert ("tag", "eu") in read_typed("queue:slow tag:vip", KNOWN, former)


def test_what_was_typed_never_raises(hostile):
    """Any text is some search."""
    read_typed(hostile, KNOWN)
    read_typed(f"error:{hostile}", KNOWN)


def test_a_path_leads_into_objects_and_lists():
    """`items.0.id` is the id of the first item."""
    assert 5 == argument_at({"items": [{"id": 5}]}, "items.0.id")
    assert argument_at({"items": []}, "items.9999999999.id") is None
    assert is_found(True, "true")
    assert is_found({"to": ["a@b.c"]}, "A@B")
    assert not is_found(None, "None")
