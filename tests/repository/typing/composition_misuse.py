"""Code with batches, steps and signals that mypy --strict and pyright must refuse; see misuse.py.

An unused comment is itself an error, so the file is only clean if every misuse is detected. It is never run.
"""

from __future__ import annotations

from firelock import JobContext
from tests.repository.typing.composition import (
    Approval,
    approval,
    ask_model,
    fire,
    list_days,
    load,
    merge,
    order,
    pay,
    report,
)


@fire.task
def steps_and_waits_are_checked(job: JobContext) -> None:
    """A step takes the function's own arguments, and a wait requires its timeout."""
    job.step("charge", pay, "7", key="k")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    job.step("charge", pay, 7)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    job.step("charge", pay, 7, key="k", retries=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    job.step(pay, 7, key="k")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    paid: int = job.step("charge", pay, 7, key="k")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    text: str = job.step("ask", ask_model, "x")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    assert job.receive(approval, timeout=5).ok  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    job.receive(approval)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    job.run("days", list_days, paid)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    job.run("days", pay, 7, key=text)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    many: list[str] = job.gather("loads", [load.call("a")])  # type: ignore[list-item]  # pyright: ignore[reportAssignmentType]
    many.clear()


async def async_steps_are_equally_strict(job: JobContext) -> None:
    """An async step takes an async function and its arguments."""
    await job.astep("ask", ask_model, 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await job.astep("charge", pay, 7, key="k")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def signals_are_checked() -> None:
    """A payload has the signal's type."""
    approval.send("id", True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    approval.link("id", {"Approve": "yes"}, expires=5, at="")  # type: ignore[arg-type, dict-item]  # pyright: ignore[reportArgumentType]
    approval.link("id", {"Approve": Approval(ok=True, by="ada")}, at="")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Approval(ok="yes", by="ada")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def members_are_checked() -> None:
    """A member takes the task's own arguments, and outputs with the type of their results."""
    with fire.batch("import", on_failure="stop") as b:  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        days = b.add(list_days, "2026-11")
        one = b.add(load, "2026-11-01")
        b.add(load, days.output)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        b.add(load, one.output)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        b.add(merge, days.output, one.output)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        b.add(merge, days, [one.output])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        b.add(report, month=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        b.add(load.using(after="id"), "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        b.then(order, "7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        b.add_many([("a",)])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        b.batch("inner", hold=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
