"""Steps and other memos of a job, and waits that do not occupy a worker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from firelock import (
    Firelock,
    JobCancelled,
    JobContext,
    JobDeleted,
    JobFailed,
    JobNotFound,
    JobSuspended,
    Limit,
    Retry,
    StepError,
    Unique,
)
from firelock.errors import StorageError, StorageUnavailable
from firelock.model.clock import SECOND
from firelock.model.memo import Memo, MemoKind, NewMemo
from firelock.model.state import State
from firelock.testing import Tester
from tests.core.fakes import FailingStorage, ForeignTask, Worker, plugin

DAY = timedelta(days=1)
NEVER, AT_ONCE = Retry.never(), Retry.fixed(0, attempts=5, jitter=0)


@attrs.frozen
class Approval:
    """The payload of the signal."""

    ok: bool


class Named:
    """A minimal signal that has only the attributes that a wait uses."""

    def __init__(self, name="approval"):
        self.name = name

    def decode(self, text):
        return Approval(**json.loads(text))


def send(fire, job, **payload):
    """Send the signal to the job from outside, and return the result."""
    memo = Memo(MemoKind.SIGNAL, "approval", json.dumps(payload), True, fire.client.clock.now(), author="ada")
    return fire.storage.remember([NewMemo(job.id, memo)])[0].answer


def record_of(fire, job):
    """Return the stored job."""
    return fire.storage.get([job.id])[0]


# ---- steps -----------------------------------------------------------------------------------------------


def test_step_runs_once_even_if_the_job_runs_again(fire, tester):
    """Later runs use the value of the first run. A failed step is tried again."""
    ran = []

    def charge(amount: int) -> str:
        ran.append(amount)
        return f"ch_{amount}"

    def ship(charged: str) -> None:
        ran.append(charged)
        if ran.count(charged) < 3:
            raise ConnectionError

    @fire.task(name="order", retry=AT_ONCE)
    def order(job: JobContext) -> str:
        charged = job.step("charge", charge, 42)
        job.step("ship", ship, charged)
        return charged

    job = order.enqueue()
    drained = tester.drain()

    assert (1, 2) == (drained.succeeded, drained.retried)
    assert [42, "ch_42", "ch_42", "ch_42"] == ran
    assert "ch_42" == job.result(0)
    assert [("charge", '"ch_42"', 1), ("ship", "null", 3)] == [
        (memo.name, memo.value, memo.attempt) for memo in fire.storage.recall(job.id)
    ]


def test_step_value_is_restored_with_its_annotated_type(fire, tester):
    """Attrs classes and datetimes are restored, as in results. Without an annotation, the value is JSON."""
    seen = []

    def approve() -> Approval:
        return Approval(ok=True)

    def now() -> datetime:
        return datetime(2030, 1, 1, tzinfo=UTC)

    @fire.task(name="all")
    def all_kinds(job: JobContext) -> None:
        seen.append([job.step("a", approve), job.step("b", now), job.step("c", lambda: {"x": [1, None]})])
        job.sleep("night", DAY)

    all_kinds.enqueue()
    tester.drain()
    tester.clock.advance(DAY)

    assert [[Approval(ok=True), datetime(2030, 1, 1, tzinfo=UTC), {"x": [1, None]}]] * 2 == seen


def test_step_calls_a_task_as_a_plain_function(fire, tester):
    """A step runs a task in the same process.

    The task's return annotation determines the type of the value.
    """

    @fire.task(name="load")
    def load(day: str) -> datetime:
        return datetime.fromisoformat(day)

    @fire.task(name="caller")
    def caller(job: JobContext) -> datetime:
        return job.step("load", load, day="2030-01-01T00:00:00+00:00")

    job = caller.enqueue()
    tester.drain()

    assert datetime(2030, 1, 1, tzinfo=UTC) == job.result(0)


def misused(fire, tester, function, **options):
    """Return the error message of a job of this task, which must fail without a retry."""
    task = fire.task(**{"name": "wrong", "retry": AT_ONCE, **options})(function)
    job = task.enqueue()
    assert 1 == tester.drain().failed
    return record_of(fire, job).error.message


def twice(job: JobContext):
    job.step("page", int)
    job.step("page", int)


def nested(job: JobContext):
    job.step("outer", lambda: job.step("inner", int))


def unstorable(job: JobContext):
    job.step("set", lambda: {1, 2})


def no_form(job: JobContext):
    def connect() -> Nowhere:  # noqa: F821 - the mistake under test
        raise AssertionError

    job.step("connect", connect)


def too_large(job: JobContext):
    job.step("big", lambda: "x" * 300_000)


def asynchronous(job: JobContext):
    async def fetch():
        return 1

    job.step("fetch", fetch)


def called(job: JobContext):
    job.step("len", len([]))


def nameless(job: JobContext):
    job.step("", int)


def no_span(job: JobContext):
    job.sleep("night", -1)


def sleeps_twice(job: JobContext):
    job.sleep("nap", 0)
    job.sleep("nap", 0)


def too_many(job: JobContext):
    for number in range(1_001):
        job.step(f"page:{number}", int)


def runs_a_function(job: JobContext):
    job.run("len", len, [])


def runs_nothing(job: JobContext):
    job.run("three", 3)


def runs_a_foreign_task(job: JobContext):
    job.run("other", ForeignTask(), 3)


def runs_itself_async(job: JobContext):
    asyncio.run(job.arun("len", len, []))


def gathers_results(job: JobContext):
    job.gather("sums", [3])


def gathers_a_number(job: JobContext):
    asyncio.run(job.agather("sums", 3))


def joins_an_id(job: JobContext):
    job.join("01a2")


def joins_a_number(job: JobContext):
    asyncio.run(job.ajoin(3))


def receives_a_name(job: JobContext):
    job.receive("approval", timeout=None)


def receives_a_type(job: JobContext):
    asyncio.run(job.areceive(Approval, timeout=None))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            runs_a_function,
            r"job.run\('len', …\) requires a task, but <built-in .*is a function: make it a task with",
        ),
        (runs_nothing, r"job.run\('three', …\) requires a task, but 3 is not a task: pass the task itself"),
        (runs_a_foreign_task, r"job.run\('other', …\) requires a task, but .* is not a task"),
        (runs_itself_async, r"is a function: make it a task with @fire.task, or .*job.step\('len', …\)"),
        (
            gathers_results,
            r"job.gather\('sums', …\): item 0 is 3, which is not a call: use task.call\(…\)",
        ),
        (
            gathers_a_number,
            r"job.gather\('sums', …\) requires a list of calls, \[task.call\(…\), …\], got 3. For a",
        ),
        (
            joins_an_id,
            r"job.join\(\) requires the handle of a job or batch, got '01a2'. Use fire.jobs.get\('01a2'\)",
        ),
        (
            joins_a_number,
            r"job.join\(\) requires the handle of a job or batch, got 3. Use the return value of task",
        ),
        (
            receives_a_name,
            r"job.receive\(\) requires a signal, got 'approval'. .*fire.signal\('approval', type\)",
        ),
        (
            receives_a_type,
            r"job.receive\(\) requires a signal, got <class .*Approval'>. Create it once, next to the tasks",
        ),
        (
            twice,
            r"'step page' is used twice in this run, but a name has only one value. In a loop, use f'page",
        ),
        (nested, "'step inner' is inside step 'outer', but a step cannot contain another step"),
        (unstorable, r"Step 'set' returned a set that cannot be stored: set is not a JSON type at \$"),
        (
            no_form,
            "The return value of step 'connect' cannot be stored: .*'Nowhere' of the return value cannot be",
        ),
        (too_large, "The value of 'step big' has 300,002 bytes, above the limit of 262,144. Store the"),
        (asynchronous, r"Step 'fetch': .*fetch is an async function; use await job.astep\(…\)."),
        (
            called,
            r"Step 'len' requires a function and its arguments, got 0. Use for example job.step\('len'",
        ),
        (nameless, "The name of a step must be a string of 1 to 200 printable characters, got ''."),
        (
            no_span,
            r"sleep\('night', …\) requires a timedelta or a number of seconds, from 0 to 3,650 days, got -1.",
        ),
        (
            sleeps_twice,
            r"'sleep nap' is used twice in this run, but a name has only one value. In a loop, use f'day",
        ),
        (too_many, "'step page:1000' would be memo 1,001 of this job. A job can have at most 1,000 memos"),
    ],
)
def test_misuse_fails_the_job_with_a_fix_in_the_error(fire, tester, function, words):
    """The job is not retried, because a retry would fail as well."""
    message = misused(fire, tester, function)

    with pytest.raises(StepError, match=words):
        raise StepError(message)


def test_call_or_job_of_the_wrong_type_raises_a_specific_error(fire, tester):
    """The error contains the wrong value and the correct code."""

    @fire.task(name="load")
    def load(day: int) -> int:
        return day

    stored = load.enqueue(1)
    tester.drain()

    def runs_a_call(job: JobContext):
        job.run("one", load.call(1))

    def runs_a_job(job: JobContext):
        job.run("one", stored)

    def gathers_jobs(job: JobContext):
        job.gather("two", [load.call(1), stored])

    messages = [
        misused(fire, tester, one, name=one.__name__) for one in (runs_a_call, runs_a_job, gathers_jobs)
    ]

    assert [True] * 3 == [
        words in one
        for words, one in zip(
            (
                "is a call: pass the task itself, job.run('one', load, …)",
                "is a stored job",
                "item 1 is <Job",
            ),
            messages,
            strict=True,
        )
    ]


def test_stored_step_value_of_another_type_fails_the_job(fire, tester):
    """The annotation changed while the job slept. The job is not retried, and the value is kept."""
    answers = {"charge": lambda: 42}

    def charge_as_text() -> str:
        return "42"

    @fire.task(name="order", retry=AT_ONCE)
    def order(job: JobContext) -> None:
        job.step("charge", answers["charge"])
        job.sleep("night", DAY)

    job = order.enqueue()
    tester.drain()
    answers["charge"] = charge_as_text

    assert 1 == tester.clock.advance(DAY).failed
    message = record_of(fire, job).error.message
    assert "The stored value of 'step charge' no longer fits: int where str is annotated at $" in message
    assert "job.requeue(from_step='charge')" in message
    assert "42" == fire.storage.recall(job.id)[0].value


def test_task_can_try_a_failed_step_again(fire, tester):
    """The second try is in the same run and uses the same name."""
    tries = []

    def flaky():
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError
        return len(tries)

    @fire.task(name="order")
    def order(job: JobContext) -> int:
        while True:
            with contextlib.suppress(ConnectionError):
                return job.step("flaky", flaky)

    job = order.enqueue()
    tester.drain()

    assert 3 == job.result(0)


def test_step_key_is_stable_and_unique(fire, tester):
    """The key is a UUID derived from the job's id and the name of the step."""
    first, second = JobContext.fake(), JobContext.fake(id="00000000-0000-7000-8000-000000000001")

    assert first.key("charge") == JobContext.fake().key("charge")
    assert 3 == len({first.key("charge"), first.key("refund"), second.key("charge")})
    assert 36 == len(first.key("charge"))


# ---- permission to store memos ---------------------------------------------------------------------------


def test_step_of_a_deleted_job_raises_job_cancelled(fire):
    """The job is deleted while its step runs. No memo is stored, and the task does not continue."""
    seen = []

    @fire.task(name="order")
    def order(job: JobContext):
        try:
            job.step("charge", lambda: made.delete() and 1)
        except JobCancelled as error:
            seen.append(str(error))
            raise

    made = order.enqueue()
    Worker(fire).run()

    assert ["the job is no longer this run's"] == seen
    assert [] == fire.storage.recall(made.id)


def test_superseded_run_restores_no_memos(fire):
    """Memos that a newer run has deleted must not reappear."""
    runs = []

    @fire.task(name="order")
    def order(job: JobContext):
        runs.append(job.step("number", lambda: len(runs)))
        job.sleep("night", DAY)

    made = order.enqueue()
    worker = Worker(fire)
    worker.run()
    made.requeue()
    (job,) = worker.claim()
    made.delete()

    ended = worker.attempt(job)

    assert [0] == runs
    assert (State.ENQUEUED, "the job is no longer this run's") == (
        ended.transition.to, ended.transition.reason,
    )  # fmt: skip


@pytest.mark.parametrize("is_late", [False, True])
def test_memo_is_sent_again_during_an_outage(is_late):
    """The memo is sent again as long as the job may continue.

    Sending it twice after a lost reply is harmless.
    """
    storage, ran = FailingStorage(), []
    with Firelock(storage) as fire:

        @fire.task(name="order")
        def order(job: JobContext) -> int:
            return job.step("charge", lambda: ran.append(1) or 7)

        job = order.enqueue()
        storage.fail("remember", StorageUnavailable("away"), StorageUnavailable("away"), is_late=is_late)
        Worker(fire).run()

        assert (7, [1]) == (job.result(0), ran)


def test_step_stops_retrying_when_the_session_has_expired():
    """A server that is no longer allowed to run its jobs does not wait for the storage."""
    storage = FailingStorage()
    with Firelock(storage) as fire:

        @fire.task(name="order")
        def order(job: JobContext) -> int:
            return job.step("charge", lambda: 7)

        order.enqueue()
        storage.fail_always("remember", StorageUnavailable("away"))
        worker = Worker(fire)
        (job,) = worker.claim()
        worker.runner.has_right = lambda: False
        run = worker.runner.prepare(job, worker.holder)
        ended = worker.runner.run(run)

        assert (
            "the storage is unavailable, and the server could not renew its session in time"
            == ended.transition.reason
        )


# ---- waits -----------------------------------------------------------------------------------------------


def test_sleep_does_not_occupy_a_worker(fire, tester):
    """The run ends and is not counted as an attempt. A later run continues after the sleep."""
    seen = []

    @fire.task(name="order")
    def order(job: JobContext):
        seen.append(("top", job.attempt))
        job.sleep("night", DAY)
        seen.append("on")

    job = order.enqueue()
    assert 1 == tester.drain().suspended
    record = record_of(fire, job)
    assert (State.SCHEDULED, "sleep night", 0, None) == (
        record.state, record.waits_for, record.attempt, record.session,
    )  # fmt: skip
    assert "sleeps until 2030-01-02 00:00:00 UTC" == record.reason

    tester.clock.advance(DAY - timedelta(seconds=1))
    assert [("top", 1)] == seen
    tester.clock.advance(seconds=1)

    assert [("top", 1), ("top", 1), "on"] == seen
    assert record_of(fire, job).waits_for is None


def test_short_sleep_does_not_end_the_run(fire):
    """For a sleep of less than two seconds, keeping the run is cheaper than resuming the job."""
    seen = []

    @fire.task(name="order")
    def order(job: JobContext):
        seen.append("top")
        job.sleep("nap", 0.02)
        job.sleep("past", datetime(2020, 1, 1, tzinfo=UTC))

    job = order.enqueue()
    Worker(fire).run()

    assert (["top"], State.SUCCEEDED) == (seen, record_of(fire, job).state)


def test_signal_resumes_the_waiting_job(fire, tester):
    """Only the first signal has an effect."""

    @fire.task(name="order")
    def order(job: JobContext) -> str:
        answer = job.receive(Named(), timeout=7 * DAY)
        return "late" if answer is None else f"ok={answer.ok}"

    job = order.enqueue()
    tester.drain()
    record = record_of(fire, job)
    assert (State.AWAITING, "signal approval") == (record.state, record.waits_for)
    assert tester.clock.now + 7 * DAY == job.refresh().next_due_at

    assert "applied" == send(fire, job, ok=True)
    assert "taken" == send(fire, job, ok=False)
    tester.drain()

    assert "ok=True" == job.result(0)


def test_signal_sent_before_the_wait_is_received(fire, tester):
    """The signal can be sent even before the first run of the job."""

    @fire.task(name="order")
    def order(job: JobContext) -> bool:
        answer = job.receive(Named(), timeout=None)
        return answer is not None and answer.ok

    job = order.enqueue()
    send(fire, job, ok=True)

    assert 1 == tester.drain().succeeded
    assert job.result(0)


def test_expired_timeout_of_a_wait_is_final(fire, tester):
    """The timeout starts with the first run that reaches the wait. A later signal has no effect."""
    seen = []

    @fire.task(name="order")
    def order(job: JobContext):
        seen.append(job.receive(Named(), timeout=7 * DAY))
        job.sleep("night", DAY)

    job = order.enqueue()
    tester.drain()
    tester.clock.advance(days=3)
    job.requeue()  # the next run reaches the wait again
    tester.drain()
    tester.clock.advance(days=4)

    assert [None] == seen
    assert "taken" == send(fire, job, ok=True)
    tester.clock.advance(DAY)
    assert [None, None] == seen


def test_timeout_of_zero_checks_once_for_a_signal(fire, tester):
    """A wait with a timeout of zero does not suspend the job."""

    @fire.task(name="order")
    def order(job: JobContext) -> bool:
        return job.receive(Named(), timeout=0) is None

    job = order.enqueue()

    assert 1 == tester.drain().succeeded
    assert job.result(0)


def test_run_is_suspended_even_if_the_task_catches_job_suspended(fire, tester):
    """The run is also suspended if the task raises another exception instead."""
    seen = []

    @fire.task(name="swallows")
    def swallows(job: JobContext):
        try:
            job.sleep("night", DAY)
        except BaseException as error:  # noqa: BLE001 - as careless code might do
            seen.append(type(error))
            return "swallowed"

    @fire.task(name="replaces")
    def replaces(job: JobContext):
        try:
            job.sleep("night", DAY)
        except BaseException as error:
            raise ValueError from error

    jobs = [swallows.enqueue(), replaces.enqueue()]

    assert 2 == tester.drain().suspended
    assert [State.SCHEDULED] * 2 == [record_of(fire, job).state for job in jobs]
    assert [JobSuspended] == seen


def test_plugin_contexts_end_normally_on_suspension():
    """The exception that suspends the run does not reach the contexts of plugins."""
    seen = []

    @contextlib.contextmanager
    def around(job, task):
        try:
            yield
        except BaseException as error:
            seen.append(error)
            raise
        seen.append("left")

    with Firelock("memory://", plugins=[plugin(job_context=around)]) as fire, Tester(fire) as tester:

        @fire.task(name="order")
        def order(job: JobContext):
            job.sleep("night", DAY)

        order.enqueue()

        assert 1 == tester.drain().suspended
        assert ["left"] == seen


# ---- other jobs ------------------------------------------------------------------------------------------


def test_called_job_inherits_the_meta_of_its_caller(fire, tester):
    """A continuation inherits the metadata in the same way.

    A batch that the task creates does not inherit it, and neither do the batch's members.
    """
    part = fire.task(name="part")(lambda: None)
    member = fire.task(name="member")(lambda: None)

    def make() -> str:
        with fire.batch("parts") as batch:
            batch.add(member)
        return batch.id

    @fire.task(name="whole")
    def whole(job: JobContext) -> None:
        job.join(fire.batches.get(job.step("batch", make)))
        job.run("one", part)
        job.gather("two", [part.using(meta={"lane": "b"}).call()])

    whole.using(meta={"tenant": "acme", "lane": "a"}).enqueue()
    tester.drain(raises=True)

    metas = [dict(job.meta) for job in fire.jobs.find(task="part").jobs]
    assert [{"tenant": "acme", "lane": "b"}, {"tenant": "acme", "lane": "a"}] == metas
    assert [{}] == [dict(job.meta) for job in fire.jobs.find(task="member").jobs]
    assert [{}] == [dict(job.meta) for job in fire.batches.list()]


def test_call_returns_the_result_of_the_called_job(fire, tester):
    """The called job runs like any other job. While it runs, its caller does not occupy a worker."""

    @fire.task(name="double")
    def double(number: int) -> int:
        return number * 2

    @fire.task(name="order")
    def order(job: JobContext) -> list[int]:
        return [job.run("one", double, 4), *job.gather("more", [double.call(n) for n in (1, 2)])]

    job = order.enqueue()
    drained = tester.drain()

    assert (4, 2) == (drained.succeeded, drained.suspended)
    assert [8, 2, 4] == job.result(0)


def test_failed_child_raises_once_and_is_created_again_by_a_retry(fire, tester):
    """If the task does not catch the failure, the caller fails without a retry."""
    ran = []

    @fire.task(name="flaky", retry=NEVER)
    def flaky() -> int:
        ran.append(1)
        if len(ran) == 1:
            raise ConnectionError("no route")
        return len(ran)

    @fire.task(name="order", retry=AT_ONCE)
    def order(job: JobContext) -> int:
        return job.run("child", flaky)

    job = order.enqueue()
    drained = tester.drain()

    assert (2, 0) == (drained.failed, drained.retried)
    assert "no route" in record_of(fire, job).error.message
    with pytest.raises(JobFailed, match="no route"):
        job.result(0)

    job.requeue()
    tester.drain()

    assert (2, 2) == (job.result(0), len(ran))


def test_caught_failure_of_a_child_does_not_fail_the_caller(fire, tester):
    """A retry for another reason repeats only the failed calls."""
    ran = []

    @fire.task(name="part", retry=NEVER)
    def part(number: int) -> int:
        ran.append(number)
        if number == 1 and ran.count(1) == 1:
            raise ConnectionError
        return number

    @fire.task(name="order", retry=AT_ONCE)
    def order(job: JobContext) -> list[int]:
        try:
            return job.gather("parts", [part.call(number) for number in range(3)])
        except JobFailed as error:
            raise RuntimeError("try again") from error

    job = order.enqueue()
    drained = tester.drain()

    assert (1, 1) == (drained.failed, drained.retried)
    assert [0, 1, 2] == job.result(0)
    assert [0, 1, 2, 1] == ran


def test_later_run_stores_a_child_whose_memo_already_exists():
    """The server died after it had stored the memo of the call, but before it stored the called job.

    The next run uses the same id, so no second job is created.
    """
    storage = FailingStorage()
    with Firelock(storage) as fire:
        child = fire.task(name="child")(lambda: 7)

        @fire.task(name="order", retry=AT_ONCE)
        def order(job: JobContext) -> int:
            return job.run("child", child)

        made = order.enqueue()
        storage.fail("insert", StorageError("refused"))
        worker = Worker(fire)
        worker.run()
        begun = json.loads(storage.recall(made.id)[0].value)
        assert [None] == storage.get(begun["ids"])
        for _ in range(3):
            worker.run()

        assert (7, ["child"]) == (made.result(0), [one.task for one in storage.get(begun["ids"])])


def test_call_waits_for_the_existing_job_with_the_unique_key(fire, tester):
    """The result of the existing job is used."""

    @fire.task(name="child", unique=Unique("{number}"))
    def child(number: int) -> int:
        return number * 2

    @fire.task(name="order")
    def order(job: JobContext) -> list[int]:
        return job.gather("both", [child.call(1), child.call(2)])

    first = child.using(priority=-100).enqueue(1)
    job = order.enqueue()
    tester.drain()

    assert [2, 4] == job.result(0)
    assert (2, first.id) == (len(fire.jobs.find(task="child")), fire.jobs.find(task="child").jobs[-1].id)


def test_results_too_large_for_a_memo_are_read_from_their_jobs(fire, tester):
    """The called jobs are kept as long as their caller."""

    @fire.task(name="child")
    def child(number: int) -> str:
        return str(number) * 200_000

    @fire.task(name="order")
    def order(job: JobContext) -> list[int]:
        lengths = [len(text) for text in job.gather("texts", [child.call(1), child.call(2)])]
        job.sleep("night", DAY)
        return lengths

    job = order.enqueue()
    tester.drain()
    tester.clock.advance(DAY)

    assert [200_000, 200_000] == job.result(0)


@pytest.mark.parametrize("number", [0, 501])
def test_gather_accepts_a_limited_number_of_calls(fire, tester, number):
    """An empty list returns immediately. For very many calls, use a batch."""
    child = fire.task(name="child")(lambda: 7)

    @fire.task(name="order")
    def order(job: JobContext) -> list[int]:
        return job.gather("all", [child.call()] * number)

    job = order.enqueue()
    tester.drain()

    record = record_of(fire, job)
    if number:
        assert (
            "gather('all') has 501 calls, above the limit of 500. Create a batch of them"
            in record.error.message
        )
    else:
        assert "[]" == record.result


def test_deleted_child_raises_in_its_caller(fire, tester):
    """The reason for the deletion does not matter."""

    @fire.task(name="child")
    def child() -> None: ...

    @fire.task(name="order")
    def order(job: JobContext) -> str:
        try:
            job.run("child", child.using(delay=DAY))
        except JobDeleted:
            return "without it"
        return "with it"

    job = order.enqueue()
    tester.drain()
    (made,) = [each for each in fire.jobs.find() if each.task == "child"]
    made.delete()
    tester.drain()

    assert "without it" == job.result(0)


def test_changed_calls_of_a_gather_are_refused(fire, tester):
    """The stored results would belong to different calls."""
    numbers = [1, 2]

    @fire.task(name="child")
    def child(number: int) -> int:
        return number

    @fire.task(name="order")
    def order(job: JobContext):
        job.gather("parts", [child.call(number) for number in numbers])

    job = order.enqueue()
    tester.drain(limit=1)
    numbers.append(3)
    tester.drain()

    message = record_of(fire, job).error.message
    assert "'parts' called 2 jobs before, but now has 3 calls. Use another name" in message


def test_task_can_join_any_job(fire, tester):
    @fire.task(name="child")
    def child() -> int:
        return 7

    @fire.task(name="order")
    def order(job: JobContext, other: str) -> int:
        return job.join(fire.jobs.get(other))

    scheduled = child.schedule(DAY)
    job, wrong = order.enqueue(scheduled.id), order.enqueue(child.enqueue().id)
    tester.drain()
    assert State.AWAITING == record_of(fire, job).state
    tester.clock.advance(DAY)

    assert (7, 7) == (job.result(0), wrong.result(0))


def test_job_is_joined_again_after_its_requeue_under_another_name(fire, tester):
    """Each join needs its own name.

    Without a name, a second join of the same job is refused, and the error contains the fix.
    """
    fixed: list[int] = []

    @fire.task(name="child", retry=Retry.never())
    def child() -> int:
        if not fixed:
            raise ValueError("broken")
        return 7

    @fire.task(name="order", retry=Retry.never())
    def order(job: JobContext, other: str, named: bool) -> list[int]:
        joined, results = fire.jobs.get(other), []
        for turn in range(2):
            try:
                results.append(job.join(joined, name=f"turn:{turn}" if named else None))
            except JobFailed:
                fixed.append(turn)
                joined.requeue()
        return results

    first = child.enqueue()
    job = order.enqueue(first.id, True)
    tester.drain()
    second = order.enqueue(first.id, False)
    tester.drain()

    assert ([0], [7, 7]) == (fixed, job.result(0))
    assert ["turn:0", "turn:1"] == [step.name for step in job.steps()]
    assert (
        f"'call {first.id}' is used twice in this run, but a name has only one value. In a loop, "
        "or after a requeue, pass a different name each time: job.join(job, name=f'turn:{n}')."
    ) in record_of(fire, second).error.message


def test_join_under_the_name_of_an_unfinished_call_is_refused(fire, tester):
    """The memo of an unfinished call contains only the ids of its jobs and no result."""
    deployed: list[bool] = []

    @fire.task(name="child")
    def child() -> int:
        return 7

    @fire.task(name="order", retry=Retry.never())
    def order(job: JobContext, other: str) -> int:
        if deployed:
            return job.join(fire.jobs.get(other), name="part")
        deployed.append(True)
        return job.run("part", child)

    job = order.enqueue(child.enqueue().id)
    tester.drain()

    assert (
        "'part' is already the name of a call that has not ended, so job.join(…, name='part') cannot use it. "
        "Use another name."
    ) in record_of(fire, job).error.message


@pytest.mark.parametrize("name", ["", "two\nlines", 3])
def test_join_under_an_invalid_name_raises(fire, tester, name):
    @fire.task(name="child")
    def child() -> int:
        return 7

    @fire.task(name="order", retry=Retry.never())
    async def order(job: JobContext, other: str) -> int:
        return await job.ajoin(fire.jobs.get(other), name=name)

    job = order.enqueue(child.enqueue().id)
    tester.drain()

    assert "The name of a call must be a string of 1 to" in record_of(fire, job).error.message


def test_fake_context_returns_join_results_by_name(fire):
    @fire.task(name="child")
    def child() -> int:
        return 7

    made = child.enqueue()

    def order(job: JobContext) -> tuple[int, int]:
        return job.join(made), job.join(made, name="again")

    assert (1, 2) == order(JobContext.fake(answers={made.id: 1, "again": 2}))


def test_join_of_itself_or_an_unknown_job_raises(fire, tester):
    """The error is raised immediately, before the run is suspended."""

    @fire.task(name="order")
    def order(job: JobContext):
        job.join(fire.jobs.get(job.id))

    @fire.task(name="lost")
    def lost(job: JobContext):
        other = order.schedule(DAY)
        stored = fire.jobs.get(other.id)
        stored.id = job.id[:-1] + ("0" if job.id[-1] != "0" else "1")
        job.join(stored)

    first, second = order.enqueue(), lost.enqueue()
    tester.drain()

    assert "cannot wait for itself, because the wait would never end" in record_of(fire, first).error.message
    assert JobNotFound.__qualname__ in record_of(fire, second).error.type


# ---- async -----------------------------------------------------------------------------------------------


def test_async_task_can_use_all_kinds_of_memos(fire, tester):
    """Async tasks use the methods whose names begin with `a`."""

    async def charge() -> int:
        await asyncio.to_thread(int)
        return 42

    @fire.task(name="child")
    async def child(number: int) -> int:
        return number

    @fire.task(name="order")
    async def order(job: JobContext) -> list[object]:
        charged = await job.astep("charge", charge)
        await job.asleep("night", DAY)
        answer = await job.areceive(Named(), timeout=DAY)
        one = await job.arun("one", child, 1)
        more = await job.agather("more", [child.call(2), child.call(3)])
        return [charged, answer, one, *more]

    job = order.enqueue()
    tester.drain()
    tester.clock.advance(days=2)

    assert [42, None, 1, 2, 3] == job.result(0)


def test_concurrent_steps_finish_before_the_run_is_suspended(fire, tester):
    """The memos of steps in `asyncio.gather` or in a task group are stored before the suspension."""
    ran = []

    async def slow(name: str) -> str:
        for _ in range(5):
            await asyncio.to_thread(int)
        ran.append(name)
        return name

    @fire.task(name="gathers")
    async def gathers(job: JobContext) -> None:
        await asyncio.gather(job.asleep("night", DAY), job.astep("a", slow, "a"))

    @fire.task(name="groups")
    async def groups(job: JobContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(job.asleep("night", DAY))
            group.create_task(job.astep("b", slow, "b"))

    jobs = [gathers.enqueue(), groups.enqueue()]

    assert 2 == tester.drain().suspended
    assert "a" in ran
    assert 2 == tester.clock.advance(DAY).succeeded
    assert [State.SUCCEEDED] * 2 == [record_of(fire, job).state for job in jobs]


def test_steps_in_threads_end_before_a_suspension(fire, tester):
    """A thread of the task might still run a step when the task starts to wait."""
    done, pool = [], ThreadPoolExecutor(2)
    entered, may_end = threading.Event(), threading.Event()

    def slow() -> int:
        entered.set()
        may_end.wait(10)
        done.append("slow")
        return 1

    @fire.task(name="order")
    def order(job: JobContext) -> None:
        future = pool.submit(job.step, "slow", slow)
        entered.wait(10)
        threading.Timer(0.01, may_end.set).start()
        job.sleep("night", DAY)
        future.result()

    job = order.enqueue()
    with pool:
        assert 1 == tester.drain().suspended

        assert ["slow"] == done
        assert ["slow", "night"] == sorted(
            (memo.name for memo in fire.storage.recall(job.id)), key=["slow", "night"].index
        )


def test_astep_with_a_sync_function_raises(fire, tester):
    async def order(job: JobContext):
        await job.astep("len", len, [])

    message = misused(fire, tester, order)

    assert "Step 'len': len is not an async function; use job.step(…)" in message


def test_steps_awaited_together_share_a_round_trip():
    """The memos of steps in one iteration of the event loop are sent together."""
    storage = FailingStorage()

    async def page(number: int) -> int:
        return number

    with Firelock(storage) as fire:

        @fire.task(name="order")
        async def order(job: JobContext) -> list[int]:
            return await asyncio.gather(*(job.astep(f"page:{n}", page, n) for n in range(20)))

        order.enqueue()
        worker = Worker(fire)
        (job,) = worker.claim()
        asyncio.run(worker.runner.arun(worker.runner.prepare(job, worker.holder)))

        assert [20] == [len(memos) for (memos,) in storage.called["remember"]]


# ---- costs -----------------------------------------------------------------------------------------------


def trips(storage, before):
    """Return the number of round trips since `before`, by storage call."""
    return {
        verb: number
        for verb, calls in storage.called.items()
        if (number := len(calls) - before.get(verb, 0)) and verb not in {"clock", "new_ids", "refuse_within"}
    }


def test_step_costs_one_round_trip_and_suspension_two():
    """A resumed run needs one more round trip to read its memos. A first run does not read memos."""
    storage = FailingStorage()
    with Firelock(storage) as fire:

        @fire.task(name="order")
        def order(job: JobContext):
            job.step("a", int)
            job.step("b", int)
            job.sleep("night", DAY)
            job.step("c", int)

        order.enqueue()
        worker = Worker(fire)
        before = {verb: len(calls) for verb, calls in storage.called.items()}
        worker.run()
        assert {"claim": 1, "remember": 3, "apply": 1} == trips(storage, before)

        storage.clock_offset += 86_400 * SECOND
        storage.promote(10)
        before = {verb: len(calls) for verb, calls in storage.called.items()}
        worker.run()
        assert {"claim": 1, "recall": 1, "remember": 1, "apply": 1} == trips(storage, before)


# ---- direct calls ----------------------------------------------------------------------------------------


def test_directly_called_task_runs_steps_but_does_not_wait():
    """The test must provide the results of the waits."""

    def order(job: JobContext) -> list[object]:
        charged = job.step("charge", lambda: 42)
        answer = job.receive(Named(), timeout=DAY)
        job.emit("said")
        return [charged, answer]

    answers = {"approval": Approval(ok=True)}

    assert [42, Approval(ok=True)] == order(JobContext.fake(answers=answers))
    assert [7, Approval(ok=True)] == order(JobContext.fake(answers={**answers, "charge": 7}))
    with pytest.raises(StepError, match=r"waits for 'signal approval', but no server .*fake\(answers=\{'app"):
        order(JobContext.fake())
    with pytest.raises(StepError, match="'step twice' is used twice"):
        twice_of(JobContext.fake())


def twice_of(job):
    job.step("twice", int)
    job.step("twice", int)


def test_fake_context_provides_results_for_every_wait(fire):
    """The results can also be errors or results of other jobs."""
    child = fire.task(name="child")(lambda: 1)
    stored = child.enqueue()

    async def order(job: JobContext) -> list[object]:
        await job.asleep("night", DAY)
        more = await job.agather("more", [child.call()])
        return [await job.arun("one", child), *more, await job.ajoin(stored)]

    answers = {"night": None, "one": 1, "more": [2, 3], stored.id: 4}

    assert [1, 2, 3, 4] == asyncio.run(order(JobContext.fake(answers=answers)))
    with pytest.raises(JobFailed, match="gone"):
        JobContext.fake(answers={"one": JobFailed("gone")}).run("one", child)


# ---- streams ---------------------------------------------------------------------------------------------


def test_output_is_readable_while_the_job_runs(fire, tester):
    """The output is stored in order, in chunks of 16 KiB.

    A skipped step does not emit its output again.
    """

    def ask(job):
        job.emit("Once ")
        job.emit("upon")
        job.emit("ä" * 10_000, stream="long")
        return "answer"

    @fire.task(name="agent")
    def agent(job: JobContext) -> str:
        answer = job.step("ask", ask, job)
        job.emit("")
        job.sleep("night", DAY)
        job.emit(" again")
        return answer

    made = agent.enqueue()
    tester.drain()
    (first,) = fire.storage.read_stream(made.id, "out")
    long = fire.storage.read_stream(made.id, "long")
    tester.clock.advance(DAY)

    assert ("Once upon", 1) == (first.data, first.run)
    assert "ä" * 10_000 == "".join(chunk.data for chunk in long)
    assert max(len(chunk.data.encode()) for chunk in long) <= 16 * 1024
    assert [(" again", 2)] == [
        (chunk.data, chunk.run) for chunk in fire.storage.read_stream(made.id, "out", after=first.offset)
    ]


def emits_bytes(job: JobContext):
    job.emit(b"x")


def emits_nul(job: JobContext):
    job.emit("\0")


def emits_nowhere(job: JobContext):
    job.emit("x", stream="a b")


def emits_too_much(job: JobContext):
    for _ in range(5):
        job.emit("x" * 1024 * 1024)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (emits_bytes, r"emit\(\) accepts only a string, got b'x'. Use json.dumps"),
        (emits_nul, "cannot be stored: NUL character in string"),
        (emits_nowhere, "A stream name must have 1 to 64 letters, digits, .*, got 'a b'"),
        (emits_too_much, "Stream 'out' of job .* would have 5,242,880 bytes, above the limit of 4,194,304"),
    ],
)
def test_invalid_output_fails_the_job(fire, tester, function, words):
    """The job is not retried."""
    with pytest.raises(StepError, match=words):
        raise StepError(misused(fire, tester, function))


def test_stream_output_is_sent_again_after_an_outage():
    """Output that could not be stored is sent again before the run ends. It is stored only once."""
    storage = FailingStorage()
    with Firelock(storage) as fire:

        @fire.task(name="agent")
        async def agent(job: JobContext) -> None:
            await job.aemit("said")

        made = agent.enqueue()
        storage.fail("append_stream", StorageUnavailable("away"), StorageUnavailable("away"), is_late=True)
        worker = Worker(fire)
        (job,) = worker.claim()
        asyncio.run(worker.runner.arun(worker.runner.prepare(job, worker.holder)))

        assert ["said"] == [chunk.data for chunk in storage.read_stream(made.id, "out")]


def test_lost_job_stops_emitting_output(fire):
    """The next step of the job raises an error because the job was lost."""
    seen = []

    @fire.task(name="agent")
    def agent(job: JobContext) -> None:
        made.delete()
        job.emit("x" * 300_000)  # large enough to be stored immediately
        seen.append(job.cancelled)
        job.step("next", int)

    made = agent.enqueue()
    (ended,) = Worker(fire).run()

    assert ([True], "the job is no longer this run's") == (seen, ended.transition.reason)
    assert [] == fire.storage.read_stream(made.id, "out")


# ---- within a transaction --------------------------------------------------------------------------------


def test_step_in_a_retried_transaction_is_not_repeated(fire, tester):
    """The memos are read again, because the first transaction might have been committed after all."""
    ran = []

    @fire.task(name="order")
    def order(job: JobContext) -> int:
        steps = job.within(object())
        first = steps.step("book", lambda: ran.append(1) or len(ran))
        return first + steps.step("book", lambda: ran.append(1) or len(ran))

    job = order.enqueue()
    tester.drain()

    assert (2, [1]) == (job.result(0), ran)


def test_within_raises_if_the_storage_cannot_join_transactions(fire):
    """The error is raised before the step runs."""

    @fire.task(name="order")
    def order(job: JobContext):
        job.within(object()).step("book", int)

    job = order.enqueue()
    Worker(fire).run()

    assert "cannot join your transaction" in record_of(fire, job).error.message


# ---- with other features ---------------------------------------------------------------------------------


def test_suspended_job_does_not_count_toward_its_limit(fire, tester):
    """The next job starts, and the first job must wait for the limit again when it is resumed."""
    order_of = []

    @fire.task(name="order", limits=[Limit("one", concurrent=1)])
    def order(job: JobContext, number: int) -> None:
        order_of.append(number)
        job.sleep("night", DAY)
        order_of.append(-number)

    for number in (1, 2):
        order.enqueue(number)

    assert 2 == tester.drain().suspended
    assert [1, 2] == order_of
    assert 2 == tester.clock.advance(DAY).succeeded


def test_inline_job_waits_for_the_clock_and_signals(fire, tester):
    """If the inline job calls another job, that job runs immediately."""
    child = fire.task(name="child")(lambda: 7)

    @fire.task(name="order")
    def order(job: JobContext) -> list[object]:
        called = job.run("child", child)
        answer = job.receive(Named(), timeout=None)
        job.sleep("night", DAY)
        return [called, answer.ok]

    with tester.inline():
        job = order.enqueue()
        assert State.AWAITING == record_of(fire, job).state
        send(fire, job, ok=True)
        assert "sleep night" == record_of(fire, job).waits_for
    tester.clock.advance(DAY)

    assert [7, True] == job.result(0)
