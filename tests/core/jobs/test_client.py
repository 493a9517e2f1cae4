"""Creating jobs: single, many, scheduled, as continuations, asynchronously, and with options from plugins."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import partial

import pytest

from firelock import Firelock, Limit, Retry, current_job
from firelock.errors import (
    ArgumentError,
    ConfigurationError,
    ScheduleError,
    SignatureMismatch,
    StorageError,
    StorageUnavailable,
    TaskError,
    UnknownScheme,
)
from firelock.model.clock import micros
from firelock.model.dependencies import Edge, On
from firelock.model.state import State
from tests.core.fakes import FailingStorage, Failure, ForeignTask, plugin

LATER = datetime(2090, 11, 24, 12, tzinfo=UTC)


def send(to: str, copies: int = 1) -> str:
    return f"{to}×{copies}"


@pytest.fixture
def storage():
    """A storage with programmable failures."""
    return FailingStorage()


@pytest.fixture
def fire(storage):
    """An app that uses the storage."""
    with Firelock(storage) as fire:
        yield fire


@pytest.fixture
def mail(fire):
    """A task with its own queue, priority and tag."""
    return fire.task(name="mail.send", queue="mail", priority=3, tags=["to:{to}"])(send)


def record(job):
    """Return the stored record of the job."""
    return job.refresh().record()


# ---- a single job ----------------------------------------------------------------------------------------


def test_enqueue_stores_the_call(mail):
    """The stored job contains the task, the arguments by name, the queue, the priority and the tags.

    The handle shows these values without reading the storage.
    """
    job = mail.enqueue("anna", copies=2)

    stored = record(job)
    assert ("mail.send", '{"to":"anna","copies":2}', "json", State.ENQUEUED, "mail", 3, ("to:anna",)) == (
        stored.task, stored.arguments, stored.serializer, stored.state, stored.queue, stored.priority,
        stored.tags,
    )  # fmt: skip
    assert (job.id, State.ENQUEUED, "mail", 3, ("to:anna",)) == (
        stored.id, job.state, job.queue, job.priority, job.tags
    )  # fmt: skip


def test_options_of_a_call_override_the_task_options(mail):
    """The tags of a call are added to the tags of the task."""
    chosen = mail.using(queue="bulk", priority=0, tags=["x", "to:anna"], timeout=5, retry=Retry(attempts=2))

    stored = record(chosen.enqueue("anna"))

    assert ("bulk", 0, ("to:anna", "x"), 5.0) == (
        stored.queue, stored.priority, stored.tags, stored.timeout_seconds
    )  # fmt: skip
    assert Retry(attempts=2) == Retry.from_json(stored.retry)


def test_timeout_and_retry_of_the_task_are_not_stored(fire):
    """Both options are read from the task when the job runs, so a deployment can change them."""
    stored = record(fire.task(name="plain", timeout=5, retry=Retry(attempts=2))(send).enqueue("x"))

    assert (None, None, ()) == (stored.timeout_seconds, stored.retry, stored.tags)


def test_braces_in_a_tag_of_a_call_are_literal(mail):
    """Only the tags of a task are templates."""
    assert ("to:anna", "{to}") == mail.using(tags=["{to}"]).enqueue("anna").tags


def test_job_has_at_most_twenty_tags(mail, fire):
    """The tags of the task and the call are counted together. If there are more, nothing is stored."""
    with pytest.raises(ConfigurationError, match="at most 20 tags, including those of its task, got 21"):
        mail.using(tags=[f"t{number}" for number in range(20)]).enqueue("anna")

    assert {} == fire.storage.counts().by_state


def test_enqueue_raises_if_the_storage_is_unavailable(mail, storage):
    storage.fail_always("insert", StorageUnavailable("down"))

    with pytest.raises(StorageUnavailable, match="down"):
        mail.enqueue("anna")

    assert 2 == len(storage.called["insert"])


@pytest.mark.parametrize("is_late", [False, True], ids=["request", "reply"])
def test_enqueue_is_sent_again_after_a_lost_request_or_reply(mail, fire, storage, is_late):
    """In both cases, one job is stored, and the caller gets its handle."""
    storage.fail("insert", StorageUnavailable("reset"), is_late=is_late)

    job = mail.enqueue("anna")

    assert {State.ENQUEUED: 1} == fire.storage.counts().by_state
    assert State.ENQUEUED == fire.jobs.get(job.id).state


def test_call_that_has_waited_for_a_lock_is_not_sent_again(mail, storage):
    """A second wait would double the wait that the caller has allowed."""
    busy = StorageUnavailable("busy")
    busy.has_waited = True
    storage.fail_always("insert", busy)

    with pytest.raises(StorageUnavailable, match="busy"):
        mail.enqueue("anna")

    assert 1 == len(storage.called["insert"])


def refused(*, is_untouched):
    """Return an error with this value of `is_untouched`, which is True if nothing was written."""
    error = StorageUnavailable("refused")
    error.is_untouched = is_untouched
    return error


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_is_untouched_is_true_only_if_both_attempts_wrote_nothing(mail, storage, first, second):
    """The first attempt might have stored the job even if the second attempt did not write anything."""
    storage.fail("insert", refused(is_untouched=first))
    storage.fail("insert", refused(is_untouched=second))

    with pytest.raises(StorageUnavailable) as caught:
        mail.enqueue("anna")

    assert 2 == len(storage.called["insert"])
    assert caught.value.is_untouched is (first and second)


@pytest.mark.parametrize("is_alike", [True, False])
def test_is_untouched_is_false_if_the_second_chunk_fails(storage, is_alike):
    """The first 500 jobs are stored, so the caller must not send all of them again."""

    def fill(jobs):
        storage.fail_always("insert", refused(is_untouched=True))

    with Firelock(storage, plugins=[plugin(jobs_created=fill)]) as fire:
        mail = fire.task(name="mail.send")(send)
        calls = [mail.call("anna") for _ in range(501)]
        enqueue = (
            partial(mail.enqueue_many, [("anna",)] * 501) if is_alike else partial(fire.enqueue_many, calls)
        )
        with pytest.raises(StorageUnavailable) as caught:
            enqueue()

        assert {State.ENQUEUED: 500} == storage.counts().by_state
    assert caught.value.is_untouched is False


def test_is_untouched_is_false_after_the_first_chunk_of_a_batch(storage):
    """The batch and its first members are stored, although the last members were refused."""

    def fill(jobs):
        storage.fail_always("insert", refused(is_untouched=True))

    with Firelock(storage, plugins=[plugin(jobs_created=fill)]) as fire:
        mail = fire.task(name="mail.send")(send)
        with pytest.raises(StorageUnavailable) as caught, fire.batch("letters") as batch:
            batch.add_many([mail.call("anna") for _ in range(1_100)])

    assert caught.value.is_untouched is False


# ---- scheduled jobs --------------------------------------------------------------------------------------


def test_due_time_is_stored_exactly(mail):
    """The time zone and the method that creates the job do not matter."""
    there = LATER.astimezone(timezone(timedelta(hours=5, minutes=30)))
    late = mail.using(at=there)

    jobs = [mail.schedule(there, "anna"), late.enqueue("anna"), *late.enqueue_many([("bert",)])]

    assert [(LATER, State.SCHEDULED)] * 3 == [(job.due_at, job.state) for job in jobs]


@pytest.mark.parametrize("when", [0, timedelta(0), datetime(2001, 1, 1, tzinfo=UTC)])
def test_job_with_a_past_due_time_is_enqueued(mail, when):
    """The past time is stored as the nominal time of the job."""
    stored = record(mail.schedule(when, "anna"))

    assert (State.ENQUEUED, None) == (stored.state, stored.due_at)
    assert stored.nominal_at is not None


class NoOffset(tzinfo):
    """A time zone without an offset."""

    def utcoffset(self, instant):
        return None


EAST, WEST = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))


@pytest.mark.parametrize(
    ("when", "words"),
    [
        (timedelta(seconds=-1), "delay must not be negative"),
        (-0.000_000_1, "delay must not be negative, got -1e-07"),
        (float("nan"), "delay must be a timedelta or a number of seconds, got nan"),
        (True, "a number of seconds, got True"),
        ("5", "a number of seconds, got '5'"),
        (date(2026, 1, 1), r"a number of seconds, got datetime\.date"),
        (1e18, r"delay must not end after the year 9999, got 1e\+18"),
        (-1e308, r"delay must not be negative, got -1e\+308"),
        (10**400, "delay must not end after the year 9999"),
        (timedelta.max, "must not end after the year 9999"),
        (datetime(2026, 1, 1), "2026-01-01T00:00:00 has no time zone"),  # noqa: DTZ001 - that is the mistake
        (datetime(2026, 1, 1, tzinfo=NoOffset()), "2026-01-01T00:00:00 has no time zone"),
        (
            datetime.max.replace(tzinfo=WEST),
            "must be in the years 1 to 9999, in UTC, got 9999-12-31T23:59:59.999999-12:00",
        ),
        (
            datetime.min.replace(tzinfo=EAST),
            r"must be in the years 1 to 9999, in UTC, got 0001-01-01T00:00:00\+14:00",
        ),
    ],
)
def test_invalid_due_time_raises(mail, fire, when, words):
    """Nothing is stored."""
    with pytest.raises(ScheduleError, match=words):
        mail.schedule(when, "anna")

    assert {} == fire.storage.counts().by_state


@pytest.mark.parametrize("instant", [datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)])
def test_earliest_and_latest_due_times_can_be_read(mail, instant):
    """The stored time can be converted to a datetime."""
    stored = record(mail.schedule(instant, "anna"))

    assert micros(instant) == stored.nominal_at
    assert mail.schedule(instant, "anna").due_at in (instant, None)


# ---- many jobs -------------------------------------------------------------------------------------------


def test_many_jobs_are_stored_in_order_500_at_a_time(mail, storage):
    """A long list needs several storage calls. Each of them is atomic."""
    jobs = mail.enqueue_many([(f"user {number}",) for number in range(1_201)])

    assert [500, 500, 201] == [len(jobs) for (jobs,) in storage.called["insert"]]
    assert [f"to:user {number}" for number in range(1_201)] == [job.tags[0] for job in jobs]
    assert 1_201 == storage.counts().by_state[State.ENQUEUED]


@pytest.mark.parametrize(
    "options",
    [{}, {"tags": ["to:{to}"]}, {"limits": [Limit("mail", concurrent=9)]}],
    ids=["alike", "with tags", "with a limit"],
)
def test_each_chunk_has_a_separate_creation_time(fire, options):
    """Listing a page sorts jobs with equal times, so a million jobs must not share one creation time."""
    task = fire.task(name="plain", **options)(send)

    jobs = task.enqueue_many([(f"user {number}",) for number in range(1_001)])

    shown = [micros(job.created_at) for job in jobs]
    assert 3 <= len(set(shown))  # with tags, each job has a separate time
    assert sorted(shown) == shown
    assert shown == [record(job).created_at for job in jobs]


def test_many_jobs_of_a_task_share_their_common_values(fire):
    """The shared values are computed once. Each job has its own arguments and id."""
    task = fire.task(name="plain", queue="mail", priority=3)(send)

    jobs = task.using(delay=300, timeout=5, retry=Retry(attempts=1)).enqueue_many([["a"], ("b", 2)])

    stored = [record(job) for job in jobs]
    assert ['{"to":"a"}', '{"to":"b","copies":2}'] == [one.arguments for one in stored]
    assert {("mail", 3, State.SCHEDULED, 5.0)} == {
        (one.queue, one.priority, one.state, one.timeout_seconds) for one in stored
    }
    assert 1 == len({(one.due_at, one.nominal_at, one.created_at, one.retry) for one in stored})
    assert 2 == len({job.id for job in jobs})


def test_enqueue_many_accepts_an_empty_list(fire, mail, storage):
    """An empty list does not cause an insert."""
    assert ([], [], []) == (
        mail.enqueue_many([]),
        fire.task(name="p")(send).enqueue_many([]),
        fire.enqueue_many([]),
    )
    assert [] == storage.called["insert"]


def test_invalid_call_among_many_stores_nothing(fire, mail):
    """All calls are checked before the first job is stored."""
    plain = fire.task(name="plain")(send)
    for task in (mail, plain):
        with pytest.raises(ArgumentError):
            task.enqueue_many([("a",), (7,), ("b",)])

    with pytest.raises(SignatureMismatch):
        fire.enqueue_many([mail.call("a"), plain.call()])

    assert {} == fire.storage.counts().by_state


def test_calls_of_several_tasks_are_stored_in_one_insert(fire, mail, storage):
    """Each job has its own options, and the order is kept."""
    plain = fire.task(name="plain")(send)

    jobs = fire.enqueue_many(
        [mail.call("a"), plain.using(queue="bulk").call("b"), plain.using(delay=9).call("c")]
    )

    assert [("mail.send", "mail"), ("plain", "bulk"), ("plain", "default")] == [
        (job.task, job.queue) for job in jobs
    ]
    assert State.SCHEDULED is jobs[2].state
    assert 1 == len(storage.called["insert"])


@pytest.mark.parametrize("calls", [["ab"], "ab", [b"ab"], [7], [{"to": "a"}], 7])
def test_enqueue_many_requires_a_tuple_per_job(fire, mail, calls):
    """A string would be split into its characters, so it is refused."""
    two = fire.task(name="two")(lambda one, other: None)
    for task in (mail, two):
        with pytest.raises(TaskError, match=r"enqueue_many accepts one tuple of arguments per job"):
            task.enqueue_many(calls)

    assert {} == fire.storage.counts().by_state


def test_failed_chunk_stores_none_of_its_jobs(mail, storage):
    """The jobs of earlier chunks stay stored."""
    down = Failure(StorageUnavailable("down"))
    storage.failing["insert"].extend([None, down, down])

    with pytest.raises(StorageUnavailable):
        mail.enqueue_many([("a",)] * 700)

    assert 500 == storage.counts().by_state[State.ENQUEUED]


# ---- transactions ----------------------------------------------------------------------------------------


class TakesTransactions(FailingStorage):
    """A storage that accepts any object as a transaction."""

    def insert(self, jobs, *, within=None):
        self.called["within"].append(within)
        return super().insert(jobs)


def test_transaction_is_passed_to_the_storage():
    """All jobs of a call use the same transaction."""
    storage, session = TakesTransactions(), object()
    with Firelock(storage) as fire:
        task = fire.task(name="plain")(send)
        inside = task.using(within=session)

        inside.enqueue("a")
        inside.enqueue_many([("b",)])
        fire.enqueue_many([inside.call("c"), inside.call("d")])

    assert [session] * 3 == storage.called["within"]


# ---- asynchronous calls ----------------------------------------------------------------------------------


def test_concurrent_awaits_share_round_trips(mail, storage):
    """A hundred concurrent awaits need only a few inserts."""

    async def use():
        return await asyncio.gather(*(mail.aenqueue(f"user {number}") for number in range(100)))

    jobs = asyncio.run(use())

    assert 100 == len({job.id for job in jobs})
    assert 20 > len(storage.called["insert"])


def test_awaited_enqueue_does_not_block_the_event_loop(mail, storage):
    """The first reading of the storage's clock is a round trip, so it happens in a thread."""
    seen, clock = [], storage.clock

    def noted():
        seen.append(threading.current_thread() is threading.main_thread())
        return clock()

    storage.clock = noted
    asyncio.run(mail.aenqueue("a"))

    assert {False} == set(seen)


# ---- continuations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "words"),
    [
        (None, "has succeeded"), ("succeeded", "has succeeded"), ("failed", "has failed"),
        ("deleted", "is deleted"), ("finished", "has ended"),
    ],
)  # fmt: skip
def test_continuation_waits_for_its_parent(mail, on, words):
    """The dependency and the reason of the continuation both state how the parent must end."""
    parent = mail.enqueue("a")

    stored = record(parent.then(mail.using(on=on), "b"))

    assert (State.AWAITING, (Edge(parent.id, On(on or "succeeded")),)) == (stored.state, stored.parents)
    assert f"runs when {parent.id} {words}" == stored.reason


def test_continuation_has_the_options_of_its_task(mail):
    """A continuation does not inherit its parent's queue, priority and tags, and never has a due time."""
    parent = mail.enqueue("a")

    stored = record(parent.then(mail.using(queue="bulk"), "b"))

    assert ("bulk", 3, ("to:b",), None, None) == (
        stored.queue, stored.priority, stored.tags, stored.due_at, stored.nominal_at
    )  # fmt: skip


@pytest.mark.parametrize("options", [{"delay": 5}, {"at": LATER}])
def test_continuation_with_a_due_time_raises(mail, fire, options):
    """A continuation runs when its parent has ended, so a due time is not possible."""
    parent = mail.enqueue("a")

    with pytest.raises(ConfigurationError, match=r"Do not pass delay or at together with then\(\)"):
        parent.then(mail.using(**options), "b")

    assert {State.ENQUEUED: 1} == dict(fire.storage.counts().by_state)


@pytest.mark.parametrize("what", [send, ForeignTask(), "mail.send", None, 7])
def test_continuation_must_be_a_task(mail, fire, what):
    """A plain function, or a prepared call, cannot be stored as a continuation."""
    parent = mail.enqueue("a")

    with pytest.raises(
        TaskError, match=r"then\(\) accepts a task and then its arguments, got .*\. Use job\.then\(task, …\)"
    ):
        parent.then(what, "b")
    with pytest.raises(TaskError, match=r"then\(\) accepts a task"):
        asyncio.run(parent.athen(mail.call("b")))

    assert {State.ENQUEUED: 1} == dict(fire.storage.counts().by_state)


# ---- metadata -------------------------------------------------------------------------------------------


def test_meta_is_stored_with_the_job(mail):
    """Metadata is stored as a compact string with sorted names, and is read back unchanged."""
    job = mail.using(meta={"tenant": "acme", "W3C.trace-parent_1": "é"}).enqueue("a")

    stored = record(job)
    assert {"tenant": "acme", "W3C.trace-parent_1": "é"} == job.meta == stored.meta
    assert '{"W3C.trace-parent_1":"é","tenant":"acme"}' == stored.meta_json
    assert ({}, None) == (mail.enqueue("a").meta, record(mail.using(meta={}).enqueue("a")).meta_json)
    with pytest.raises(TypeError):
        job.meta["tenant"] = "other"


def test_meta_of_the_caller_is_copied(mail):
    """Later changes of the caller's mapping have no effect."""
    given = {"tenant": "acme"}
    task = mail.using(meta=given)
    given["tenant"] = "other"

    assert {"tenant": "acme"} == task.enqueue("a").meta


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ("tenant", "meta must be a mapping of names to strings, .*, got 'tenant'"),
        ([("a", "b")], "meta must be a mapping"),
        ({7: "a"}, "Meta key must be .*, got 7"),
        ({"": "a"}, "Meta key must be .*, got ''"),
        ({"2nd": "a"}, "Meta key must be 1 to 64 characters from a-z, .*, got '2nd'"),
        ({"a b": "a"}, "Meta key must be .*, got 'a b'"),
        ({"a" * 65: "a"}, "Meta key must be 1 to 64 "),
        ({"tenant": 42}, "Meta 'tenant' must be a string, such as '42', got 42"),
        ({"tenant": None}, "Meta 'tenant' must be a string, such as 'None', got None"),
        ({"tenant": "a\nb"}, r"Meta 'tenant' contains characters that are not printable: 'a\\nb'"),
        ({"tenant": "\ud800"}, "are not printable"),
        (
            {"tenant": "acme", "baggage": "é" * 1_100},
            "The meta of a job must have at most 2,048 bytes .*, got 2,230. The largest value is 'bag",
        ),
    ],
)
def test_meta_must_map_names_to_short_strings(mail, fire, meta, words):
    """Invalid metadata raises an error when it is passed. The message contains the invalid part."""
    with pytest.raises(ConfigurationError, match=words):
        mail.using(meta=meta)

    assert {} == dict(fire.storage.counts().by_state)


def test_meta_can_have_2048_bytes(mail):
    """The limit applies to the stored string, including names and JSON syntax."""
    fits = {"a": "x" * (2_048 - len('{"a":""}'))}

    assert fits == record(mail.using(meta=fits).enqueue("a")).meta
    with pytest.raises(ConfigurationError, match=r"at most 2,048 bytes as JSON, got 2,049"):
        mail.using(meta={"a": fits["a"] + "x"})


def test_many_jobs_share_their_meta(fire, storage):
    """Constant metadata is computed only once for all jobs."""
    task = fire.task(name="plain")(send)

    jobs = task.using(meta={"tenant": "acme"}).enqueue_many([("a",), ("b",)])

    assert [{"tenant": "acme"}] * 2 == [job.meta for job in jobs] == [record(job).meta for job in jobs]
    assert {"tenant": "acme"} == jobs[1].then(task, "c").meta


@pytest.mark.parametrize("how", ["handle", "fetched", "awaited"])
def test_continuation_inherits_missing_meta_from_its_parent(fire, mail, how):
    """Each name is inherited separately. The parent can be a new handle or a handle that was read.

    The metadata of the parent does not change.
    """
    parent = mail.using(meta={"tenant": "acme", "request": "1"}).enqueue("a")
    handle = fire.jobs.get(parent.id) if how == "fetched" else parent
    task = mail.using(meta={"request": "2", "by": "code"})

    child = asyncio.run(handle.athen(task, "b")) if how == "awaited" else handle.then(task, "b")
    grandchild = child.then(mail, "c")

    wanted = {"tenant": "acme", "request": "2", "by": "code"}
    assert wanted == record(child).meta == record(grandchild).meta
    assert {"tenant": "acme", "request": "1"} == record(parent).meta


def test_empty_meta_value_is_not_inherited(mail):
    """A call can use an empty string to remove a value of its parent."""
    parent = mail.using(meta={"tenant": "acme"}).enqueue("a")

    assert {"tenant": ""} == record(parent.then(mail.using(meta={"tenant": ""}), "b")).meta


def test_inherited_meta_counts_toward_the_limit(mail, fire):
    """If inherited and new metadata together exceed the limit, the continuation is refused."""
    parent = mail.using(meta={"a": "x" * 1_500}).enqueue("a")

    with pytest.raises(ConfigurationError, match="meta of a job must have at most"):
        parent.then(mail.using(meta={"b": "x" * 600}), "b")

    assert 1 == fire.storage.counts().by_state[State.ENQUEUED]


def test_copy_has_the_meta_of_its_original(mail, fire):
    """A copy does the same work for the same tenant."""
    job = mail.using(meta={"tenant": "acme"}).enqueue("a")

    assert {"tenant": "acme"} == record(fire.jobs.copy(job.id)).meta


# ---- plugins ---------------------------------------------------------------------------------------------


def test_due_time_of_a_call_overrides_the_delay_of_a_plugin():
    """The delay and the due time are two forms of the same option."""
    with Firelock("memory://", plugins=[plugin(job_options=lambda: {"delay": 300})]) as fire:
        task = fire.task(name="plain")(send)
        jobs = [task.schedule(LATER, "a"), task.schedule(5, "a"), task.enqueue("a")]

    assert (LATER, State.SCHEDULED) == (jobs[0].due_at, jobs[2].state)
    assert jobs[1].due_at < jobs[2].due_at


@pytest.mark.parametrize("names", [("red", "blue"), ("blue", "red")])
def test_meta_precedence_is_call_then_plugin_then_parent(names):
    """The order applies to each name separately. The first plugin that returns a name wins."""
    answers = {"red": {"a": "red", "b": "red", "c": "red"}, "blue": {"b": "blue", "c": "blue", "d": "blue"}}
    plugins = [plugin(job_options=lambda name=name: {"meta": answers[name]}) for name in names]
    with Firelock("memory://", plugins=plugins) as fire:
        task = fire.task(name="plain")(send)
        parent = fire.jobs.get(task.using(meta={"d": "call", "e": "call"}).enqueue("a").id)
        child = parent.then(task.using(meta={"a": "child"}), "b")

    first = {"red": "red", "blue": "blue"}[parent.meta["b"]]
    both = {"a": "red", "b": first, "c": first}
    assert {**both, "d": "call", "e": "call"} == parent.meta
    assert {**both, "a": "child", "d": "blue", "e": "call"} == child.meta


def test_invalid_meta_of_a_plugin_raises():
    """Metadata from a plugin is checked like metadata of a call."""
    with (
        Firelock("memory://", plugins=[plugin(job_options=lambda: {"meta": {"tenant": 7}})]) as fire,
        pytest.raises(ConfigurationError, match="Meta 'tenant' must be a string, such as '7', got 7"),
    ):
        fire.task(name="plain")(send).enqueue("a")


@pytest.mark.parametrize("has_plugin", [False, True])
def test_plugin_can_pass_on_the_meta_of_a_running_job(has_plugin):
    """By default, jobs that a running job enqueues do not inherit its metadata."""

    def inherit():
        with suppress(LookupError):
            return {"meta": current_job().meta}
        return None

    with Firelock("memory://", plugins=[plugin(job_options=inherit)] if has_plugin else []) as fire:
        task = fire.task(name="plain")(send)
        parent = fire.task(name="parent")(lambda: task.enqueue("a").id)
        with fire.server():
            made = parent.using(meta={"tenant": "acme"}).enqueue().result(timeout=10)

        assert ({"tenant": "acme"} if has_plugin else {}) == fire.jobs.get(made).meta


# ---- the app ---------------------------------------------------------------------------------------------


def test_storage_can_be_set_in_the_environment(monkeypatch):
    """`Firelock()` reads FIRELOCK_STORAGE. If the variable is missing, the error contains the fix."""
    monkeypatch.setenv("FIRELOCK_STORAGE", "memory://by-environment")
    with Firelock() as fire:
        shown = repr(fire)
    monkeypatch.setenv("FIRELOCK_STORAGE", "")

    with pytest.raises(
        ConfigurationError, match=r'No storage is specified\. Use Firelock\("sqlite:///jobs.db"\)'
    ):
        Firelock()
    assert "<Firelock memory://by-environment>" == shown


def test_use_storage_applies_to_all_parts_of_the_app():
    """Jobs, locks, async calls and results use the new storage."""
    with Firelock("memory://one") as fire, Firelock("memory://two") as other:
        task = fire.task(name="plain")(send)
        fire.use_storage("memory://two")

        jobs = [task.enqueue("a"), asyncio.run(task.aenqueue("b"))]
        with fire.lock("x"):
            is_there = other.storage.get_record("lock", "x") is not None

        assert {job.id for job in jobs} == {job.id for job in other.jobs.find()}
        assert is_there


def test_use_storage_closes_a_storage_that_the_app_opened(tmp_path):
    """The connections of the old storage are closed, and pending waits for its jobs end.

    This also applies to a storage that itself replaced another one.
    """
    with Firelock(f"sqlite:///{tmp_path}/one.db") as fire:
        task, all_replaced = fire.task(name="plain")(send), []
        for url in (f"sqlite:///{tmp_path}/two.db", "memory://three"):
            asyncio.run(task.aenqueue("a"))
            all_replaced.append(fire.storage)
            fire.use_storage(url)

        for replaced in all_replaced:
            with pytest.raises(StorageError, match=r"is closed\. Open a new one"):
                replaced.counts()
        assert 0 == fire.jobs.counts().total


def test_use_storage_does_not_close_a_passed_storage(storage):
    """The caller that created the storage must close it."""
    with Firelock(storage) as fire:
        fire.task(name="plain")(send).enqueue("a")
        fire.use_storage("memory://two")

        assert {State.ENQUEUED: 1} == storage.counts().by_state


def test_use_storage_keeps_the_old_storage_if_the_new_one_fails(storage):
    """The old storage stays open and in use."""
    with Firelock(storage) as fire:
        with pytest.raises(UnknownScheme):
            fire.use_storage("nowhere://")

        assert fire.task(name="plain")(send).enqueue("a").id == next(iter(fire.jobs.find())).id


def test_separate_lock_storage_is_kept_by_use_storage():
    """A lock storage that was set with locks= is independent of the job storage."""
    with Firelock("memory://one") as locks:
        elsewhere = plugin(register_lock_providers=lambda: {"elsewhere": lambda url: locks.storage})
        with Firelock("memory://", locks="elsewhere://", plugins=[elsewhere]) as fire:
            fire.use_storage("memory://two")

            with fire.lock("x"):
                assert locks.storage.get_record("lock", "x") is not None


@pytest.mark.parametrize("imports", ["app.tasks", 7, [7]])
def test_imports_must_be_a_list_of_names(imports):
    """A string would be split into its characters."""
    with pytest.raises(ConfigurationError, match=r"imports must be a list of module names, .*, got "):
        Firelock("memory://", imports=imports)


def test_load_imports_registers_the_tasks_of_modules(tmp_path, monkeypatch):
    (tmp_path / "tasks_of_a_test.py").write_text("IMPORTED = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    with Firelock("memory://", imports=["tasks_of_a_test"]) as fire:
        fire.load_imports()

    assert "tasks_of_a_test" in sys.modules
