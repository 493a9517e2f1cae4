"""Recurring jobs with limits and unique keys, which depend on the arguments.

A run is skipped if its unique key is taken.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from firelock import ConfigurationError, Cron, Firelock, Limit, Turns, Unique
from firelock.model.clock import StorageClock, micros
from firelock.model.state import State
from firelock.schedules.recurring_job import get_recurring
from firelock.server.recurring import fire_due
from firelock.storage import ClaimRequest, NewSession
from firelock.storage.memory import MemoryStorage

START = datetime(2030, 1, 1, 0, 0, 30, tzinfo=UTC)
MINUTES = "* * * * *"


class Still(MemoryStorage):
    """A storage whose clock does not advance until the test advances it."""

    def clock(self):
        return micros(START) + self.clock_offset


@pytest.fixture
def storage():
    """A storage whose clock shows 30 seconds after midnight on 1 January 2030."""
    return Still()


@pytest.fixture
def fire(storage):
    """An app over the storage."""
    with Firelock(storage) as fire:
        fire.client.clock = StorageClock(storage, monotonic=lambda: 0.0)
        yield fire


@pytest.fixture
def report(fire):
    """A task with a limit and a unique key."""

    @fire.task(
        name="report",
        limits=[Limit("day:{day}", concurrent=1)],
        unique=Unique("{day}", conflict="raise"),
        start_before=timedelta(hours=1),
    )
    def report(day: str = "mon") -> str:
        return day

    return report


def pass_minutes(storage, minutes):
    storage.clock_offset += minutes * 60_000_000


def test_run_has_the_keys_of_its_arguments(fire, report, storage):
    """The definition shows these keys."""
    definition = report.recur("id", MINUTES, "tue")
    pass_minutes(storage, 1)
    fire_due(fire.client)

    (job,) = fire.recurring.runs("id")
    assert (("day:tue",), "tue") == (job.limits, job.unique_key)
    assert START + timedelta(minutes=61) == job.start_before
    for shown in (definition, fire.recurring.get("id")):
        assert (("day:tue",), "tue", timedelta(hours=1), None) == (
            shown.limits, shown.unique_key, shown.start_within, shown.skipped,
        )  # fmt: skip


def test_run_whose_key_is_taken_is_skipped(fire, report, storage):
    """Until a run creates a job again, the definition shows the job that has the key.

    The definition's last created job stays the same.
    """
    report.recur("id", MINUTES)
    pass_minutes(storage, 1)
    fire_due(fire.client)
    (first,) = fire.recurring.runs("id")
    pass_minutes(storage, 1)

    assert 1 == fire_due(fire.client)
    definition = fire.recurring.get("id")
    assert [first] == fire.recurring.runs("id")
    assert (f"skipped: job {first.id} has its unique key", first.id, 1, None) == (
        definition.skipped, definition.record.last_job_id, definition.record.dropped, definition.error,
    )  # fmt: skip
    assert datetime(2030, 1, 1, 0, 2, tzinfo=UTC) == definition.last_at
    assert datetime(2030, 1, 1, 0, 3, tzinfo=UTC) == definition.next_at

    first.delete()
    pass_minutes(storage, 1)
    fire_due(fire.client)
    assert fire.recurring.get("id").skipped is None
    assert [State.ENQUEUED, State.DELETED] == [job.state for job in fire.recurring.runs("id")]


def test_only_the_first_missed_run_with_a_key_creates_a_job(fire, report, storage):
    """Missed runs have the same result as consecutive calls."""
    report.recur("id", Cron(MINUTES, misfire="all"))
    pass_minutes(storage, 3)

    assert 1 == fire_due(fire.client)
    (job,) = fire.recurring.runs("id")
    definition = fire.recurring.get("id")
    assert (job.id, 2) == (definition.record.last_job_id, definition.record.dropped)
    assert f"skipped: job {job.id} has its unique key" == definition.skipped


def test_run_is_skipped_while_a_deleted_job_still_runs(fire, report, storage):
    """The deleted job holds the key until it has stopped."""
    report.recur("id", MINUTES)
    pass_minutes(storage, 1)
    fire_due(fire.client)
    (job,) = fire.recurring.runs("id")
    storage.begin_session(NewSession("s", "s", "s", "h", 1, 0, 9_999))
    storage.claim(ClaimRequest(None, 1, "s", storage.clock()))
    job.delete()
    pass_minutes(storage, 1)

    assert 1 == fire_due(fire.client)
    assert [job] == fire.recurring.runs("id")
    assert f"skipped: job {job.id} has its unique key" == fire.recurring.get("id").skipped


def test_trigger_returns_the_job_that_has_the_key(fire, report):
    """A trigger is not refused, even if the task raises an error on a conflicting call."""
    report.recur("id", MINUTES)

    first, second = fire.recurring.trigger("id"), fire.recurring.trigger("id")

    assert (True, False, first) == (first.is_new, second.is_new, second)


def test_edited_arguments_change_the_keys_of_the_task(fire, report):
    """Like tags, keys of the task are computed again. Keys that were passed to the call are kept."""
    report.recur("own", MINUTES, "tue")
    report.using(limits=[Turns("k:{day}")]).recur("given", MINUTES, "tue")

    own = fire.recurring.edit("own", arguments={"day": "wed"})
    given = fire.recurring.edit("given", arguments={"day": "wed"})

    assert (("day:wed",), "wed") == (own.limits, own.unique_key)
    assert (("k:tue",), "tue") == (given.limits, given.unique_key)


def test_definition_of_an_operator_has_the_limits_of_its_task(fire, report):
    assert ("day:x",) == fire.recurring.create("report", "id", MINUTES, ["x"]).limits


def test_fixed_deadline_of_a_recurring_job_is_refused(fire, report):
    """The deadline must be relative to each run."""
    with pytest.raises(
        ConfigurationError,
        match=r"this time passes only once, but the job runs again and again\. Pass a timedelta",
    ):
        report.using(start_before=START).recur("id", MINUTES)


def test_definition_without_keys_is_stored_without_key_fields(fire, storage):
    """A server of a previous version can use the definition.

    The digest of the definition's code does not change.
    """

    @fire.task(name="plain")
    def plain() -> None: ...

    plain.recur("id", MINUTES)

    value = json.loads(storage.get_record("recurring", "id").value)
    assert set() == {"admission_json", "skipped"} & value.keys()
    assert get_recurring(storage, "id").admission_json is None
