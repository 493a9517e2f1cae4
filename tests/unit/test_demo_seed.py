"""What `firelock demo --seed` makes up: a year of jobs that any storage could have come to by itself."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from itertools import pairwise
from random import Random

import pytest

from firelock.cli.demo_shop import fire
from firelock.cli.problem import Problem
from firelock.cli.seed_agenda import Agenda, Expected, Moment
from firelock.cli.seed_errors import Failures
from firelock.cli.seed_failures import GATEWAY_DOWN, KINDS
from firelock.cli.seed_looks import Looks
from firelock.cli.seed_notes import Notes
from firelock.cli.seed_plan import Fate, Sizes, Year
from firelock.cli.seed_rhythm import DAY, HOUR, MINUTE, Rhythm
from firelock.cli.seed_rollups import Rollups
from firelock.cli.seed_stage import QUEUES, Stage
from firelock.cli.seed_story import seed
from firelock.clock import SECOND
from firelock.cron import schedule_from_json
from firelock.lifecycle import is_legal
from firelock.plugins import open_storage
from firelock.serializer import JsonSerializer
from firelock.storage import JobFilter
from firelock.values import ClaimedJob, NewJob, State

JOBS = 2_000
NOW = 1_795_630_000_000_000  # 2026-11-25, a Wednesday, after six in the evening
YEAR = 365 * DAY
FINAL = (State.SUCCEEDED, State.FAILED, State.DELETED)


def grown(storage, jobs=JOBS, **options):
    """The storage is seeded; return the last that was told."""
    *_, last = seed(storage, fire.tasks(), jobs, **options)
    return last


def all_jobs(storage, **where):
    found, cursor = [], None
    while True:
        page = storage.find(JobFilter(**where), limit=500, cursor=cursor)
        found += page.jobs
        cursor = page.cursor
        if cursor is None:
            return found


@pytest.fixture(scope="module", params=["memory", "sqlite"])
def place(request, tmp_path_factory):
    """A seeded storage, and what the seed told at its end; there it is NOW."""
    url = "memory://"
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('seed') / 'jobs.db'}?synchronous=normal"
    with closing(open_storage(url)) as storage:
        storage.migrate()
        storage.clock_offset = NOW - storage.clock()
        yield storage, storage.clock_offset, grown(storage)


@pytest.fixture
def storage(place):
    """The seeded storage; tests only look at it."""
    return place[0]


@pytest.fixture
def jobs(storage):
    """All its jobs."""
    return all_jobs(storage)


# ---- how many --------------------------------------------------------------------------------------------


def test_a_seed_makes_exactly_as_many_jobs_as_it_was_asked_for(place, jobs):
    """N is N, and the seed says so."""
    assert len(jobs) == place[2].jobs == JOBS


def test_a_seed_leaves_counts_that_equal_its_jobs(storage, jobs):
    """The counts by state and queue are those of the jobs."""
    counts = storage.counts()

    assert {state: count for state, count in counts.by_state.items() if count} == Counter(
        job.state for job in jobs
    )
    assert {
        (queue, state): count
        for queue, by_state in counts.by_queue.items()
        for state, count in by_state.items()
        if count
    } == Counter((job.queue, job.state) for job in jobs)


def test_a_seed_has_jobs_in_every_state_in_believable_shares(jobs):
    """Most have succeeded, some 2.5 % failed, 1 % deleted; some wait in each of the other ways."""
    by_state = Counter(job.state for job in jobs)

    assert set(by_state) == set(State)
    assert 0.9 * JOBS < by_state[State.SUCCEEDED] < 0.97 * JOBS
    assert 0.02 * JOBS < by_state[State.FAILED] < 0.03 * JOBS
    assert 0.007 * JOBS < by_state[State.DELETED] < 0.013 * JOBS
    assert by_state[State.PROCESSING] == 30


def test_a_seed_uses_every_queue_and_most_tasks(jobs):
    """Eight queues, 40 tasks of which even a small seed shows nearly all."""
    assert len(fire.tasks()) == 40
    assert {job.queue for job in jobs} == set(QUEUES)
    assert len({job.task for job in jobs}) > 35


# ---- consistent ------------------------------------------------------------------------------------------


def test_every_seeded_job_could_be_run_and_read(jobs):
    """Arguments fit the tasks of the shop, results what these return; queue and priority are theirs."""
    json_serializer = JsonSerializer()
    for job in jobs:
        info = fire.registry.get(job.task)
        binder = fire.registry.binder(info)

        binder.decode_text(job.arguments, json_serializer)
        if job.state is State.SUCCEEDED:
            binder.decode_result_text(job.result, json_serializer)
        assert (job.queue, job.priority) == (info.queue, info.priority)


def test_the_instants_of_an_ended_job_are_in_order(storage, jobs):
    """Made, enqueued, claimed, started, ended, and all of that before now."""
    now = storage.clock()
    for job in jobs:
        if job.state in {State.SUCCEEDED, State.FAILED}:
            instants = (
                job.created_at, job.enqueued_at, job.claimed_at, job.started_at, job.ended_at, now
            )  # fmt: skip
            assert list(instants) == sorted(instants), job


def test_every_step_of_a_seeded_history_is_legal_and_in_order(storage, jobs):
    """A claim writes no step, so what a run ends stands after enqueued."""
    for job in jobs:
        steps = storage.history(job.id)

        assert [step.at for step in steps] == sorted(step.at for step in steps)
        assert steps[0].at == job.created_at
        for before, after in pairwise(steps):
            state = State.PROCESSING if after.attempt is not None else before.state
            assert is_legal(state, after.state), (job.id, before, after)


def test_nothing_that_was_seeded_is_pruned_within_a_year(jobs):
    """What ended stays for years after now, however long ago it ended."""
    newest = max(job.created_at for job in jobs)

    assert all(job.expires_at > newest + YEAR for job in jobs if job.state in FINAL)


def test_a_prune_finds_nothing(place):
    """The storage itself agrees that no job is due to go."""
    storage = place[0]

    assert storage.prune(1_000) == 0


def test_the_clock_is_right_again_after_a_seed(place):
    """Whoever works on with the storage has the time that it had before."""
    storage, offset, _ = place

    assert storage.clock_offset == offset


def test_what_a_seed_has_processing_is_held_by_its_three_servers(storage, jobs):
    """Two live for a day, so that they can be looked at; one has expired, with its jobs in hand."""
    sessions = {record.session.id: record for record in storage.list_sessions()}
    now = storage.clock()

    running = [job for job in jobs if job.state is State.PROCESSING]

    assert len(sessions) == 3
    assert sorted(record.expires_at < now for record in sessions.values()) == [False, False, True]
    assert max(record.expires_at for record in sessions.values()) > now + 23 * HOUR
    assert all(job.session in sessions and job.started_at is not None for job in running)
    assert {job.session for job in running} == set(sessions)
    assert any(progress is not None for progress in storage.get_progress([job.id for job in running]))


def test_what_was_seeded_as_due_is_due_later(storage, jobs):
    """Scheduled jobs lie ahead; those that wait for a retry say which and why."""
    now = storage.clock()
    scheduled = [job for job in jobs if job.state is State.SCHEDULED]
    retrying = [job for job in scheduled if job.is_retrying]

    assert all(job.due_at > now for job in scheduled)
    assert len(retrying) >= 5
    assert all(job.reason.startswith(f"retry {job.retries} of ") and job.error for job in retrying)


def test_what_was_seeded_as_awaiting_has_a_parent(storage, jobs):
    """The parent is stored and has not ended as the child wants."""
    by_id = {job.id: job for job in jobs}

    awaiting = [job for job in jobs if job.state is State.AWAITING]

    assert awaiting
    for job in awaiting:
        parent = by_id[job.parents[0].parent_id]
        assert parent.state not in {State.SUCCEEDED, State.DELETED}


def test_some_failed_jobs_have_many_attempts_each_with_its_error(storage):
    """A job that failed five times has five errors with tracebacks, the frames of the shop marked."""
    failed = all_jobs(storage, state=State.FAILED)

    attempts = {job.attempt for job in failed}

    assert {1, 3} < attempts
    assert max(attempts) == 11
    for job in failed:
        errors = [attempt.error for attempt in storage.errors(job.id) if attempt.error.traceback]
        assert len(errors) in {job.attempt, 0}
        assert all("\n→ File" in error.traceback for error in errors)


def test_a_seed_has_an_incident_some_hours_ago(storage, jobs):
    """For 40 minutes the payment gateway was down, and most of what failed then failed by it."""
    now = storage.clock()

    hit = [job for job in jobs if job.error and job.error.type == "ConnectionError"]

    assert len(hit) >= 4
    assert all(4 * HOUR < now - job.created_at < 6 * HOUR for job in hit)


def fates_at(now):
    """Return how many jobs of a small year that ends now have each fate."""
    sizes, random = Sizes.of(JOBS), Random(1)
    rhythm = Rhythm(now, JOBS - sizes.present)
    year = Year(rhythm, list(rhythm.bursts(random, 4)), Looks(fire.tasks()), sizes, random)
    return Counter(plan.fate for burst in rhythm.bursts(Random(1), 4) for plan in year.plans(burst))


@pytest.mark.parametrize("hour", range(0, 24, 3))
def test_a_seed_has_an_incident_at_any_time_of_day(hour):
    """By night, when few jobs come, it took longer."""
    fates = fates_at(NOW // DAY * DAY + hour * HOUR)

    assert fates[Fate.HIT] >= 4
    assert fates[Fate.SURVIVES] >= 1


def test_the_rollups_of_a_seed_add_up_to_its_jobs(storage, jobs):
    """What they say has succeeded in the last 20 days is what has."""
    now = storage.clock()
    since = (now - 20 * DAY) // DAY * DAY

    rollups = storage.timeline(since, now + MINUTE)
    ended = [job for job in jobs if job.state is State.SUCCEEDED and job.ended_at >= since]

    assert sum(rollup.count for rollup in rollups if rollup.outcome == "succeeded") == len(ended)
    assert all(sum(rollup.histogram) == rollup.count for rollup in rollups)
    assert {rollup.outcome for rollup in rollups} >= {"succeeded", "failed", "retried"}


def test_a_seed_has_crashes_continuations_and_delayed_jobs_in_its_past(jobs):
    """One died three times; children ended after their parents; some were made for later."""
    crashed = [job for job in jobs if job.crashes]
    children = [job for job in jobs if job.parents and job.state is State.SUCCEEDED]
    delayed = [
        job for job in jobs
        if job.state is State.SUCCEEDED and job.nominal_at is not None and job.recurring_id is None
    ]  # fmt: skip
    ended_at = {job.id: job.ended_at for job in jobs}

    assert {(job.state, job.crashes, job.attempt) for job in crashed} == {(State.FAILED, 3, 1)}
    assert len(children) >= 3
    assert all(ended_at[job.parents[0].parent_id] <= job.enqueued_at for job in children)
    assert len(delayed) >= 10
    assert all(job.created_at < job.nominal_at <= job.enqueued_at for job in delayed)


def test_what_ended_long_ago_is_added_up_in_few_rollups():
    """By the minute for a day, by 5 minutes for another, by half hours for 30 days, nothing before."""
    now = NOW // DAY * DAY
    job = ClaimedJob("i", "t", "{}", "json", "q", 0, 1, 0, 0, 1, now, now, now)

    def rows(days_ago, minutes=60):
        rollups = Rollups(now)
        for minute in range(minutes):
            rollups.add(job, "succeeded", now - days_ago * DAY - HOUR + minute * MINUTE, SECOND)
        return len(rollups)

    assert [rows(0), rows(1), rows(2), rows(29), rows(31)] == [60, 12, 2, 2, 0]


def test_a_seed_has_recurring_jobs_some_of_them_not_well(storage, jobs):
    """30 definitions in several zones: one is paused, one shows an error, one has missed runs."""
    definitions = storage.list_recurring(limit=100)
    by_id = {job.id: job for job in jobs}

    assert len(definitions) == 30
    assert {schedule_from_json(one.schedule).tz for one in definitions} > {"UTC", "Europe/Istanbul"}
    assert sum(one.is_paused for one in definitions) == 1
    assert sum(one.error is not None for one in definitions) == 1
    assert sum(one.dropped > 0 for one in definitions) == 1
    assert all(by_id[one.last_job_id].recurring_id == one.id for one in definitions)
    assert all(by_id[one.last_job_id].nominal_at == one.last_at for one in definitions)


def test_a_seed_pauses_one_queue_and_says_why(storage):
    """The record is the one that a claim looks at."""
    (record,) = storage.list_records("queue")

    assert (record.key, json.loads(record.value)["paused"]) == ("webhooks", True)
    assert json.loads(record.value)["note"]


def test_some_seeded_jobs_have_a_log(storage):
    """What a long job logged is there, its progress at the end of it."""
    logged = [job for job in all_jobs(storage, task="shop.imports.import_prices") if storage.read_log(job.id)]

    assert logged
    done = [job for job in logged if job.state is State.SUCCEEDED]
    assert all(progress.done == progress.total for progress in storage.get_progress([j.id for j in done]))


# ---- again, and broken off -------------------------------------------------------------------------------


def told(**options):
    """Return what a seed of a storage of its own tells, without ids and what the clock stamps."""
    with closing(open_storage("memory://")) as storage:
        grown(storage, 1_000, now=storage.clock() // DAY * DAY, **options)
        return sorted(
            (
                job.created_at, job.task, job.arguments, job.tags, job.state, job.attempt, job.ended_at or 0,
                job.error.message if job.error else "", job.result or "",
            )
            for job in all_jobs(storage)
        )  # fmt: skip


def test_the_same_number_tells_the_same_story():
    """Given the same now, two storages have equal jobs; ids are new."""
    assert told() == told()


def test_another_number_tells_another_story():
    """The number is what all is drawn from."""
    assert told(random_seed=1) != told(random_seed=2)


def test_a_seed_that_is_broken_off_leaves_whole_jobs_that_nobody_holds():
    """No job is left processing, no session alive, no clock wrong."""
    with closing(open_storage("memory://")) as storage:
        steps = seed(storage, fire.tasks(), 1_000)
        made = next(step.jobs for step in steps if step.jobs >= 300)
        steps.close()

        assert len(all_jobs(storage)) == made
        assert all_jobs(storage, state=State.PROCESSING) == []
        assert [record for record in storage.list_sessions() if record.is_alive] == []
        assert storage.clock_offset == 0


def test_a_seed_that_meets_work_of_others_stops():
    """Where jobs are missing when they are to be claimed, somebody else took them."""
    with closing(open_storage("memory://")) as storage:
        stage = Stage(storage, None)

        with pytest.raises(Problem, match="1 jobs were to be claimed, 0 were there"), stage.opened():
            stage.claim(1, stage.servers[0], stage.now)

        assert not any(record.is_alive for record in storage.list_sessions())


def test_a_job_that_was_there_before_stops_a_seed():
    """An id that is taken is not passed over in silence."""
    with closing(open_storage("memory://")) as storage:
        stage = Stage(storage, None)
        job = NewJob(storage.new_id(), "t", "{}", "json", "default", 0, State.SCHEDULED, NOW, NOW)
        stage.insert([job], NOW)

        with pytest.raises(Problem, match="id was there before"):
            stage.insert([job], NOW)


# ---- agenda ----------------------------------------------------------------------------------------------


AGENDA = Agenda([Moment(100), Moment(200), Moment(300), Moment(400)])


@pytest.mark.parametrize(
    ("at", "wait", "more", "place"),
    [
        (110, 50, 0, 1),  # the first after the wait
        (110, 120, 0, 2),
        (110, 900, 0, 3),  # longer than there are moments: the last
        (110, 900, 2, 1),  # two more are needed after it
        (310, 0, 5, 3),  # too few are left: as many as there are
        (399, 0, 0, None),  # none begins after the end
    ],
)
def test_a_retry_waits_for_a_moment_that_leaves_room_for_the_others(at, wait, more, place):
    """The wait that the policy wants is kept where the moments that are left allow it."""
    assert AGENDA.next_run(at, wait, more=more) == place


def test_a_moment_finds_what_was_left_for_it_once():
    """What earlier moments expect of it is added up, and taken."""
    agenda = Agenda([Moment(100), Moment(200)])
    agenda.expected(1).due += 2
    agenda.expected(1).released += 1

    assert agenda.take(1) == Expected(due=2, released=1)
    assert agenda.take(1) == Expected()
    assert (agenda.gap(0), agenda.gap(1)) == (100, 0)


# ---- rhythm, looks, failures -----------------------------------------------------------------------------


def test_a_rhythm_spreads_all_jobs_over_the_year():
    """The bursts follow each other, hold all jobs, and end just before now."""
    rhythm = Rhythm(NOW, 50_000)

    bursts = list(rhythm.bursts(Random(1), 10))

    assert sum(burst.count for burst in bursts) == 50_000
    assert all(before.at < after.at for before, after in pairwise(bursts))
    assert bursts[0].at < NOW - 360 * DAY
    assert NOW - MINUTE < bursts[-1].at < NOW


def test_a_rhythm_is_busier_at_its_end_by_day_and_in_the_week():
    """Growth, hours and weekdays are seen in how many jobs come."""
    rhythm = Rhythm(NOW, 1_000_000)

    def count(days_ago, hours=24):
        start = NOW // DAY * DAY - days_ago * DAY
        return rhythm.place(start + hours * HOUR) - rhythm.place(start)

    assert count(30) > 1.5 * count(338)  # eleven months of growth, the same weekday
    assert count(32) < 0.9 * count(34)  # a Saturday and the Thursday before
    assert count(30, hours=6) < 0.15 * count(30)  # at night
    assert rhythm.jobs - rhythm.place(NOW - DAY) > 0.02 * rhythm.jobs


@pytest.mark.parametrize(("age", "has_log"), [(HOUR - 1, True), (HOUR + 1, False)])
def test_only_young_jobs_have_a_log(age, has_log):
    """What ended before the span has none, so that a large seed has no more logs than a small one."""
    with closing(open_storage("memory://")) as storage:
        job = NewJob("i", "shop.imports.import_prices", "{}", "json", "q", 0, State.SCHEDULED, NOW, NOW + 1)
        storage.insert([job])
        claimed = ClaimedJob("i", job.task, "{}", "json", "q", 0, 1, 0, 0, 1, NOW, NOW, NOW)
        notes = Notes(NOW, HOUR)

        notes.add(claimed, Looks(fire.tasks()).by_name[job.task], NOW - age - SECOND, NOW - age)
        notes.flush(storage)

        assert bool(storage.read_log("i")) is has_log
        assert [progress is not None for progress in storage.get_progress(["i"])] == [has_log]


def test_the_place_of_an_instant_is_the_inverse_of_the_instant_of_a_place():
    """Both ways lead back."""
    rhythm = Rhythm(NOW, 10_000)

    assert [rhythm.place(rhythm.instant(place) + 1) for place in (0, 17, 5_000, 9_990)] == [
        0,
        17,
        5_000,
        9_990,
    ]


@pytest.mark.parametrize("kind", [*KINDS, GATEWAY_DOWN], ids=lambda kind: f"{kind.tasks[0]} {kind.seconds}")
def test_a_kind_of_failure_keeps_its_fingerprint_while_its_message_varies(kind):
    """It befalls tasks that exist, and marks the shop's own frames."""
    (_, first), (_, second) = kind.draw(Random(1)), kind.draw(Random(2))

    assert first.fingerprint == second.fingerprint
    assert {fire.registry.get(task).name for task in kind.tasks} == set(kind.tasks)
    assert "→ File" in first.traceback
    assert first.traceback.splitlines()[-1] == f"{first.type}: {first.message}"


def test_there_are_many_kinds_of_failure_some_of_them_chained():
    """A list of groups has some 25 rows, all of them different."""
    told_of = [kind.draw(Random(1))[1] for kind in KINDS]

    assert len({info.fingerprint for info in told_of}) == len(KINDS) >= 25
    assert sum("That caused the following" in info.traceback for info in told_of) >= 3


def test_a_task_without_a_kind_of_its_own_fails_in_some_way():
    """A run of a recurring job can fail, whatever its task."""
    assert Failures(KINDS).of_task(Random(1), "shop.crm.merge_duplicates") in KINDS


def test_every_task_of_the_shop_has_a_look():
    """Its arguments fit, whatever is drawn."""
    looks, random = Looks(fire.tasks()), Random(3)
    serializer = JsonSerializer()

    for name, look in looks.by_name.items():
        for _ in range(20):
            binder = fire.registry.binder(fire.registry.get(name))
            drawn = look.draw(random, NOW)
            binder.decode_text(drawn.arguments, serializer)
            binder.decode_result_text(drawn.result, serializer)
