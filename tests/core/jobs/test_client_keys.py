"""Jobs with limits, unique keys and deadlines, as a client creates them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from firelock import (
    ArgumentError,
    ConfigurationError,
    Debounce,
    DuplicateJob,
    Firelock,
    JobConflict,
    Limit,
    Turns,
    Unique,
    UnsupportedFeature,
    hookimpl,
)
from firelock.storage import ClaimRequest, Feature, NewSession, State, Until
from firelock.storage.memory import MemoryStorage

TENANT = Limit("tenant:{tenant_id}", concurrent=1)
API = Limit("tenant:{tenant_id}/api", rate=6_000, per=60, cost="{tokens}")


class Created:
    """A plugin that records the created jobs."""

    def __init__(self):
        self.jobs = []

    @hookimpl
    def jobs_created(self, jobs):
        self.jobs += [job.id for job in jobs]


@pytest.fixture
def created():
    """The created jobs of all apps in a test."""
    return Created()


@pytest.fixture
def fire(created):
    """An app in memory."""
    with Firelock("memory://", plugins=[created]) as fire:
        yield fire


@pytest.fixture
def report(fire):
    """A task with limits, a unique key and a deadline."""

    @fire.task(
        name="report",
        limits=[API, TENANT],
        unique=Unique("{tenant_id}/{day}"),
        start_before=timedelta(hours=1),
    )
    def report(tenant_id: int, tokens: int = 1, day: str = "mon") -> int:
        return tokens

    return report


@pytest.fixture
def plain(fire):
    """A task without limits, a unique key and a deadline."""

    @fire.task(name="plain")
    def plain(x: int = 1) -> int:
        return x

    return plain


def claim(fire, limit=10):
    fire.storage.begin_session(NewSession("s", "s", "s", "h", 1, 0, 60))
    return fire.storage.claim(ClaimRequest(None, limit, "s", fire.storage.clock())).jobs


# ---- stored options --------------------------------------------------------------------------------------


def test_handle_shows_limits_unique_key_and_deadline(report, fire):
    """This applies to the handle that `enqueue` returns and to a handle that is read later."""
    job = report.enqueue(7, 350)

    for handle in (job, fire.jobs.get(job.id)):
        assert ("tenant:7/api", "tenant:7") == handle.limits
        assert "7/mon" == handle.unique_key
        assert handle.start_before == handle.created_at + timedelta(hours=1) or (
            handle is not job and handle.start_before > handle.created_at + timedelta(minutes=59)
        )
    assert [350, 1] == [use.cost for use in job.record().admission.limits]
    assert job.is_new
    assert not fire.jobs.get(job.id).is_new


def test_job_without_limits_stores_no_admission_data(plain):
    job = plain.enqueue()

    assert ((), None, None, None) == (job.limits, job.unique_key, job.start_before, job.refresh().waits_for)
    assert job.record().admission_json is None
    assert job.is_new


@pytest.mark.parametrize(
    ("options", "limits", "key", "has_deadline"),
    [
        ({}, 2, "7/mon", True),
        ({"limits": []}, 0, "7/mon", True),
        ({"limits": None, "unique": None, "start_before": None}, 2, "7/mon", True),
        ({"unique": False}, 2, None, True),
        ({"limits": [Turns("other:{day}")], "unique": Unique("all")}, 1, "all", True),
        ({"start_before": datetime(2090, 1, 1, tzinfo=UTC)}, 2, "7/mon", True),
    ],
)
def test_using_keeps_replaces_or_removes_options(report, options, limits, key, has_deadline):
    """None keeps the option of the task. An empty list or False removes it."""
    job = report.using(**options).enqueue(7)

    assert (limits, key, has_deadline) == (len(job.limits), job.unique_key, job.start_before is not None)


def test_repeated_using_combines_options(report):
    """Each call of `using` keeps the options of earlier calls."""
    job = report.using(unique=False).using(limits=[]).using(priority=3).enqueue(7)

    assert ((), None, 3) == (job.limits, job.unique_key, job.priority)


def test_plugin_can_set_limits_and_unique_key(created):
    """The hook `job_options` returns options that `using` accepts. Options of the caller take precedence."""

    class Fair:
        @hookimpl
        def job_options(self, task, call):
            return {"limits": [Turns("all")], "unique": Unique("{x}")}

    fire = Firelock("memory://", plugins=[Fair()])

    @fire.task(name="t")
    def run(x: int) -> None: ...

    assert (("all",), "1") == ((job := run.enqueue(1)).limits, job.unique_key)
    assert ((), "2") == ((job := run.using(limits=[]).enqueue(2)).limits, job.unique_key)


def test_remote_task_can_declare_limits_and_unique_key(fire):
    """A remote task runs in another program, but its jobs are created here with these options."""

    @fire.task(name="away", remote=True, limits=[TENANT], unique=Unique())
    def away(tenant_id: int) -> None: ...

    job = away.enqueue(7)

    assert ("tenant:7",) == job.limits
    assert not away.enqueue(7).is_new


@pytest.mark.parametrize(
    "limit",
    [Limit("tenant:{tenant_id}", concurrent=2), Limit("new:{tenant_id}", rate=1), Limit("tenant:1", rate=9)],
)
def test_limit_settings_that_no_task_declares_are_refused(report, fire, limit):
    """A call must not change the limit for other jobs. Nothing is stored."""
    with pytest.raises(ConfigurationError, match=r"using\(limits=…\): .*fire.limits.set"):
        report.using(limits=[limit]).enqueue(7)

    assert 0 == sum(fire.jobs.counts().values())


def test_declared_limit_settings_can_be_repeated_in_a_call(report, plain):
    """The settings must be equal, but the template of the key can differ."""
    assert ("tenant:1",) == plain.using(limits=[Limit("tenant:{x}", concurrent=1)]).enqueue(1).limits


@pytest.mark.parametrize(("arguments", "error"), [((7, -1), ArgumentError), ((7, 1, "a\nb"), ArgumentError)])
def test_arguments_that_cannot_form_a_key_are_refused(report, fire, arguments, error):
    """Nothing is stored."""
    with pytest.raises(error):
        report.enqueue(*arguments)
    with pytest.raises(error):
        report.enqueue_many([(8,), arguments])
    with pytest.raises(error):
        asyncio.run(report.aenqueue(*arguments))

    assert 0 == sum(fire.jobs.counts().values())


@pytest.mark.parametrize(
    ("features", "options", "missing"),
    [
        ({Feature.UNIQUE}, {"limits": [Turns("x")]}, "limits"),
        ({Feature.LIMITS}, {"unique": Unique()}, "unique"),
        (set(), {"start_before": timedelta(1)}, "limits"),
    ],
)
def test_limits_need_a_storage_that_supports_them(features, options, missing):
    """The call is refused before anything is stored or requested."""

    storage = MemoryStorage()
    storage.features = frozenset(features)
    fire = Firelock(storage)

    @fire.task(name="t")
    def run(x: int) -> None: ...

    for verb in (run.using(**options).enqueue, asyncio_run(run.using(**options).aenqueue)):
        with pytest.raises(UnsupportedFeature, match=f"does not support {missing}"):
            verb(1)
    with pytest.raises(UnsupportedFeature):
        run.using(**options).enqueue_many([(1,)])
    assert 0 == sum(fire.jobs.counts().values())
    assert run.enqueue(1).is_new


def asyncio_run(verb):
    return lambda *args: asyncio.run(verb(*args))


# ---- duplicates ------------------------------------------------------------------------------------------


def test_duplicate_call_returns_the_job_that_has_the_key(report, fire, created):
    """The duplicate call does not store anything. Plugins are notified of only one job."""
    first = report.enqueue(7)
    second = report.enqueue(7, 5)

    assert (True, False) == (first.is_new, second.is_new)
    assert first == second
    assert [first.id] == created.jobs
    assert 1 == fire.jobs.counts().enqueued
    assert '{"tenant_id":7}' == second.refresh().record().arguments


def test_async_duplicates_get_separate_handles(report, created):
    """Each awaited call gets its own handle even if one insert contains several calls."""
    report.enqueue(1).delete()  # reads the storage's clock, so the calls keep their order
    del created.jobs[:]

    async def calls():
        return await asyncio.gather(
            report.aenqueue(7), report.aenqueue(7), report.aenqueue(8), report.aenqueue(7, 3)
        )

    jobs = asyncio.run(calls())

    assert [True, False, True, False] == [job.is_new for job in jobs]
    assert jobs[0] == jobs[1] == jobs[3] != jobs[2]
    assert [jobs[0].id, jobs[2].id] == created.jobs


def test_refused_async_call_does_not_affect_others(report, plain):
    """A call with `conflict="raise"` does not affect other calls that are awaited at the same time."""
    refusing = report.using(unique=Unique("{tenant_id}/{day}", conflict="raise"))

    async def calls():
        first = await report.aenqueue(7)
        rest = await asyncio.gather(
            plain.aenqueue(), refusing.aenqueue(7), report.aenqueue(7), refusing.aenqueue(9),
            plain.aenqueue(), return_exceptions=True,
        )  # fmt: skip
        return first, rest

    first, (one, refused, duplicate, other, last) = asyncio.run(calls())

    assert isinstance(refused, DuplicateJob)
    assert (first.id, first) == (refused.job_id, refused.job)
    assert (True, False, True, True) == (one.is_new, duplicate.is_new, other.is_new, last.is_new)


def test_duplicate_job_error_contains_the_existing_job(report):
    refusing = report.using(unique=Unique("{tenant_id}/{day}", conflict="raise"))
    first = report.enqueue(7)

    with pytest.raises(
        DuplicateJob, match=r"has the unique key '7/mon' of task '.*'\. Nothing was stored"
    ) as caught:
        refusing.enqueue(7)

    assert (first.id, first, False) == (caught.value.job_id, caught.value.job, caught.value.job.is_new)
    assert isinstance(caught.value, JobConflict)
    assert first.id == caught.value.job.refresh().record().id


def test_bulk_enqueue_finds_duplicates_like_separate_calls(report, plain, fire, created):
    """Only the first of several equal calls creates a job."""
    jobs = report.enqueue_many([(1,), (2,), (1, 5), (3,)])
    more = fire.enqueue_many([report.call(2), plain.call(), report.call(4)])

    assert [True, True, False, True] == [job.is_new for job in jobs]
    assert jobs[0] == jobs[2]
    assert [False, True, True] == [job.is_new for job in more]
    assert jobs[1] == more[0]
    assert [jobs[0].id, jobs[1].id, jobs[3].id, more[1].id, more[2].id] == created.jobs


def test_refused_bulk_enqueue_stores_nothing(report, plain, fire):
    """The whole chunk is refused. The error contains the handle of the existing job."""
    first = report.enqueue(7)
    refusing = report.using(unique=Unique("{tenant_id}/{day}", conflict="raise"))

    with pytest.raises(DuplicateJob) as caught:
        fire.enqueue_many([plain.call(), refusing.call(8), refusing.call(7)])

    assert (first, "report") == (caught.value.job, caught.value.job.task)
    assert 1 == sum(fire.jobs.counts().values())


def test_continuation_can_be_a_duplicate(report, plain, fire, created):
    """A duplicate continuation does not add a dependency.

    The call returns the handle of the job that has the key.
    """
    first = report.enqueue(7)
    parent = plain.enqueue()

    child = parent.then(report, 7)
    other = parent.then(report, 8)
    again = asyncio.run(parent.athen(report, 8))

    assert (False, True, False) == (child.is_new, other.is_new, again.is_new)
    assert (first, other) == (child, again)
    assert () == child.refresh().record().parents
    assert (State.AWAITING, ("tenant:8/api", "tenant:8")) == (other.state, other.limits)
    assert [first.id, parent.id, other.id] == created.jobs


def test_keep_last_replaces_the_arguments_of_the_waiting_job(fire):
    """Calls replace the arguments until the job starts. The history counts the calls."""

    @fire.task(name="t", unique=Unique("k", until="started", keep="last"), tags=["x:{x}"])
    def run(x: int) -> None: ...

    first = run.enqueue(1)
    handles = [run.enqueue(2), run.using(priority=5).enqueue(3)]

    assert [False, False] == [job.is_new for job in handles]
    assert ('{"x":3}', 5, ("x:3",)) == (
        first.refresh().record().arguments, first.priority, first.tags,
    )  # fmt: skip
    assert "2 duplicate calls" == first.history()[-1].reason


# ---- debounced jobs --------------------------------------------------------------------------------------


def test_each_call_postpones_a_debounced_job():
    """The job is scheduled and can be postponed until the maximum wait has passed."""
    storage = MemoryStorage()
    with Firelock(storage) as fire:

        @fire.task(name="save")
        def save(doc: int, text: str = "") -> None: ...

        debounced = save.using(unique=Debounce("doc:{doc}", wait=50, max_wait=80))
        first = debounced.enqueue(1, "a")

        assert State.SCHEDULED is first.state
        assert first.next_due_at == first.created_at + timedelta(seconds=50)
        assert first.due_at == first.created_at
        assert Until.DUE is first.record().admission.unique.until

        storage.clock_offset += 40_000_000
        second = debounced.enqueue(1, "b")

        assert (True, False, first) == (first.is_new, second.is_new, second)
        assert '{"doc":1,"text":"b"}' == first.refresh().record().arguments
        assert first.next_due_at == first.created_at + timedelta(seconds=80)


@pytest.mark.parametrize(
    "call",
    [
        lambda task, parent: task.schedule(5, 1),
        lambda task, parent: task.using(delay=5).enqueue(1),
        lambda task, parent: task.using(at=datetime(2090, 1, 1, tzinfo=UTC)).enqueue(1),
        lambda task, parent: parent.then(task, 1),
        lambda task, parent: asyncio.run(parent.athen(task, 1)),
        lambda task, parent: task.using(delay=5).enqueue_many([(1,)]),
        lambda task, parent: task.recur("r", "* * * * *", 1),
    ],
)
def test_debounce_cannot_be_combined_with_a_due_time(fire, plain, call):
    """A delay, a parent or a schedule is refused as well. Nothing is stored."""
    parent = plain.enqueue()

    with pytest.raises(ConfigurationError, match=r"using\(unique=False\)"):
        call(plain.using(unique=Debounce("k", wait=1)), parent)

    assert 1 == sum(fire.jobs.counts().values())


# ---- reasons for waiting ---------------------------------------------------------------------------------


def test_handle_shows_the_limit_that_blocks_a_job(fire, report):
    """After a refresh, the handle shows whether the limit is full, paused, or allows a start only later.

    If the job waits only for a worker, the handle does not show a limit.
    """
    fire.limits.sync()
    running, waiting = report.enqueue(7), report.enqueue(7, 1, "tue")

    assert (None, None) == (waiting.waits_for, waiting.refresh().waits_for)
    assert [running.id] == [job.id for job in claim(fire)]
    assert waiting.waits_for is None
    assert "limit tenant:7 (1 of 1 running)" == waiting.refresh().waits_for

    fire.limits.pause("tenant")
    assert "limit tenant:7 (paused, 1 of 1 running)" == asyncio.run(waiting.arefresh()).waits_for
    fire.limits.resume("tenant")
    fire.limits.set("tenant", concurrent=2)
    fire.limits.spend("tenant:7/api", 1_000)
    words = waiting.refresh().waits_for
    assert words.startswith("limit tenant:7/api (opens in ")
    assert [[words.partition(" (")[0]], []] == [
        [str(wait).partition(" (")[0] for wait in waits]
        for waits in fire.jobs.held_by([waiting.id, running.id])
    ]
    assert running.refresh().waits_for is None


# ---- requeueing and copying ------------------------------------------------------------------------------


def test_requeue_is_refused_while_another_job_has_the_key(fire, report):
    """The error contains both jobs and the key.

    This also applies to a restore. A requeue by ids returns `taken`.
    """
    first = report.enqueue(7).delete()
    second = report.enqueue(7)

    with pytest.raises(
        JobConflict,
        match=rf"Job {first.id} cannot run again now, because job {second.id} has the unique key '7/mon'",
    ):
        first.requeue()
    with pytest.raises(JobConflict, match=rf"because job {second.id} has the unique key"):
        first.restore()
    assert ["taken"] == fire.jobs.requeue([first.id])
    assert State.DELETED is first.refresh().state

    second.delete()
    assert State.ENQUEUED is first.requeue().state
    assert not report.enqueue(7).is_new


def test_copy_keeps_the_limits_of_its_job(fire, report, created):
    """If the original has a unique key and has not ended, it is returned instead of a copy."""
    first = report.enqueue(7, 5)
    again = fire.jobs.copy(first.id)
    first.delete()
    copied = fire.jobs.copy(first.id)

    assert (False, first, True) == (again.is_new, again, copied.is_new)
    assert (first.limits, first.unique_key) == (copied.limits, copied.unique_key)
    assert first.record().admission.limits == copied.record().admission.limits
    assert [first.id, copied.id] == created.jobs


def test_copy_does_not_change_other_jobs(fire, plain):
    """The copy of a debounced job runs immediately. A past deadline is removed from the copy.

    The copy does not replace a waiting job, even if a normal call would replace it.
    """
    debounced = plain.using(unique=Debounce("d", wait=5)).enqueue(1)
    newest = plain.using(unique=Unique("k", until="started", keep="last")).enqueue(2)
    past = plain.using(start_before=datetime(2020, 1, 1, tzinfo=UTC)).enqueue(3)
    newest.delete()
    waiting = plain.using(unique=Unique("k", until="started", keep="last")).enqueue(4)

    copies = [fire.jobs.copy(job.id) for job in (debounced, newest, past)]

    assert [(State.ENQUEUED, None), (waiting, False), None] == [
        (copies[0].state, copies[0].unique_key), (copies[1], copies[1].is_new), copies[2].start_before,
    ]  # fmt: skip
    assert '{"x":4}' == waiting.refresh().record().arguments
