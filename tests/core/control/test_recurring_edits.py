"""Changes of recurring jobs by operators: checked like code, and without losing a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest

from firelock import Cron, Every, Firelock, Origin
from firelock.errors import (
    ArgumentError,
    ConfigurationError,
    JobConflict,
    JobNotFound,
    ScheduleError,
    SignatureMismatch,
    UnknownTask,
)
from firelock.model.clock import StorageClock, micros
from firelock.schedules.recurring_job import get_recurring, put_recurring
from firelock.server.recurring import fire_due
from tests.core.fakes import FailingStorage

START = datetime(2030, 1, 1, 0, 0, 30, tzinfo=UTC)


class Still(FailingStorage):
    """A storage whose clock does not advance until the test advances it."""

    def clock(self):
        return micros(START) + self.clock_offset


@pytest.fixture
def storage():
    """A storage whose clock shows 30 seconds after the start of 2030."""
    return Still()


def app(storage):
    """Return an app over the storage, without tasks."""
    fire = Firelock(storage)
    fire.client.clock = StorageClock(storage, monotonic=lambda: 0.0)
    return fire


def report(day: str = "today", copies: int = 1) -> None: ...


def with_task(storage):
    """Return an app and its task, which tags its jobs."""
    fire = app(storage)
    return fire, fire.task(name="report", tags=["day:{day}"])(report)


@pytest.fixture
def fire(storage):
    """An app with the task `report`."""
    return with_task(storage)[0]


@pytest.fixture
def declared(storage):
    """An app that declares `nightly` at two o'clock, stored as a server would store it."""
    fire, task = with_task(storage)
    fire.recurring("nightly", "0 2 * * *", "mon")(task)
    fire.recurring.sync()
    return fire


# ---- editing ---------------------------------------------------------------------------------------------


def test_edit_changes_only_the_passed_fields(declared):
    """Schedule, arguments and options can be changed alone or together. None keeps the current value."""
    before = declared.recurring.get("nightly").record

    edited = declared.recurring.edit("nightly", queue="bulk", priority=7)

    changes = {"queue": "bulk", "priority": 7, "origin": "operator", "version": before.version + 1}
    assert attrs.evolve(before, **changes) == edited.record
    assert edited == declared.recurring.get("nightly")


def test_edit_without_a_change_writes_nothing(declared, storage):
    """If a form is submitted unchanged, the definition's origin is still the code."""
    written = len(storage.called["put_record"])

    same = declared.recurring.edit(
        "nightly", schedule="0 2 * * *", arguments={"day": "mon"}, queue="default", tags=["day:mon"]
    )

    assert (Origin.CODE, written) == (same.origin, len(storage.called["put_record"]))


def test_edit_is_kept_until_the_code_changes(declared, storage):
    """A deploy with the same declaration keeps the edit; a deploy with another one replaces it."""
    declared.recurring.edit("nightly", schedule="0 5 * * *")

    declared.recurring.sync()
    after_a_deploy = declared.recurring.get("nightly")
    fire, task = with_task(storage)
    fire.recurring("nightly", "0 3 * * *", "mon")(task)
    fire.recurring.sync()
    after_a_change = fire.recurring.get("nightly")

    assert (Cron("0 5 * * *"), Origin.EDITED) == (after_a_deploy.schedule, after_a_deploy.origin)
    assert (Cron("0 3 * * *"), Origin.CODE) == (after_a_change.schedule, after_a_change.origin)


def test_edited_arguments_are_checked_like_those_of_a_call(declared):
    """Arguments are passed by name or as a list. If they are invalid, nothing is written."""
    edit = declared.recurring.edit

    assert '{"day":"tue","copies":2}' == edit("nightly", arguments={"day": "tue", "copies": 2}).arguments
    assert '{"day":"wed"}' == edit("nightly", arguments=["wed"]).arguments
    with pytest.raises(ArgumentError, match=r"'copies' \(position 2\) must be int, got str"):
        edit("nightly", arguments={"copies": "two"})
    with pytest.raises(SignatureMismatch, match=r"has no parameter 'dya'\. Did you mean 'day'"):
        edit("nightly", arguments={"dya": "mon"})
    with pytest.raises(ArgumentError, match=r"arguments must be a mapping such as .* got 'mon'"):
        edit("nightly", arguments="mon")
    assert '{"day":"wed"}' == declared.recurring.get("nightly").arguments


def test_tags_of_the_task_follow_the_edited_arguments(declared):
    """Tags from the task's templates are created again, and other tags are kept."""
    declared.recurring.edit("nightly", tags=["eu"])

    edited = declared.recurring.edit("nightly", arguments={"day": "tue"})

    assert ("day:tue", "eu") == edited.tags
    assert ("day:tue",) == declared.recurring.edit("nightly", tags=[]).tags
    with pytest.raises(ConfigurationError, match="at most 20 tags, including those of its task, got 21"):
        declared.recurring.edit("nightly", tags=[str(number) for number in range(20)])


def test_arguments_of_an_unregistered_task_cannot_be_changed(declared, storage):
    """A dashboard without the code can change all other fields."""
    other = app(storage)

    edited = other.recurring.edit("nightly", arguments={"day": "mon"}, schedule="0 4 * * *")

    assert Cron("0 4 * * *") == edited.schedule
    with pytest.raises(UnknownTask, match="Task 'report' of recurring job 'nightly' is not registered in"):
        other.recurring.edit("nightly", arguments={"day": "tue"})


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"schedule": "0 25 * * *"}, ScheduleError),
        ({"queue": "No Queue"}, ConfigurationError),
        ({"priority": 101}, ConfigurationError),
        ({"tags": "eu"}, ConfigurationError),
    ],
)
def test_edit_is_checked_like_code(declared, change, error):
    """Nothing is written if one of the checks fails."""
    with pytest.raises(error):
        declared.recurring.edit("nightly", **change)

    assert Origin.CODE == declared.recurring.get("nightly").origin


def test_edit_of_an_outdated_version_is_a_conflict(declared):
    """The operator passes the version on which the edit is based.

    Without a version, the edit is applied to the current definition.
    """
    seen = declared.recurring.get("nightly").version
    declared.recurring.edit("nightly", priority=1)

    with pytest.raises(JobConflict, match=f"now has version {seen + 1}, not {seen}"):
        declared.recurring.edit("nightly", queue="bulk", expected_version=seen)

    last = declared.recurring.edit("nightly", queue="bulk", expected_version=seen + 1)
    assert ("bulk", 1) == (last.queue, last.priority)


def test_concurrent_edits_are_both_applied(declared, storage):
    """The second edit reads the definition again and changes the result of the first edit."""
    put = storage.put_record

    def put_after_another(*args, **kwargs):
        storage.put_record = put
        put_recurring(
            storage, attrs.evolve(get_recurring(storage, "nightly"), priority=9), keep_progress=True
        )
        return put(*args, **kwargs)

    storage.put_record = put_after_another

    edited = declared.recurring.edit("nightly", queue="bulk")

    assert ("bulk", 9) == (edited.queue, edited.priority)


def meanwhile(storage, verb, what):
    """Run the function just before the next call of this method of the storage."""
    original = getattr(storage, verb)

    def call(*args, **kwargs):
        setattr(storage, verb, original)
        what()
        return original(*args, **kwargs)

    setattr(storage, verb, call)


def test_run_created_during_a_schedule_edit_is_kept(declared, storage):
    """The next due time takes the new job into account, so that no other job overlaps it."""
    declared.recurring.edit("nightly", schedule=Cron("0 2 * * *", overlap="skip"))
    storage.clock_offset += (2 * 3_600 - 31) * 1_000_000  # a second before two

    def fire_meanwhile():
        storage.clock_offset += 2_000_000
        fire_due(declared.client)

    meanwhile(storage, "put_record", fire_meanwhile)
    edited = declared.recurring.edit("nightly", schedule=Cron("30 * * * *", overlap="skip"))
    storage.clock_offset += 3_600_000_000
    fire_due(declared.client)

    (job,) = declared.recurring.runs("nightly")
    assert (job.id, datetime(2030, 1, 1, 2, tzinfo=UTC)) == (edited.record.last_job_id, edited.last_at)
    assert datetime(2030, 1, 1, 2, 30, tzinfo=UTC) == edited.next_at
    assert 1 == declared.recurring.get("nightly").record.dropped


def test_edit_applies_to_a_definition_that_was_added_again(declared, storage):
    """The new definition has the same version as the previous one, but does not inherit any other data."""

    def add_again():
        declared.recurring.remove("nightly")
        storage.clock_offset += 1
        declared.recurring.create("report", "nightly", "0 3 * * *", {"day": "fri"})

    meanwhile(storage, "put_record", add_again)
    edited = declared.recurring.edit("nightly", queue="bulk")

    assert ("bulk", '{"day":"fri"}', Cron("0 3 * * *")) == (edited.queue, edited.arguments, edited.schedule)


def test_second_resume_keeps_the_due_time(declared, storage):
    """The second resume happens when the job is already due, so the job runs."""
    declared.recurring.pause("nightly")
    storage.clock_offset += (2 * 3_600 - 31) * 1_000_000  # a second before two

    def resume_meanwhile():
        declared.recurring.resume("nightly")
        storage.clock_offset += 2_000_000

    meanwhile(storage, "put_record", resume_meanwhile)
    resumed = declared.recurring.resume("nightly")

    assert (datetime(2030, 1, 1, 2, tzinfo=UTC), 1) == (resumed.next_at, fire_due(declared.client))


def test_missing_definition_cannot_be_edited_or_reset(fire):
    for verb in (fire.recurring.edit, fire.recurring.reset):
        with pytest.raises(JobNotFound, match="Recurring job 'nightly' was not found"):
            verb("nightly")


# ---- creating --------------------------------------------------------------------------------------------


def test_operator_can_create_a_definition(fire):
    """The definition runs like any other, but the code does not contain it."""
    created = fire.recurring.create(
        "report", "extra", "0 6 * * *", {"day": "fri"}, queue="bulk", priority=3, tags=["eu"], timeout=60
    )

    record = created.record
    assert ('{"day":"fri"}', "bulk", 3, ("day:fri", "eu"), 60.0) == (
        record.arguments, record.queue, record.priority, record.tags, record.timeout_seconds,
    )  # fmt: skip
    assert (Origin.CREATED, datetime(2030, 1, 1, 6, tzinfo=UTC)) == (created.origin, created.next_at)
    fire.recurring.sync()
    assert not fire.recurring.get("extra").is_gone


def test_existing_id_or_unknown_task_is_refused(declared):
    """The error states what to do, and nothing is created."""
    with pytest.raises(JobConflict, match="'nightly' already exists; edit it, or use another id"):
        declared.recurring.create("report", "nightly", "0 6 * * *")
    with pytest.raises(UnknownTask, match="Task 'nobody' is not registered in this app"):
        declared.recurring.create("nobody", "extra", "0 6 * * *")
    with pytest.raises(ConfigurationError, match=r"Recurring id must be .*, got ''"):
        declared.recurring.create("report", "", "0 6 * * *")
    with pytest.raises(ScheduleError):
        declared.recurring.create("report", "extra", "")


# ---- origins ---------------------------------------------------------------------------------------------


def test_each_definition_has_its_origin(declared):
    """The origin is code, a call, an edit of one of these, or an operator."""
    called = declared.task_named("report").recur("called", "0 1 * * *")
    declared.recurring.create("report", "created", "0 1 * * *")
    edited = declared.recurring.edit("nightly", priority=1)

    assert Origin.CALL == called.origin
    assert (Origin.EDITED, "code, edited") == (edited.origin, str(edited.origin))
    assert Origin.CREATED == declared.recurring.get("created").origin
    assert Origin.EDITED == declared.recurring.edit("called", priority=1).origin


def test_only_a_declaration_can_be_missing_from_the_code(declared, storage):
    """An edited declaration that was removed from the code is missing as well.

    Definitions by `recur` and by operators are not declared, so they are never missing.
    """
    declared.task_named("report").recur("called", "0 1 * * *")
    declared.recurring.create("report", "created", "0 1 * * *")
    for recurring_id in ("nightly", "called"):
        declared.recurring.edit(recurring_id, priority=1)

    fire, _ = with_task(storage)
    fire.recurring.sync()

    assert {"nightly": True, "called": False, "created": False} == {
        one.id: one.is_gone for one in fire.recurring
    }


# ---- resetting -------------------------------------------------------------------------------------------


def test_reset_in_the_declaring_app_is_immediate(declared):
    """The reset removes the edit and its mark."""
    declared.recurring.edit("nightly", schedule="0 5 * * *", arguments={"day": "sun"})

    reset = declared.recurring.reset("nightly")

    assert (Origin.CODE, False, Cron("0 2 * * *"), '{"day":"mon"}') == (
        reset.origin, reset.awaits_code, reset.schedule, reset.arguments,
    )  # fmt: skip
    assert datetime(2030, 1, 1, 2, tzinfo=UTC) == reset.next_at


def test_reset_in_another_app_waits_for_a_declaring_server(declared, storage):
    """Until a server declares the definition, the edit applies. The result of the reset shows this."""
    declared.recurring.edit("nightly", schedule="0 5 * * *")
    other = app(storage)

    reset = other.recurring.reset("nightly")
    again = other.recurring.reset("nightly")
    declared.recurring.sync()

    assert (Origin.EDITED, True, Cron("0 5 * * *")) == (reset.origin, reset.awaits_code, reset.schedule)
    assert reset == again
    after = declared.recurring.get("nightly")
    assert (Origin.CODE, False, Cron("0 2 * * *")) == (after.origin, after.awaits_code, after.schedule)


def test_reset_of_a_recur_definition_waits_for_the_next_call(fire):
    """There is no declaration to read, so the next call of `recur` writes the definition again."""
    task = fire.task_named("report")
    task.recur("called", "0 1 * * *")
    fire.recurring.edit("called", schedule="0 5 * * *")

    reset = fire.recurring.reset("called")
    written = task.recur("called", "0 1 * * *")

    assert reset.awaits_code
    assert (Origin.CALL, Cron("0 1 * * *")) == (written.origin, written.schedule)


def test_reset_of_an_unedited_definition_changes_nothing(declared, storage):
    """For a definition that an operator created, the reset is refused."""
    before = declared.recurring.get("nightly")
    declared.recurring.create("report", "created", "0 1 * * *")

    assert before == app(storage).recurring.reset("nightly") == declared.recurring.reset("nightly")
    with pytest.raises(JobConflict, match="'created' was never declared in code; edit it, or remove it"):
        declared.recurring.reset("created")


# ---- upcoming and past runs ------------------------------------------------------------------------------


def test_upcoming_times_are_listed_for_a_definition_or_a_schedule(declared):
    """The times start at the storage's current time or at a given time."""
    days = [datetime(2030, 1, day, 2, tzinfo=UTC) for day in (1, 2, 3)]

    assert days == declared.recurring.next_instants("nightly", 3)
    assert days[1:] == declared.recurring.next_instants(Cron("0 2 * * *"), 2, after=days[0])
    assert [None, None] == [one.note for one in declared.recurring.upcoming("nightly", 2)]
    with pytest.raises(JobNotFound):
        declared.recurring.upcoming("0 2 * * *")


@pytest.mark.parametrize(
    ("expression", "day", "note"),
    [
        ("30 2 * * *", (2026, 3, 29), "02:30 does not exist on 29 March: runs at 03:00"),
        (
            "*/15 2 * * *", (2026, 3, 29),
            "02:00 to 03:00 does not exist on 29 March: its 4 times run once, at 03:00",
        ),
        (
            "0 2,3 * * *", (2026, 3, 29),
            "02:00 does not exist on 29 March: the run at 03:00 replaces it",
        ),
        ("30 2 * * *", (2026, 10, 25), "02:30 occurs twice on 25 October: runs once, the first time"),
        ("30 4 * * *", (2026, 3, 29), None),
        ("30 2 * * *", (2026, 3, 28), None),
    ],
)  # fmt: skip
def test_clock_change_is_noted_on_a_run(fire, expression, day, note):
    """The note on a run explains a wall time that does not exist or occurs twice."""
    after = datetime(*day, tzinfo=UTC) - timedelta(hours=3)

    first = fire.recurring.upcoming(Cron(expression, tz="Europe/Berlin"), 1, after=after)[0]

    assert note == first.note


def test_step_schedule_runs_in_both_repeated_hours(fire):
    """The note on each run states whether it is in the first or the second of these hours."""
    hourly = Cron("30 * * * *", tz="Europe/Berlin")

    both = fire.recurring.upcoming(hourly, 4, after=datetime(2026, 10, 24, 23, tzinfo=UTC))

    comes_twice = "02:30 occurs twice on 25 October: runs both times, this is the"
    assert [None, f"{comes_twice} first", f"{comes_twice} second", None] == [one.note for one in both]


def test_interval_ignores_a_clock_change(fire):
    span = Every(timedelta(hours=1))

    notes = {
        one.note for one in fire.recurring.upcoming(span, 5, after=datetime(2026, 3, 28, 23, tzinfo=UTC))
    }

    assert {None} == notes


def test_runs_of_a_definition_are_newest_first(declared, storage):
    """The number of returned runs can be limited."""
    declared.recurring.edit("nightly", schedule="* * * * *")
    jobs = []
    for _ in range(3):
        jobs.append(declared.recurring.trigger("nightly"))
        storage.clock_offset += 1_000_000

    assert [jobs[2], jobs[1]] == declared.recurring.runs("nightly", 2)
    assert jobs[::-1] == declared.recurring.runs("nightly")
