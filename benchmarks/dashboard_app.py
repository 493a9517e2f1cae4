"""The application for measuring requeues next to other jobs: tasks that do nothing, in two queues."""

from __future__ import annotations

from firelock import Firelock, Retry

QUEUE, FAILING = "benchmark", "benchmark-failing"

fire = Firelock()


@fire.task(queue=QUEUE)
def noop(number: int) -> None:
    """Do nothing."""


@fire.task(queue=FAILING, retry=Retry.never())
def charge(number: int) -> None:
    """Do nothing; the stored jobs of this task have failed."""
