"""Flows under a `Tester`: batches, outputs, signals and steps together, while the clock stands still."""

from __future__ import annotations

from datetime import timedelta

import attrs
import pytest

from firelock import JobContext, JobDeleted, JobFailed, Retry, StepError
from firelock.model.state import State

DAY = timedelta(days=1)


@attrs.frozen
class Approval:
    """The value of the signal."""

    ok: bool


@pytest.fixture
def approval(fire):
    """Return a signal."""
    return fire.signal("approval", Approval)


def test_drain_runs_a_flow_to_its_end(fire, tester):
    """Members run in the order of their dependencies, then the continuation of the batch runs."""
    ran = []

    @fire.task(name="load")
    def load(day: int) -> int:
        ran.append(f"load {day}")
        return day * 10

    @fire.task(name="merge")
    def merge(numbers: list[int]) -> int:
        ran.append("merge")
        return sum(numbers)

    @fire.task(name="report")
    def report() -> None:
        ran.append("report")

    with fire.batch("import") as batch:
        merged = batch.add(merge, [batch.add(load, day).output for day in (1, 2)])
        batch.then(report)
    tester.drain()

    assert ["load 1", "load 2", "merge", "report"] == ran
    assert (30, State.SUCCEEDED) == (merged.result(0), batch.refresh().state)
    assert 3 == batch.counts().succeeded


def test_batch_cancelled_by_its_running_member_ends_with_it(fire, tester):
    """The outcome of that run is refused, but the run ends the batch, as on a server."""

    @fire.task(name="cancels")
    def cancels(job: JobContext) -> None:
        job.batch.delete()

    with fire.batch("import") as batch:
        batch.add(cancels)

    drained = tester.drain(limit=1)

    assert (1, State.DELETED) == (drained.refused, batch.refresh().state)


def test_job_waits_for_a_signal_or_its_timeout(fire, tester, approval):
    """The job continues after the signal, or without it after the timeout."""

    @fire.task(name="order")
    def order(job: JobContext) -> str:
        answer = job.receive(approval, timeout=7 * DAY)
        second = job.receive(approval.named("manager"), timeout=DAY)
        return f"{answer} {second}"

    job = order.enqueue()
    tester.drain()
    assert approval.send(job, Approval(ok=True), author="ada")
    tester.drain()
    assert "signal approval:manager" == job.refresh().record().waits_for
    tester.clock.advance(DAY)

    assert "Approval(ok=True) None" == job.result(0)
    assert not approval.named("manager").send(fire.jobs.get(job.id), Approval(ok=True))


def test_job_can_join_a_batch_created_in_a_step(fire, tester):
    """The batch is created once, and its counts are the result."""
    load = fire.task(name="load")(lambda: 1)

    @fire.task(name="nightly")
    def nightly(job: JobContext) -> int:
        def fan_out() -> str:
            with fire.batch("days") as batch:
                batch.add_many(load.call() for _ in range(3))
            return batch.id

        counts = job.join(fire.batches.get(job.step("fan-out", fan_out)))
        job.sleep("night", DAY)
        return counts.succeeded

    job = nightly.enqueue()
    tester.drain()
    tester.clock.advance(DAY)

    assert (3, 1) == (job.result(0), len(fire.batches.list().batches))


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_failed_batch_raises_an_error_in_the_joining_job(fire, tester, is_cancelled):
    """The task can handle the exception in another way."""

    @fire.task(name="load", retry=Retry.never())
    def load() -> None:
        raise ConnectionError

    @fire.task(name="nightly")
    def nightly(job: JobContext, batch: str) -> str:
        try:
            job.join(fire.batches.get(batch))
        except (JobFailed, JobDeleted) as error:
            return type(error).__name__
        return "joined"

    with fire.batch("days") as batch:
        batch.add(load if not is_cancelled else load.using(delay=DAY))
    job = nightly.enqueue(batch.id)
    if is_cancelled:
        batch.delete()
    tester.drain()

    assert ("JobDeleted" if is_cancelled else "JobFailed") == job.result(0)


def test_member_can_add_to_its_batch_but_not_join_it(fire, tester):
    """A member cannot join its own batch. A job that is not a member has no batch."""
    more = fire.task(name="more")(lambda: None)
    errors = []

    @fire.task(name="first")
    def first(job: JobContext) -> None:
        job.batch.add(more)
        try:
            job.join(job.batch)
        except StepError as error:
            errors.append(str(error))

    @fire.task(name="alone", retry=Retry.never())
    def alone(job: JobContext) -> None:
        job.batch.add(more)

    with fire.batch("walk") as batch:
        batch.add(first)
    job = alone.enqueue()
    tester.drain()

    assert (2, State.SUCCEEDED) == (batch.counts().succeeded, batch.refresh().state)
    assert "of which it is a member, because the wait would never end" in errors[0]
    assert "is not a member of a batch. Create a batch with fire.batch" in job.refresh().error.message


def test_inline_flow_runs_immediately(fire, tester, approval):
    """The batch, its members and callbacks run.

    A job that waits for a signal continues when the signal is sent.
    """
    ran = []

    @fire.task(name="load")
    def load(job: JobContext) -> None:
        ran.append(job.receive(approval, timeout=None))

    @fire.task(name="report")
    def report() -> None:
        ran.append("report")

    with tester.inline():
        with fire.batch("import") as batch:
            member = batch.add(load)
            batch.then(report)
        assert [] == ran
        approval.send(member, Approval(ok=True))

    assert [Approval(ok=True), "report"] == ran


def test_sleeping_member_keeps_its_batch_open(fire, tester):
    """A suspended member is active, because it continues by itself."""

    @fire.task(name="naps")
    def naps(job: JobContext) -> None:
        job.sleep("night", DAY)

    with fire.batch("nights") as batch:
        batch.add(naps)
    tester.drain()
    assert (State.AWAITING, 1) == (batch.refresh().state, batch.counts().active)

    tester.clock.advance(DAY)

    assert State.SUCCEEDED is batch.refresh().state


def test_rerun_from_a_step_repeats_later_steps(fire, tester):
    """Earlier steps are kept."""
    ran = []

    @fire.task(name="order")
    def order(job: JobContext) -> None:
        for name in ("a", "b", "c"):
            job.step(name, ran.append, name)

    job = order.enqueue()
    tester.drain()
    job.requeue(from_step="b")
    tester.drain()

    assert ["a", "b", "c", "b", "c"] == ran


def test_steps_and_calls_survive_the_loss_of_a_server(fire, tester):
    """Steps are not repeated. A job that was called before its caller could wait is called only once."""
    ran = []

    @fire.task(name="child")
    def child() -> int:
        ran.append("child")
        return 7

    @fire.task(name="order")
    def order(job: JobContext) -> int:
        job.step("charge", ran.append, "charge")
        return job.run("child", child)

    job = order.enqueue()
    for _ in range(2):
        tester.lose_server(queues=["default"], after_running=True)
    tester.drain()

    assert (7, ["charge", "child"]) == (job.result(0), ran)
    assert 0 == job.refresh().retries
