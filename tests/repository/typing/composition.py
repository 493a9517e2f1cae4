"""Batches, steps, waits and streams as users write them: type checkers must accept every line and type.

`make types` reads this file; it is never run. Code that must be refused is in composition_misuse.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import assert_type

import attrs

from firelock import (
    Batch,
    BatchCounts,
    BatchFinished,
    Chunk,
    Firelock,
    Job,
    JobContext,
    Signal,
    Step,
    StepError,
)

fire = Firelock("sqlite:///firelock.db")


@attrs.frozen
class Approval:
    """A decision."""

    ok: bool
    by: str


approval = fire.signal("approval", Approval)


def pay(order_id: int, *, key: str) -> str:
    """Pay an order: a plain function that a step runs."""
    return f"ch_{order_id}_{key}"


async def ask_model(prompt: str) -> str:
    """Ask a model: an async function."""
    return prompt


def book(session: object, charge_id: str) -> int:
    """Book a charge, as part of a transaction."""
    return 1


@fire.task
def list_days(month: str) -> list[str]:
    """List days: a task whose result other members use."""
    return [month]


@fire.task
def load(day: str, rows: int = 0) -> int:
    """Load a day: a member."""
    return rows


@fire.task
async def merge(days: Sequence[str], counts: list[int]) -> float:
    """Merge days: a task that uses other members' results."""
    return 0.0


@fire.task
def report(job: JobContext, batch_id: str) -> None:
    """Report a batch: a callback."""
    batch = fire.batches.get(batch_id)
    for count in batch.results(load, after=None):
        assert_type(count, int)
    for member in batch.members(state="failed"):
        assert_type(member.id, str)


@fire.task
def order(job: JobContext, order_id: int) -> str:
    """Process an order, with steps and waits."""
    charged = job.step("charge", pay, order_id, key=job.key("charge"))
    assert_type(charged, str)
    job.sleep("cool-off", timedelta(days=1))
    answer = job.receive(approval, timeout=timedelta(days=7))
    assert_type(answer, Approval | None)
    second = job.receive(approval.named("manager"), timeout=None)
    assert_type(second, Approval | None)
    if answer is None or not answer.ok:
        return "refused"
    booked = job.within(object()).step("ledger", book, object(), charged)
    assert_type(booked, int)
    days = job.run("days", list_days, "2026-11")
    assert_type(days, list[str])
    loaded = job.gather("loads", [load.call(day, rows=3) for day in days])
    assert_type(loaded, list[int])
    counts = job.join(fire.batches.get(job.step("fan-out", fan_out, days)))
    assert_type(counts, BatchCounts)
    assert_type(job.batch.add(load, "2026-11-01"), Job[int])
    assert_type(job.step("a task is a function", load, "2026-11-01", rows=1), int)
    assert_type(job.step("now", lambda: 3), int)
    assert_type([job.step(f"page:{n}", len, [n]) for n in range(3)], list[int])
    job.emit("done")
    return charged


@fire.task
async def agent(job: JobContext, question: str) -> str:
    """Answer a question, with async steps and calls."""
    first = await job.astep("first", ask_model, question)
    assert_type(first, str)
    total = await job.arun("merge", merge, [first], [1])
    assert_type(total, float)
    assert_type(await job.astep("an async task too", merge, [first], [1]), float)
    lengths = await job.agather("lengths", (load.call(part) for part in first))
    assert_type(lengths, list[int])
    assert_type(await job.areceive(approval, timeout=5), Approval | None)
    await job.aemit("done", stream="log")
    return first


def fan_out(days: list[str]) -> str:
    """Create a batch of many jobs."""
    with fire.batch("loads") as batch:
        jobs = batch.add_many(load.call(day) for day in days)
        assert_type(jobs, list[Job[int]])
    return batch.id


def flow_members_wait_for_each_other(session: object) -> None:
    """An output has the type of the result, and a batch within a batch is a member."""
    with fire.batch("import", on_failure="cancel", tags=["eu"], keep=timedelta(days=9)) as b:
        assert_type(b, Batch)
        days = b.add(list_days, "2026-11")
        one = b.add(load, "2026-11-01", rows=2)
        two = b.add(load.using(queue="bulk", after=one, on="finished"), "2026-11-02")
        assert_type(days.output, list[str])
        merged = b.add(merge, days.output, [one.output, two.output])
        assert_type(merged, Job[float])
        with b.batch("inner", after=days) as inner:
            inner.add(load, "2026-11-03")
        b.add(report.using(after=[inner, merged]), b.id)
        b.then(report.using(on="finished"), b.id)
    with fire.batch("next", after=[b, merged], on="finished", within=session, colocate_with="tenant:7"):
        pass
    assert_type(b.result(timeout=10), BatchCounts)
    assert_type((b.counts().failed, b.counts().progress), tuple[int, float])
    assert_type(merged.result(), float)
    assert_type(b.requeue().delete(), Batch)
    assert_type(merged.batch_id, str | None)
    load.using(after=one).enqueue("2026-11-04", one.output)
    assert_type(fire.enqueue_many([load.call("2026-11-04"), load.call("2026-11-05")]), list[Job[int]])
    for batch in fire.batches.list(state="failed", limit=10):
        assert_type(batch.name, str)


def signals_are_typed_by_their_payload() -> None:
    """The same object is used by the waiting job and by the sender."""
    job = order.enqueue(7)
    assert_type(approval, Signal[Approval])
    assert_type(approval.send(job, Approval(ok=True, by="ada"), author="ada"), bool)
    choices = {"Approve": Approval(ok=True, by="mail"), "Refuse": Approval(ok=False, by="mail")}
    address = approval.link(job, choices, expires=timedelta(days=7), at="https://ops.example.com/jobs")
    assert_type(address, str)
    approval.link(job.id, choices, expires=datetime(2026, 12, 1, tzinfo=UTC), at="http://127.0.0.1:8000")
    try:
        job.requeue(from_step="charge")
    except (StepError, BatchFinished):
        assert_type(job.steps(), list[Step])
    for chunk in job.stream(after=12):
        assert_type(chunk, Chunk)


async def every_method_has_an_async_twin() -> None:
    """The twins have the same arguments and results."""
    async with fire.batch("async") as b:
        assert_type(await b.aadd(merge, [], []), Job[float])
        assert_type(await b.aadd_many([load.call("2026-11-01")]), list[Job[int]])
    assert_type(await b.acounts(), BatchCounts)
    assert_type(await b.aresult(), BatchCounts)
    async for count in b.aresults(load):
        assert_type(count, int)
    assert_type(await fire.batches.aget(b.id), Batch)
    assert_type(await approval.asend(b.id, Approval(ok=True, by="ada")), bool)
    job = load.enqueue("2026-11-01")
    await job.arequeue(from_step="charge")
    async for chunk in job.astream("log"):
        assert_type(chunk.data, str)
