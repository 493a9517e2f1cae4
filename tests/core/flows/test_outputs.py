"""Across modules: complete flows, from the results of members to the jobs that wait for them."""

from __future__ import annotations

from datetime import date, timedelta

import attrs

from firelock import JobContext, Retry, State


@attrs.frozen
class Day:
    """The data that a job has loaded for one day."""

    on: date
    rows: int


def test_pipeline_can_determine_its_members_at_run_time(fire, tester):
    """The first member determines the number of days and adds a member for each day to its own batch.

    The callback reads all results.
    """
    results = []

    @fire.task(name="days")
    def days(job: JobContext, month: int) -> list[Day]:
        found = [Day(date(2026, month, day), day) for day in (1, 2, 3)]
        loads = job.batch.add_many(load.call(day) for day in found)
        job.batch.add(merge, [one.output for one in loads], found[0])
        return found

    @fire.task(name="load")
    def load(day: Day) -> Day:
        return attrs.evolve(day, rows=day.rows * 10)

    @fire.task(name="merge")
    def merge(loaded: list[Day], first: Day) -> int:
        return sum(one.rows for one in loaded) + first.rows

    @fire.task(name="report")
    def report(batch_id: str) -> None:
        batch = fire.batches.get(batch_id)
        results.append(
            (list(batch.results(merge)), [one.rows for one in batch.results(load)], batch.counts().total)
        )

    with fire.batch("nightly") as batch:
        batch.add(days, 11)
        batch.then(report, batch.id)
    tester.drain()

    assert [([61], [10, 20, 30], 5)] == results
    assert State.SUCCEEDED is batch.refresh().state


def test_failed_flow_continues_after_requeue_when_the_cause_is_fixed(fire, tester):
    """The batch fails with a reason instead of waiting forever.

    A requeue of the batch runs the remaining members.
    """
    broken = {2}
    done = []

    @fire.task(name="square", retry=Retry.never())
    def square(n: int) -> int:
        if n in broken:
            raise ValueError(n)
        return n * n

    @fire.task(name="total")
    def total(squares: dict[str, int]) -> int:
        return sum(squares.values())

    @fire.task(name="note")
    def note(what: str) -> None:
        done.append(what)

    with fire.batch("chord") as batch:
        parts = {str(n): batch.add(square, n).output for n in (1, 2, 3)}
        whole = batch.add(total, parts)
        batch.then(note, "whole")
        batch.then(note.using(on="failed"), "failed")
    tester.drain()
    before = (batch.refresh().state, whole.refresh().state, list(done))
    broken.clear()
    batch.requeue()
    tester.drain()

    assert (State.FAILED, State.AWAITING, ["failed"]) == before
    assert (State.SUCCEEDED, 14, ["failed", "whole"]) == (batch.refresh().state, whole.result(1), done)


def test_first_failure_cancels_the_batch_with_on_failure_cancel(fire, tester):
    """The waiting members are deleted, and the batch fails."""

    @fire.task(name="fail", retry=Retry.never())
    def fail() -> int:
        raise ValueError

    @fire.task(name="later")
    def later(n: int = 0) -> None: ...

    with fire.batch("fast", on_failure="cancel") as batch:
        waits = batch.add(later, batch.add(fail).output)
        sleeps = batch.add(later.using(delay=timedelta(days=1)))
    tester.drain()

    assert ["failed", "deleted", "deleted"] == [one.refresh().state for one in (batch, waits, sleeps)]


def test_job_joins_a_batch_that_it_has_created(fire, tester):
    """The job does not occupy a worker while it waits, and creates the batch only once."""
    made = []

    @fire.task(name="part")
    def part(n: int) -> int:
        return n

    def fan_out() -> str:
        made.append(1)
        with fire.batch("parts") as batch:
            batch.add_many(part.call(n) for n in range(3))
        return batch.id

    @fire.task(name="whole")
    def whole(job: JobContext) -> int:
        batch = fire.batches.get(job.step("fan-out", fan_out))
        return job.join(batch).succeeded + sum(batch.results(part))

    job = whole.enqueue()
    tester.drain()

    assert (6, [1]) == (job.result(1), made)


def test_signal_resumes_a_waiting_job(fire, tester):
    """A signal that was sent before the wait is received too."""
    approval = fire.signal("approval", Day)

    @fire.task(name="ask")
    def ask(job: JobContext) -> int:
        answer = job.receive(approval, timeout=timedelta(days=1))
        return 0 if answer is None else answer.rows

    early, late, never = ask.enqueue(), ask.enqueue(), ask.enqueue()
    approval.send(early, Day(date(2026, 1, 1), 1))
    tester.drain()
    waits = late.refresh().waits_for
    approval.send(late, Day(date(2026, 1, 1), 2))
    tester.drain()
    tester.clock.advance(days=2)
    tester.drain()

    assert waits.startswith("signal approval until ")
    assert [1, 2, 0] == [job.result(1) for job in (early, late, never)]
    assert approval.send(late, Day(date(2026, 1, 1), 2)) is True
    assert ["timeout"] == [step.author for step in never.steps()]
