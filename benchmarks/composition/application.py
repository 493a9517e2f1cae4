"""The measured application; a version of Firelock without batches and steps can run its plain jobs too."""

from __future__ import annotations

from typing import Any

from firelock import Firelock, JobContext

fire = Firelock()
QUEUE = "default"
STEPS = 20

word: Any = fire.signal("word", int) if hasattr(fire, "signal") else None


@fire.task(name="plain")
def plain(number: int) -> None:
    """Do nothing, as a plain job or as a member."""


@fire.task(name="after")
def after(number: int) -> None:
    """Do nothing, as the continuation of a batch."""


def same(number: int) -> int:
    """Return the number, as a step."""
    return number


@fire.task(name="steps")
def steps(job: JobContext, number: int) -> int:
    """Run steps that do nothing."""
    context: Any = job
    return number + sum(int(context.step(f"step:{index}", same, index)) for index in range(STEPS))


@fire.task(name="waits")
def waits(job: JobContext, number: int) -> int:
    """Wait for a signal."""
    context: Any = job
    return number + int(context.receive(word, timeout=None))


@fire.task(name="calls")
def calls(job: JobContext, number: int) -> None:
    """Call another job, and wait for it."""
    context: Any = job
    context.run("called", plain, number)
