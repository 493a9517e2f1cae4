"""Sending signals, and reading the memos of a job with its handle."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from firelock import (
    ArgumentError,
    ArgumentTooLarge,
    ConfigurationError,
    Firelock,
    FormError,
    JobConflict,
    JobNotFound,
    Retry,
    State,
    StepError,
    StorageUnavailable,
    TaskError,
)
from firelock.flows.approval import find_approval
from firelock.model.lifecycle import slept, suspended
from firelock.model.memo import Chunk, Memo, MemoKind, NewMemo, chunk_offset, memo_words
from tests.core.fakes import FailingStorage, Worker, until


@attrs.frozen
class Approval:
    """The payload of a decision."""

    ok: bool
    by: str = ""


@pytest.fixture
def fire():
    """An app whose storage has programmable failures."""
    with Firelock(FailingStorage()) as fire:
        yield fire


@pytest.fixture
def storage(fire):
    """The app's storage."""
    return fire.storage


@pytest.fixture
def worker(fire):
    """A worker that claims and runs the app's jobs on request."""
    return Worker(fire)


@pytest.fixture
def approval(fire):
    """A signal."""
    return fire.signal("approval", Approval)


@pytest.fixture
def order(fire):
    """A task that fails for a negative number."""

    @fire.task(name="order", retry=Retry.never())
    def order(number: int = 0) -> str:
        if number < 0:
            raise ValueError(number)
        return "done"

    return order


def memos_of(fire, job):
    return {(memo.kind, memo.name): memo for memo in fire.storage.recall(job.id)}


def test_signal_is_stored_before_the_job_waits_for_it(fire, approval, order):
    """The payload is converted to a string in the same way as arguments."""
    job = order.enqueue()

    sent = approval.send(job, Approval(ok=True, by="ada"), author="ada@example.com")
    memo = memos_of(fire, job)[MemoKind.SIGNAL, "approval"]

    assert sent is True
    assert ('{"ok":true,"by":"ada"}', "ada@example.com", True, 0) == (
        memo.value, memo.author, memo.is_done, memo.attempt,
    )  # fmt: skip
    assert Approval(ok=True, by="ada") == approval.decode(memo.value)


def test_first_signal_wins_and_repeats_return_the_same_result(fire, approval, order):
    """The job can also be identified by its id.

    The async method behaves in the same way. A signal with a different name is independent.
    """
    job = order.enqueue()

    first = approval.send(job.id, Approval(ok=True), author="ada")
    repeat = asyncio.run(approval.asend(job, Approval(ok=True), author="ada"))
    late = approval.send(job, Approval(ok=False), author="bob")
    another = approval.named("manager").send(job, Approval(ok=False))

    assert (True, True, False, True) == (first, repeat, late, another)
    assert {"approval", "approval:manager"} == {name for _, name in memos_of(fire, job)}


def test_signal_is_sent_again_if_the_reply_is_lost(fire, storage, approval, order):
    """The memo was stored before the reply was lost, so the result is that of the first attempt."""
    job = order.enqueue()
    storage.fail("remember", StorageUnavailable("reset"), is_late=True)

    assert approval.send(job, Approval(ok=True)) is True

    locked = StorageUnavailable("locked")
    locked.has_waited = True
    storage.fail("remember", locked)
    with pytest.raises(StorageUnavailable, match="locked"):
        approval.send(job, Approval(ok=True))


def test_signal_to_an_ended_job_raises_job_conflict(fire, approval, order, worker):
    """A failed job keeps the signal for its requeue.

    Sending an accepted signal again returns the same result.
    """
    done, failed, answered = order.enqueue(), order.enqueue(-1), order.enqueue()
    approval.send(answered, Approval(ok=True))
    worker.run()
    deleted = order.enqueue().delete()

    for job in (done, deleted):
        with pytest.raises(JobConflict, match=r"signal 'approval' would never be received"):
            approval.send(job, Approval(ok=True))
    assert approval.send(failed, Approval(ok=True)) is True
    assert approval.send(answered, Approval(ok=True)) is True
    assert approval.send(answered, Approval(ok=False)) is False


def test_link_to_an_ended_or_unknown_job_is_refused(fire, approval, order, worker):
    """A link to a failed job is allowed, because the job can be requeued."""
    done, failed = order.enqueue(), order.enqueue(-1)
    worker.run()
    options = {"expires": timedelta(days=1), "at": "https://ops.example.com"}

    with pytest.raises(JobConflict, match=r"is succeeded; signal 'approval' would never be received"):
        approval.link(done, {"Yes": Approval(ok=True)}, **options)
    with pytest.raises(JobNotFound, match="Job 'nobody' is not stored"):
        approval.link("nobody", {"Yes": Approval(ok=True)}, **options)
    assert approval.link(failed, {"Yes": Approval(ok=True)}, **options)


def test_signal_name_has_one_type_per_app(fire, approval):
    """A signal is found by its stored name, with a key or without one."""
    nested = fire.signal("a:b", int)

    with pytest.raises(
        ConfigurationError, match=r"Signal 'approval' already has the type .*Approval.*, got .*int"
    ):
        fire.signal("approval", int)
    assert Approval is fire.signal("approval", Approval).type
    found = [fire.signal_named(name) for name in ("approval", "approval:ada", "a:b", "a:b:c:d", "a", "")]
    names = [one and (one.name, one.type) for one in found]
    assert [("approval", Approval), ("approval:ada", Approval), ("a:b", int), ("a:b:c:d", int)] == names[:4]
    assert [None, None] == names[4:]
    assert nested.type is int


def test_invalid_signal_raises_a_clear_error(fire, approval, order):
    """Nothing is stored after any of these errors."""
    job = order.enqueue()
    with fire.batch("import") as batch:
        member = batch.add(order)
        with pytest.raises(ConfigurationError, match="A signal can be sent only to a job"):
            approval.send(7, Approval(ok=True))

    with pytest.raises(
        ArgumentError, match="The payload of signal 'approval', of type bool: bool where Approval"
    ):
        approval.send(job, True)
    with pytest.raises(ArgumentTooLarge, match="above the limit of 262,144"):
        approval.send(job, Approval(ok=True, by="x" * 300_000))
    with pytest.raises(JobNotFound, match="Job 'nobody' is not stored"):
        approval.send("nobody", Approval(ok=True))
    with pytest.raises(JobConflict, match="is a batch, which cannot receive signals"):
        approval.send(batch, Approval(ok=True))
    with pytest.raises(ConfigurationError, match="reserved for a wait that has timed out"):
        approval.send(job, Approval(ok=True), author="timeout")
    with pytest.raises(
        ConfigurationError, match=r"author must be a string of at most 200 printable characters, got 'a.nb'"
    ):
        approval.send(job, Approval(ok=True), author="a\nb")
    for name in ("", "x" * 201, "a\tb", 7):
        with pytest.raises(
            ConfigurationError, match=r"A signal name must have 1 to 200 printable characters, got"
        ):
            fire.signal(name, int)
    with pytest.raises(ConfigurationError, match=r"printable characters, got 'approval:x+"):
        approval.named("x" * 200)
    with pytest.raises(TaskError, match="whose members cannot be distinguished"):
        fire.signal("either", list[int] | list[str])
    with pytest.raises(
        ArgumentError, match="The payload of signal 'approval', as stored, does not match its annotation"
    ):
        approval.decode("7")
    assert [] == fire.storage.recall(job.id) == fire.storage.recall(member.id)
    assert "<Signal 'approval' of Approval>" == repr(approval)


def test_signal_to_a_job_with_the_maximum_number_of_memos_raises(fire, storage, approval, order):
    job = order.enqueue()
    memos = [NewMemo(job.id, Memo(MemoKind.SIGNAL, f"s{number}", "1", True, 1)) for number in range(1_000)]
    storage.remember(memos)

    with pytest.raises(StepError, match="has reached the limit of its memos"):
        approval.send(job, Approval(ok=True))


def test_link_stores_its_choices_with_their_payloads(fire, storage, approval, order):
    """The URL contains only a token; the choices stay in the storage."""
    job, at = order.enqueue(), "https://ops.example.com/jobs"
    choices = {"Approve": Approval(ok=True), "Refuse": Approval(ok=False)}

    address = approval.link(job, choices, expires=timedelta(days=7), at=at, question="Ship it?", name="ada")
    other = asyncio.run(approval.alink(job.id, choices, expires=datetime(2090, 1, 1, tzinfo=UTC), at=at))
    found = find_approval(storage, address.rpartition("#")[2])

    assert address.startswith(f"{at}/approval#")
    assert address != other
    assert (job.id, "approval", "Ship it?", "ada") == (found.job_id, found.signal, found.question, found.name)
    assert Approval(ok=False) == approval.decode(found.choices["Refuse"])
    with pytest.raises(
        ConfigurationError, match="expires must be a positive timedelta or an aware datetime, got 5"
    ):
        approval.link(job, choices, expires=5, at=at)
    with pytest.raises(ArgumentError, match="str where Approval"):
        approval.link(job, {"Approve": "yes"}, expires=timedelta(days=1), at=at)


# ---- memos of a job ------------------------------------------------------------------------------------


def remember(fire, claimed, worker, *memos):
    """Store these memos in the same way as a run of the job."""
    session = worker.holder.session
    return fire.storage.remember([NewMemo(claimed.id, memo, session, claimed.fence) for memo in memos])


def test_steps_are_ordered_by_their_start_time(fire, approval, order, worker):
    """Each step contains its duration if it was measured."""
    job = order.enqueue()
    (claimed,) = worker.claim()
    remember(
        fire, claimed, worker,
        Memo(MemoKind.STEP, "charge", '"ch_7"', True, 3_000_000, started_at=1_000_000, attempt=1),
        Memo(MemoKind.SIGNAL, "approval", None, False, 4_000_000, attempt=1),
    )  # fmt: skip

    steps = job.steps()

    assert [("step", "charge", True), ("signal", "approval", False)] == [
        (one.kind, one.name, one.is_done) for one in steps
    ]
    assert (timedelta(seconds=2), 1, '"ch_7"', "") == (
        steps[0].took, steps[0].attempt, steps[0].value, steps[0].author,
    )  # fmt: skip
    assert datetime(1970, 1, 1, 0, 0, 3, tzinfo=UTC) == steps[0].at
    assert (None, steps) == (steps[1].took, asyncio.run(job.asteps()))
    fire.storage.clear()
    with pytest.raises(JobNotFound):
        job.steps()


def test_requeue_continues_after_the_last_step_or_from_a_given_step(fire, order, worker):
    """The memos after the given step are deleted as well.

    An unknown or ambiguous name raises an error.
    """
    job = order.enqueue(-1)
    (claimed,) = worker.claim()
    remember(
        fire, claimed, worker,
        *(Memo(MemoKind.STEP, name, "1", True, 1) for name in ("load", "charge", "mail")),
        Memo(MemoKind.SIGNAL, "charge", "1", True, 1),
    )  # fmt: skip
    fire.storage.apply([worker.attempt(claimed).transition])

    for name, words in (
        ("pay", "has no memo named 'pay'. Its memos: 'step load', 'step charge'"),
        ("pay", "A failed step has no memo; use job.requeue() without from_step to continue there."),
        ("charge", "has several memos named 'charge'; pass one of 'step charge', 'signal charge'"),
    ):
        with pytest.raises(StepError) as caught:
            job.requeue(from_step=name)
        assert words in str(caught.value)
    job.requeue(from_step="step charge")

    assert (State.ENQUEUED, ["load"]) == (job.state, [one.name for one in job.steps()])
    with pytest.raises(JobConflict, match="it cannot be requeued: it is already enqueued"):
        job.requeue(from_step="load")


def test_handle_shows_the_wait_of_a_suspended_job(fire, order, worker):
    """The handle also shows the time until which the job waits."""
    receiving, sleeping, calling = (order.enqueue(number) for number in range(3))
    due = 4_000_000_000_000_000
    for claimed in worker.claim():
        words = {
            receiving.id: memo_words(MemoKind.SIGNAL, "approval"),
            sleeping.id: memo_words(MemoKind.SLEEP, "cool-off"),
            calling.id: memo_words(MemoKind.CALL, "days"),
        }[claimed.id]
        end = {"at": 1, "started_at": 1, "waits_for": words, "reason": "waits"}
        if claimed.id == sleeping.id:
            change = slept(claimed, worker.holder, due_at=due, **end)
        else:
            change = suspended(
                claimed, worker.holder, due_at=due if claimed.id == receiving.id else None, **end
            )
        fire.storage.apply([change])

    assert [
        "signal approval until 2096-10-02 07:06:40 UTC",
        "sleep cool-off until 2096-10-02 07:06:40 UTC",
        "call days",
    ] == [job.refresh().waits_for for job in (receiving, sleeping, calling)]
    assert (None, 2096) == (calling.next_due_at, receiving.next_due_at.year)


# ---- streams -------------------------------------------------------------------------------------------


def emit(fire, worker, claimed, start, *texts, stream="out"):
    chunks = [
        Chunk(stream, chunk_offset(claimed.fence, number), text) for number, text in enumerate(texts, start)
    ]
    fire.storage.append_stream(claimed.id, chunks, session=worker.holder.session, fence=claimed.fence)


def test_stream_is_read_until_the_job_has_ended(fire, order, worker):
    """Reading can start at an offset. A stream to which the job has not written is empty."""
    job = order.enqueue()
    (claimed,) = worker.claim()
    emit(fire, worker, claimed, 0, "a", "b")
    chunks = job.stream()
    first = [next(chunks), next(chunks)]
    emit(fire, worker, claimed, 2, "c")
    fire.storage.apply([worker.attempt(claimed).transition])

    async def awaited():
        return [chunk.data async for chunk in job.astream(after=first[0].offset)]

    assert ["a", "b"] == [chunk.data for chunk in first]
    assert ["c"] == [chunk.data for chunk in chunks]
    assert State.SUCCEEDED is job.state
    assert ["b", "c"] == asyncio.run(awaited()) == [chunk.data for chunk in job.stream(after=first[0].offset)]
    assert [] == list(job.stream("other"))
    assert {claimed.fence} == {chunk.run for chunk in first}


def test_stream_reader_waits_for_new_output(fire, order, worker):
    """Readers in other threads and async readers get the output that is emitted while they wait."""
    job = order.enqueue()
    (claimed,) = worker.claim()

    async def read():
        seen = []

        async def reader():
            async for chunk in job.astream():
                seen.append(chunk.data)  # noqa: PERF401 - other code reads the list meanwhile

        task = asyncio.create_task(reader())
        await asyncio.to_thread(emit, fire, worker, claimed, 0, "a")
        await asyncio.to_thread(until, lambda: seen == ["a"])
        await asyncio.to_thread(emit, fire, worker, claimed, 1, "b")
        fire.storage.apply([worker.attempt(claimed).transition])
        await task
        return seen

    assert ["a", "b"] == asyncio.run(read())


def test_reader_can_stop_while_it_waits(fire, order, worker):
    """No wait remains after the reader has stopped.

    The stream of an unknown job raises an error.
    """
    job = order.enqueue()

    async def read():
        task = asyncio.create_task(anext(aiter(job.astream())))
        await asyncio.wait({task}, timeout=0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(read())
    fire.storage.clear()
    with pytest.raises(JobNotFound):
        next(job.stream())


def test_payload_is_created_from_form_strings(fire, approval):
    """The form has the fields of the record.

    For any other type, it has the single field `value`. Errors are reported for each field.
    """
    go = fire.signal("go", bool)
    either = fire.signal("either", dict[str, int])

    assert ["ok", "by"] == [field.name for field in approval.parameters()][:2]
    assert Approval(ok=True, by="ada") == approval.payload_from_text({"ok": "true", "by": "ada"})
    assert [["value"], ["value"]] == [[field.name for field in one.parameters()] for one in (go, either)]
    assert (False, {"a": 1}) == (
        go.payload_from_text({"value": "no"}), either.payload_from_text({"value": '{"a": 1}'})
    )  # fmt: skip
    with pytest.raises(FormError, match=r"signal 'approval' is invalid\. .*ok: is required") as raised:
        approval.payload_from_text({"amount": "7"})
    assert {"ok", "amount"} == set(raised.value.fields)
    with pytest.raises(FormError, match="value: 'maybe' is invalid; enter true or false"):
        go.payload_from_text({"value": "maybe"})
