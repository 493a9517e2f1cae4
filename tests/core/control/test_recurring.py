"""Recurring jobs: they are defined once, run once per due time, and keep the changes of operators."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from firelock import Cron, Firelock, Retry
from firelock.control.findings import list_findings, take_readings
from firelock.errors import (
    ArgumentError,
    ConfigurationError,
    JobConflict,
    JobNotFound,
    StorageError,
    StorageUnavailable,
)
from firelock.model.clock import SECOND, StorageClock, from_micros, micros
from firelock.model.state import State
from firelock.schedules.cron import schedule_to_json
from firelock.schedules.recurring_job import get_recurring, put_recurring
from firelock.server.recurring import fire_due
from firelock.testing.conformance.race import race
from tests.core.fakes import FailingStorage, Worker

START = datetime(2030, 1, 1, 0, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Still(FailingStorage):
    """A storage whose clock does not advance until the test advances it."""

    def __init__(self, name=""):
        super().__init__(name)
        self.at = micros(START)

    def clock(self):
        return self.at + self.clock_offset


@pytest.fixture
def storage():
    """A storage whose clock shows 30 seconds after midnight on 1 January 2030."""
    return Still()


def report(day: str = "today") -> str:
    return day


def make_app(storage, **options):
    """Return an app over the storage, and a task."""
    fire = Firelock(storage)
    fire.client.clock = StorageClock(storage, monotonic=lambda: 0.0)
    return fire, fire.task(name="report", queue="reports", priority=2, **options)(report)


@pytest.fixture
def fire(storage):
    """An app with a task named report."""
    fire, _ = make_app(storage)
    yield fire
    fire.close()


@pytest.fixture
def reporting(fire):
    """The task of the app."""
    return fire.task(name="report", queue="reports", priority=2)(report)


@pytest.fixture
def advance(storage):
    """A function that advances the storage's clock and returns the new time."""

    def advance(**span):
        storage.clock_offset += timedelta(**span) // timedelta(microseconds=1)
        return from_micros(storage.clock())

    return advance


def due_at(jobs):
    """Return the due times of the jobs as minutes after midnight."""
    return [(from_micros(job.record().nominal_at) - START.replace(second=0)) // MINUTE for job in jobs]


def made(fire, recurring_id="id"):
    """Return the jobs of a definition, ordered by their due times."""
    jobs = fire.jobs.find(recurring=recurring_id, limit=500)
    return sorted(jobs, key=lambda job: job.record().nominal_at)


# ---- defining --------------------------------------------------------------------------------------------


def test_definition_is_stored_with_its_call(fire, reporting):
    """The definition contains the task, arguments, options, schedule and the next due time."""
    task = reporting.using(
        queue="bulk", tags=["x"], timeout=5, retry=Retry(attempts=1), meta={"tenant": "acme"}
    )
    definition = task.recur("nightly", Cron.daily(2, tz="Europe/Istanbul"), day="sales")

    record = definition.record
    assert ("report", '{"day":"sales"}', "bulk", 2, ("x",), 5.0, "call", 1) == (
        record.task, record.arguments, record.queue, record.priority, record.tags, record.timeout_seconds,
        record.origin, record.version,
    )  # fmt: skip
    assert Retry(attempts=1) == Retry.from_json(record.retry)
    assert ("nightly", "report", Cron.daily(2, tz="Europe/Istanbul"), "bulk", False, None, None) == (
        definition.id, definition.task, definition.schedule, definition.queue, definition.is_paused,
        definition.last_at, definition.error,
    )  # fmt: skip
    assert datetime(2030, 1, 1, 23, tzinfo=UTC) == definition.next_at
    assert definition == fire.recurring.get("nightly")
    assert {"tenant": "acme"} == definition.meta


def test_unchanged_definition_is_not_written_again(reporting, storage):
    """A script that runs at every deploy costs only one read."""
    first = reporting.recur("id", "0 2 * * *")

    again = asyncio.run(reporting.arecur("id", "0 2 * * *"))

    assert first == again
    assert 1 == len(storage.called["put_record"])


def test_changed_definition_keeps_other_fields(reporting, fire, advance):
    """Creation time, progress and pause are kept, and the version increases."""
    reporting.recur("id", "* * * * *", "a")
    advance(minutes=1)
    fire_due(fire.client)
    fire.recurring.pause("id")

    changed = reporting.recur("id", "* * * * *", "b").record

    assert ('{"day":"b"}', True, micros(START)) == (changed.arguments, changed.is_paused, changed.created_at)
    assert (micros(START.replace(minute=1, second=0)), made(fire)[0].id) == (
        changed.last_at,
        changed.last_job_id,
    )
    assert micros(START + MINUTE) == changed.updated_at


@pytest.mark.parametrize("recurring_id", ["", "x" * 201, "a\nb", "a\0", 7, None])
def test_invalid_id_is_refused(fire, reporting, recurring_id):
    """A call and a declaration both refuse an invalid id, and nothing is stored."""
    with pytest.raises(ConfigurationError, match=r"Recurring id must be 1 to 200 printable characters, got "):
        reporting.recur(recurring_id, "* * * * *")
    with pytest.raises(ConfigurationError, match="Recurring id"):
        fire.recurring(recurring_id, "* * * * *")

    assert [] == fire.recurring.list()


@pytest.mark.parametrize(
    "recurring_id", ["Ünïcode 🔥", "a/b:c", "'; drop table job; --", "x" * 200, " padded "]
)
def test_id_is_stored_exactly(fire, reporting, recurring_id):
    """Any printable string is a valid id, and different strings are different ids."""
    reporting.recur(recurring_id, "* * * * *")

    assert [recurring_id] == [definition.id for definition in fire.recurring.list()]


@pytest.mark.parametrize("options", [{"delay": 5}, {"at": START}, {"on": "failed"}, {"within": object()}])
def test_recurring_job_accepts_no_due_time_and_no_transaction(fire, reporting, options):
    """The schedule determines when the job runs."""
    with pytest.raises(
        ConfigurationError,
        match=f"A recurring job does not accept {next(iter(options))}, because its schedule",
    ):
        reporting.using(**options).recur("id", "* * * * *")

    assert [] == fire.recurring.list()


def test_invalid_arguments_are_refused_when_defined(fire, reporting):
    """The call itself raises the error, before any job is created."""
    with pytest.raises(ArgumentError):
        reporting.recur("id", "* * * * *", 7)

    assert [] == fire.recurring.list()


# ---- declaring -------------------------------------------------------------------------------------------


def declare(fire, schedule="0 2 * * *", recurring_id="id", *args, **options):
    """Declare a task to recur."""
    task = fire.task(name="report", queue="reports", priority=2)(report)
    return fire.recurring(recurring_id, schedule, *args)(task.using(**options) if options else task)


def test_declaration_is_written_when_a_server_starts(fire):
    """Before the start of a server, nothing is stored. A script can call `sync` instead."""
    declare(fire, "0 2 * * *", "nightly", "sales")
    before = fire.recurring.list()

    written = fire.recurring.sync()

    assert [] == before
    assert [("nightly", "code", '{"day":"sales"}')] == [
        (one.id, one.record.origin, one.record.arguments) for one in written
    ]


def test_plain_function_can_be_declared(storage):
    """The decorator registers the function as a task."""
    with Firelock(storage) as fire:
        task = fire.recurring("id", "0 2 * * *")(report)
        fire.recurring.sync()

        assert [f"{__name__}.report"] == [definition.task for definition in fire.recurring.list()]
        assert "x" == task("x")


def test_jobs_have_the_options_of_the_declaration(fire):
    """`task.using(…)` can be declared as well."""
    declare(fire, "0 2 * * *", "id", queue="bulk")

    assert ["bulk"] == [definition.queue for definition in fire.recurring.sync()]


def test_id_can_be_declared_only_once(fire):
    """Two declarations with the same id would repeatedly overwrite each other."""
    declare(fire)

    with pytest.raises(
        ConfigurationError, match="Recurring job 'id' is declared twice in this app; rename one"
    ):
        declare(fire)


def test_definition_removed_from_the_code_is_flagged(storage):
    """The definition stays until an operator removes it.

    When it is declared again, it is no longer flagged.
    """
    first, _ = make_app(storage)
    declare(first)
    first.recurring.sync()
    without, _ = make_app(storage)

    without.recurring.sync()
    flagged = without.recurring.get("id").record.is_gone
    version = without.recurring.get("id").record.version
    without.recurring.sync()
    unchanged = without.recurring.get("id").record.version == version
    first.recurring.sync()

    assert (True, True, False) == (flagged, unchanged, first.recurring.get("id").record.is_gone)


def test_definitions_of_other_apps_are_not_flagged(storage):
    """Tasks of another app are not registered here, and a definition created by a call is not declared."""
    first, task = make_app(storage)
    declare(first)
    first.recurring.sync()
    task.recur("by call", "0 2 * * *")
    other = Firelock(storage)

    other.recurring.sync()
    first.recurring.sync()

    assert [False, False] == [definition.record.is_gone for definition in other.recurring.list()]


def test_pause_by_an_operator_is_kept_after_deploys(storage):
    """The pause is kept whether the code has changed or not."""
    fire, _ = make_app(storage)
    declare(fire)
    fire.recurring.sync()
    fire.recurring.pause("id")
    changed, _ = make_app(storage)
    declare(changed, "0 3 * * *")

    fire.recurring.sync()
    same = fire.recurring.get("id").is_paused
    changed.recurring.sync()

    assert (True, True) == (same, changed.recurring.get("id").is_paused)
    assert Cron("0 3 * * *") == changed.recurring.get("id").schedule


def test_edit_by_an_operator_is_kept_in_a_rolling_deploy(storage):
    """A server whose code does not contain the declaration flags the definition.

    The next server that declares it removes the flag. Nothing else changes.
    """
    fire, _ = make_app(storage)
    declare(fire)
    fire.recurring.sync()
    put_recurring(storage, attrs.evolve(get_recurring(storage, "id"), queue="edited"), keep_progress=True)
    without, _ = make_app(storage)

    without.recurring.sync()
    fire.recurring.sync()

    record = get_recurring(storage, "id")
    assert ("edited", False) == (record.queue, record.is_gone)


def test_future_run_follows_the_new_schedule(storage):
    """A changed schedule applies immediately."""
    _, task = make_app(storage)
    task.recur("id", "* * * * *")

    changed = task.recur("id", "0 2 * * *")

    assert datetime(2030, 1, 1, 2, tzinfo=UTC) == changed.next_at


def test_concurrent_definitions_by_two_apps_agree(storage):
    """One app writes the definition, and the other app finds it already stored."""
    apps = [make_app(storage) for _ in range(2)]

    definitions = race([lambda task=task: task.recur("id", "0 2 * * *") for _, task in apps])

    assert definitions[0] == definitions[1]
    assert 1 == definitions[0].record.version


# ---- creating jobs ---------------------------------------------------------------------------------------


def test_no_job_is_created_before_its_due_time(fire, reporting, advance):
    reporting.recur("id", "* * * * *")
    advance(seconds=29)

    assert (0, []) == (fire_due(fire.client), made(fire))


def test_due_definition_creates_its_job(fire, reporting, advance):
    """The job has the options of the definition's call.

    Its nominal time is the scheduled time, even if the job is created later.
    """
    options = {"tags": ["x"], "timeout": 5, "retry": Retry(attempts=1), "meta": {"tenant": "acme"}}
    reporting.using(**options).recur("id", "* * * * *", "sales")
    advance(seconds=75)

    fired = fire_due(fire.client)

    (job,) = made(fire)
    record = job.record()
    assert (1, [1]) == (fired, due_at([job]))
    assert ("report", '{"day":"sales"}', "reports", 2, ("x",), 5.0, State.ENQUEUED, "id") == (
        record.task, record.arguments, record.queue, record.priority, record.tags, record.timeout_seconds,
        record.state, record.recurring_id,
    )  # fmt: skip
    assert {"tenant": "acme"} == record.meta
    assert "recurring id, due 2030-01-01T00:01:00+00:00" == record.reason
    definition = fire.recurring.get("id")
    assert (START.replace(minute=1, second=0), START.replace(minute=2, second=0)) == (
        definition.last_at, definition.next_at
    )  # fmt: skip


def test_only_one_of_two_apps_creates_a_due_job(storage, advance):
    """The second app creates the job between the first app's read and write."""
    (fire, task), (other, _) = make_app(storage), make_app(storage)
    task.recur("id", "* * * * *")
    advance(minutes=1)
    due = storage.due_records("recurring", 10)
    fire_due(other.client)
    storage.due_records = lambda kind, limit: due

    fired = fire_due(fire.client)

    assert (0, [1]) == (fired, due_at(made(fire)))


def test_paused_definition_creates_no_jobs(fire, reporting, advance):
    """Runs that were due during the pause are not created later."""
    reporting.recur("id", "* * * * *")
    fire.recurring.pause("id")
    advance(minutes=10)
    while_paused = fire_due(fire.client)

    fire.recurring.resume("id")
    at_once = fire_due(fire.client)
    advance(minutes=1)

    assert (0, 0, 1, [11]) == (while_paused, at_once, fire_due(fire.client), due_at(made(fire)))


def test_definition_removed_and_added_again_repeats_its_run(fire, reporting, advance):
    """The new definition creates a job even if the previous one has already created a job for this time."""
    reporting.recur("id", "0 2 * * *")
    advance(hours=2)
    fire_due(fire.client)
    fire.storage.clock_offset = SECOND
    fire.recurring.remove("id")
    reporting.recur("id", "0 2 * * *")
    fire.storage.clock_offset = 2 * 3_600 * SECOND

    fire_due(fire.client)

    assert [120, 120] == due_at(made(fire))


def test_limit_of_definitions_per_call_is_respected(fire, reporting, advance):
    """The next call creates the jobs of the other definitions."""
    for number in range(5):
        reporting.recur(f"id-{number}", "* * * * *")
    advance(minutes=1)

    assert [2, 2, 1, 0] == [fire_due(fire.client, limit=2) for _ in range(4)]


# ---- missed runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "minutes"),
    [
        (Cron("* * * * *"), [30]),
        (Cron("* * * * *", misfire="once"), [30]),
        (Cron("* * * * *", misfire="all"), list(range(1, 31))),
        (Cron("* * * * *", misfire="all", misfire_limit=5), [24, 25, 26, 27, 28, 29, 30]),
        (Cron("* * * * *", misfire="skip"), [29, 30]),
    ],
)
def test_missed_runs_follow_the_misfire_policy(fire, reporting, advance, schedule, minutes):
    """After half an hour without a server, the policy determines which runs are created.

    These are the latest run, the newest runs within the limit, or only the runs that are still on time.
    """
    reporting.recur("id", schedule)
    advance(minutes=29, seconds=30)

    fire_due(fire.client)

    assert minutes == due_at(made(fire))
    record = fire.recurring.get("id").record
    assert (30 - len(minutes), micros(START.replace(minute=30, second=0))) == (record.dropped, record.last_at)


# ---- jobs that cannot be created -------------------------------------------------------------------------


def rewrite(fire, recurring_id="id", **fields):
    """Set fields of the stored definition to any values, as a newer version might do."""
    record = fire.storage.get_record("recurring", recurring_id)
    value = json.dumps({**json.loads(record.value), **fields})
    fire.storage.put_record("recurring", recurring_id, value, due_at=record.due_at)


@pytest.mark.parametrize("misfire", ["once", "all"])
def test_failed_run_keeps_its_due_time(fire, reporting, advance, misfire):
    """A run for 00:30 that could not be created keeps this due time, even if it is created much later.

    Missed runs are counted from this time.
    """
    reporting.recur("id", Cron("30 * * * *", misfire=misfire))
    rewrite(fire, schedule="null")
    advance(minutes=30)
    fire_due(fire.client)
    refused = fire.recurring.get("id")
    rewrite(fire, schedule=schedule_to_json(Cron("30 * * * *", misfire=misfire)))
    too_soon = fire_due(fire.client)
    advance(minutes=4, seconds=4)

    fired = fire_due(fire.client)

    assert (0, 1, [30]) == (too_soon, fired, due_at(made(fire)))
    assert refused.error
    assert START.replace(minute=30, second=0) == refused.next_at
    definition = fire.recurring.get("id")
    assert (None, START.replace(hour=1, minute=30, second=0)) == (definition.error, definition.next_at)


def test_resumed_definition_skips_a_failed_run(fire, reporting, advance):
    """The resumed definition continues with its next due time."""
    reporting.recur("id", "* * * * *")
    rewrite(fire, schedule="null")
    advance(minutes=1)
    fire_due(fire.client)
    fire.recurring.pause("id")
    rewrite(fire, schedule=schedule_to_json(Cron("* * * * *")))
    advance(minutes=10)

    resumed = fire.recurring.resume("id")

    assert START.replace(minute=12, second=0) == resumed.next_at
    assert 0 == fire_due(fire.client)


def fix_by_hand(fire, reporting, schedule):
    """Fix the definition as an operator would."""
    return fire.recurring.edit("id", schedule=schedule)


def fix_in_code(fire, reporting, schedule):
    """Fix the definition in code."""
    return reporting.recur("id", schedule)


@pytest.mark.parametrize("fix", [fix_by_hand, fix_in_code])
@pytest.mark.parametrize("is_broken", [True, False], ids=["refused", "missed"])
def test_pending_run_runs_once_after_a_schedule_change(fire, reporting, advance, fix, is_broken):
    """The pending run keeps its own due time.

    The new schedule starts at the time of the change, however late that is.
    """
    reporting.recur("id", "30 0 * * *")
    if is_broken:
        rewrite(fire, schedule="null")
        advance(minutes=30)
        fire_due(fire.client)
        advance(hours=8)
    else:
        advance(hours=8, minutes=30)

    fixed = fix(fire, reporting, Cron("*/10 * * * *", misfire="all"))
    advance(minutes=1)
    fire_due(fire.client)
    first = due_at(made(fire))
    advance(minutes=10)
    fire_due(fire.client)

    assert START.replace(minute=30, second=0) == fixed.next_at
    assert ([30], [30, 8 * 60 + 40]) == (first, due_at(made(fire)))
    assert START.replace(hour=8, minute=50, second=0) == fire.recurring.get("id").next_at


def test_change_of_the_misfire_policy_keeps_due_times(fire, reporting, advance):
    """An operator who notices missed runs can therefore still request all of them."""
    reporting.recur("id", "*/10 * * * *")
    advance(minutes=30)

    fire.recurring.edit("id", schedule=Cron("*/10 * * * *", misfire="all"))
    fire_due(fire.client)

    assert [10, 20, 30] == due_at(made(fire))


def test_outage_for_one_definition_does_not_block_others(fire, reporting, storage, advance):
    """The error is raised after the other definitions have been processed."""
    for number in range(3):
        reporting.recur(f"id-{number}", "* * * * *")
    advance(minutes=1)
    storage.fail("insert", StorageUnavailable("moved under us"))

    with pytest.raises(StorageUnavailable, match="moved under us"):
        fire_due(fire.client)

    assert [0, 1, 1] == [len(made(fire, f"id-{number}")) for number in range(3)]


# ---- definitions that a newer version wrote --------------------------------------------------------------


NEWER = [{"tags": {"eu": 1}}, {"schedule": {"sun": "rise"}}]  # values of unknown kinds


def test_every_change_keeps_a_field_of_a_newer_version(fire, reporting, advance):
    """The field is kept when jobs are created and when the definition is paused, edited or declared again."""
    reporting.recur("id", "* * * * *")
    rewrite(fire, limit={"eu": 1})

    def stored():
        return json.loads(fire.storage.get_record("recurring", "id").value)["limit"]

    advance(minutes=1)
    kept = [(fire_due(fire.client), stored())]
    for change in (
        fire.recurring.pause,
        fire.recurring.resume,
        lambda one: fire.recurring.edit(one, queue="other"),
        fire.recurring.reset,
        lambda one: reporting.recur(one, "0 * * * *"),
    ):
        change("id")
        kept.append((1, stored()))

    assert [(1, {"eu": 1})] * 6 == kept
    assert fire.recurring.get("id").error is None
    assert 1 == len(made(fire))


@pytest.mark.parametrize("written", NEWER, ids=["value", "schedule"])
def test_definition_of_a_newer_version_is_not_run(fire, reporting, advance, written):
    """The stored definition does not change.

    The other due definitions create their jobs, and the newer definition does not count toward the limit.
    """
    for name in ("a", "b"):
        reporting.recur(name, "* * * * *")
    rewrite(fire, "a", **written)
    before = fire.storage.get_record("recurring", "a").value
    advance(minutes=1)

    fired = [fire_due(fire.client, limit=1) for _ in range(3)]

    assert ([0, 1, 0], [], 1) == (fired, made(fire, "a"), len(made(fire, "b")))
    assert before == fire.storage.get_record("recurring", "a").value
    assert fire.storage.promote(1).next_due_at > micros(START + MINUTE)


@pytest.mark.parametrize("written", NEWER, ids=["value", "schedule"])
def test_definition_of_a_newer_version_keeps_its_due_time(fire, reporting, advance, written):
    """An older server delays the definition only by seconds, and no due time is lost."""
    reporting.recur("id", "* * * * *")
    stored = fire.storage.get_record("recurring", "id").value
    rewrite(fire, **written)
    advance(minutes=1)
    fire_due(fire.client)
    rewrite(fire, **{name: json.loads(stored)[name] for name in written})  # the server is upgraded
    advance(seconds=20)

    assert (1, [1]) == (fire_due(fire.client), due_at(made(fire)))


@pytest.mark.parametrize("written", NEWER, ids=["value", "schedule"])
def test_definition_of_a_newer_version_is_listed_with_an_error(fire, reporting, written):
    """The error contains the version that wrote the definition and the unknown field."""
    reporting.recur("id", "* * * * *")
    reporting.recur("other", "* * * * *")
    rewrite(fire, **written)

    shown, other = fire.recurring.list()

    assert ("id", "report", "reports", None) == (shown.id, shown.task, shown.queue, other.error)
    (name,) = written
    assert (
        f"A newer version of Firelock wrote this definition: {name} is unknown to this version" in shown.error
    )
    assert shown == fire.recurring.get("id") == next(iter(fire.recurring))
    (finding,) = [
        one
        for one in list_findings(take_readings(fire.runtime, knows_tasks=True))
        if "id" in one.what.split()
    ]
    assert "newer version" in finding.what


def test_definition_that_cannot_be_postponed_does_not_block_others(fire, reporting, storage, advance, caplog):
    """A newer version wrote the definition.

    It remains the first due definition, but the others create their jobs.
    """
    for name in ("a", "b"):
        reporting.recur(name, "* * * * *")
    rewrite(fire, "a", tags={"eu": 1})
    advance(minutes=1)
    storage.fail("insert", StorageError("disk full"))

    fired = fire_due(fire.client)

    assert (1, 1) == (fired, len(made(fire, "b")))
    assert "Recurring job 'a' cannot be postponed." in caplog.text


def test_definition_of_a_newer_version_cannot_be_changed(fire, reporting):
    """An edit would lose values that are unknown here.

    The code does not change the definition, operators get an error, and the definition can be removed.
    """
    reporting.recur("id", "* * * * *")
    rewrite(fire, tags={"eu": 1})
    before = fire.storage.get_record("recurring", "id")

    again = reporting.recur("id", "0 * * * *")
    for change in (
        fire.recurring.pause,
        fire.recurring.resume,
        fire.recurring.reset,
        fire.recurring.trigger,
        lambda one: fire.recurring.edit(one, queue="other"),
    ):
        with pytest.raises(JobConflict, match="newer version of Firelock wrote"):
            change("id")

    assert before == fire.storage.get_record("recurring", "id")
    assert "tags" in again.error
    fire.recurring.remove("id")
    assert [] == fire.recurring.list()


@pytest.mark.parametrize("text", ["[1]", "{", "", '{"tags":' * 20_000], ids=["list", "cut", "empty", "deep"])
def test_unreadable_definition_is_listed_and_can_be_removed(fire, reporting, advance, text):
    """An unreadable definition has no known due time, so it is never due.

    Other definitions, scheduled jobs and lists are not affected.
    """
    reporting.recur("other", "* * * * *")
    fire.storage.put_record("recurring", "id", text)
    advance(minutes=1)

    fired, promotion = fire_due(fire.client), fire.storage.promote(1)

    assert (1, 0) == (fired, promotion.promoted)
    broken, _ = fire.recurring.list()
    assert "cannot be read" in broken.error
    with pytest.raises(JobConflict, match="'id' already exists"):
        fire.recurring.create("report", "id", "0 6 * * *")
    assert text == fire.storage.get_record("recurring", "id").value
    fire.recurring.remove("id")


# ---- overlaps --------------------------------------------------------------------------------------------


def test_skip_drops_a_run_while_the_previous_job_is_unfinished(fire, reporting, advance):
    """A waiting job counts as running. After the job has ended, a job is created at the next due time."""
    worker = Worker(fire)
    reporting.recur("id", Cron("* * * * *", overlap="skip"))
    for _ in range(3):
        advance(minutes=1)
        fire_due(fire.client)
    worker.run()
    advance(minutes=1)
    fire_due(fire.client)

    assert [1, 4] == due_at(made(fire))
    assert (2, 4) == (
        fire.recurring.get("id").record.dropped,
        (fire.recurring.get("id").last_at - START.replace(second=0)) // MINUTE,
    )


@pytest.mark.parametrize("end", ["delete", "prune"])
def test_skip_ignores_a_deleted_or_pruned_job(fire, reporting, advance, end):
    """A deleted or pruned previous job counts as ended."""
    reporting.recur("id", Cron("* * * * *", overlap="skip"))
    advance(minutes=1)
    fire_due(fire.client)
    if end == "delete":
        made(fire)[0].delete()
    else:
        put_recurring(
            fire.storage,
            attrs.evolve(get_recurring(fire.storage, "id"), last_job_id="pruned"),
            keep_progress=False,
        )
    advance(minutes=1)

    fire_due(fire.client)

    assert [1, 2] == due_at(made(fire))


def test_queue_one_keeps_one_waiting_job_and_drops_others(fire, reporting, advance):
    """The second job waits for the first, and the third is dropped.

    The second runs when the first has ended.
    """
    worker = Worker(fire)
    reporting.recur("id", Cron("* * * * *", overlap="queue_one"))
    for _ in range(3):
        advance(minutes=1)
        fire_due(fire.client)
    before = [job.state for job in made(fire)]

    worker.run()

    assert [State.ENQUEUED, State.AWAITING] == before
    assert [State.SUCCEEDED, State.ENQUEUED] == [job.state for job in made(fire)]
    assert ([1, 2], 1) == (due_at(made(fire)), fire.recurring.get("id").record.dropped)


def test_queue_one_allows_another_job_after_the_waiting_one_started(fire, reporting, advance):
    worker = Worker(fire)
    reporting.recur("id", Cron("* * * * *", overlap="queue_one"))
    for _ in range(2):
        advance(minutes=1)
        fire_due(fire.client)
    worker.run()
    advance(minutes=1)
    fire_due(fire.client)

    assert [State.SUCCEEDED, State.ENQUEUED, State.AWAITING] == [job.state for job in made(fire)]


@pytest.mark.parametrize("overlap", ["skip", "queue_one"])
def test_missed_runs_without_overlap_create_one_job(fire, reporting, advance, overlap):
    """If several missed runs were created together, they would overlap, so only the latest run is created."""
    reporting.recur("id", Cron("* * * * *", misfire="all", overlap=overlap))
    advance(minutes=9, seconds=30)

    fire_due(fire.client)

    assert ([10], 9) == (due_at(made(fire)), fire.recurring.get("id").record.dropped)


# ---- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule", ["{}", "null", "[]", "7", "not json", '{"kind": "cron", "expression": "*"}']
)
def test_definition_that_cannot_run_shows_its_error(fire, reporting, storage, advance, schedule):
    """The definition is tried again a minute later, and the others create their jobs.

    After a fix, it no longer has an error.
    """
    good = reporting.recur("good", "* * * * *").record
    reporting.recur("id", "* * * * *")
    put_recurring(storage, attrs.evolve(get_recurring(storage, "id"), schedule=schedule), keep_progress=True)
    advance(minutes=1)

    fired = fire_due(fire.client)
    broken, tried_again_at = get_recurring(storage, "id"), storage.get_record("recurring", "id").due_at
    again = fire_due(fire.client)
    put_recurring(storage, attrs.evolve(broken, schedule=good.schedule), keep_progress=True)
    advance(minutes=1)
    fixed = fire_due(fire.client)

    assert (1, 0, 2) == (fired, again, fixed)
    assert broken.error
    assert micros(START.replace(minute=1, second=0)) == broken.next_at
    assert micros(START + 2 * MINUTE) == tried_again_at
    assert fire.recurring.get("id").error is None
    assert 1 == len(made(fire))


def test_second_outage_in_a_row_ends_the_call(fire, reporting, storage, advance):
    """A second outage shows that the problem is not limited to one definition.

    Nothing is lost, because the next call creates the jobs.
    """
    for name in ("a", "b", "c"):
        reporting.recur(name, "* * * * *")
    advance(minutes=1)
    storage.fail("insert", StorageUnavailable("down"), StorageUnavailable("down"))

    with pytest.raises(StorageUnavailable):
        fire_due(fire.client)

    assert 2 == len(storage.called["insert"])
    assert 3 == fire_due(fire.client)
    assert [None] * 3 == [definition.error for definition in fire.recurring.list()]


# ---- operating -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["get", "trigger", "pause", "resume", "remove"])
def test_unknown_definition_is_not_found(fire, verb):
    """All methods raise the same error, including the async ones."""
    with pytest.raises(JobNotFound, match="Recurring job 'nobody' was not found"):
        getattr(fire.recurring, verb)("nobody")
    with pytest.raises(JobNotFound):
        asyncio.run(getattr(fire.recurring, f"a{verb}")("nobody"))


def test_trigger_creates_a_job_and_keeps_the_schedule(fire, reporting):
    """The job is created immediately, even if the definition is paused."""
    reporting.recur("id", "0 2 * * *", "sales")
    fire.recurring.pause("id")
    before = fire.recurring.get("id")

    job, other = fire.recurring.trigger("id"), asyncio.run(fire.recurring.atrigger("id"))

    assert before == fire.recurring.get("id")
    assert [("triggered by hand", State.ENQUEUED, START)] * 2 == [
        (one.record().reason, one.state, from_micros(one.record().nominal_at)) for one in (job, other)
    ]
    assert job != other


def test_second_pause_or_resume_changes_nothing(fire, reporting):
    """The async methods behave in the same way.

    If a definition that is not paused is resumed, it keeps its due time.
    """
    reporting.recur("id", "0 2 * * *")

    async def use():
        paused = [(await fire.recurring.apause("id")).is_paused for _ in range(2)]
        resumed = [(await fire.recurring.aresume("id")).is_paused for _ in range(2)]
        return paused, resumed, await fire.recurring.aget("id")

    paused, resumed, definition = asyncio.run(use())

    assert ([True, True], [False, False]) == (paused, resumed)
    assert datetime(2030, 1, 1, 2, tzinfo=UTC) == definition.next_at


def test_removing_a_definition_keeps_its_jobs(fire, reporting):
    reporting.recur("id", "0 2 * * *")
    reporting.recur("other", "0 2 * * *")
    job = fire.recurring.trigger("id")

    fire.recurring.remove("id")
    asyncio.run(fire.recurring.aremove("other"))

    assert [] == fire.recurring.list()
    assert State.ENQUEUED is job.refresh().state


def test_definition_whose_error_cannot_be_stored_does_not_block_others(
    fire, reporting, storage, advance, caplog
):
    """The problem is logged. An outage at that time ends the call."""
    for name in ("a", "b"):
        reporting.recur(name, "* * * * *")
    advance(minutes=1)
    storage.fail("insert", StorageError("no"), StorageError("never"))
    fired = fire_due(fire.client)
    advance(minutes=1)
    storage.fail("insert", StorageError("no"), StorageUnavailable("down"))

    with pytest.raises(StorageUnavailable):
        fire_due(fire.client)

    assert 1 == fired
    assert "Recurring job 'a' cannot be postponed." in caplog.text
