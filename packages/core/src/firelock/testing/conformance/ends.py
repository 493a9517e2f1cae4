"""How an attempt ends or an operator steps in, with the fields that a test does not care about filled in."""

from __future__ import annotations

from collections.abc import Callable

from firelock import lifecycle
from firelock.testing.conformance.handles import BASE, HOUR, SECOND, STAMP
from firelock.testing.conformance.scene import Running, error_info
from firelock.values import ErrorInfo, State, Transition

__all__ = [
    "ENDS",
    "crashes",
    "deletes",
    "fails",
    "gives_up",
    "hands_back",
    "requeues",
    "reschedules",
    "restores",
    "retries",
    "snoozes",
    "succeeds",
]

_RUN = 2 * SECOND


def _started(running: Running) -> int:
    return running.job.claimed_at + SECOND


def _ended(running: Running) -> int:
    return running.job.claimed_at + _RUN


def succeeds(
    running: Running, result: str | None = "1", *, absent: str | None = None, expires_at: int | None = None
) -> Transition:
    """The task returned."""
    return lifecycle.succeeded(
        running.job, running.holder, at=_ended(running), started_at=_started(running),
        result=result, result_absent=absent, expires_at=expires_at,
    )  # fmt: skip


def fails(running: Running, error: ErrorInfo | None = None, *, expires_at: int | None = None) -> Transition:
    """The task raised for the last time."""
    return lifecycle.failed(
        running.job, running.holder, at=_ended(running), started_at=_started(running),
        reason="no retries left", error=error or error_info(), expires_at=expires_at,
    )  # fmt: skip


def gives_up(running: Running, *, expires_at: int | None = None) -> Transition:
    """The task raised for the last time and its policy deletes the job."""
    return lifecycle.deleted_by_policy(
        running.job, running.holder, at=_ended(running), started_at=_started(running),
        reason="retries exhausted", error=error_info(), expires_at=expires_at,
    )  # fmt: skip


def retries(running: Running, *, due_at: int | None = None, error: ErrorInfo | None = None) -> Transition:
    """The task raised and is tried again at that instant, at once where none is given."""
    at = _ended(running)
    return lifecycle.retried(
        running.job, running.holder, at=at, started_at=_started(running),
        wait=0 if due_at is None else due_at - at, reason="retry 1 of 10", error=error or error_info(),
    )  # fmt: skip


def snoozes(running: Running, *, due_at: int | None = None) -> Transition:
    """The task asked to be run later, at that instant, at once where none is given."""
    at = _ended(running)
    wait = 0 if due_at is None else due_at - at
    return lifecycle.snoozed(
        running.job, running.holder, at=at, started_at=_started(running), wait=wait, reason="snoozed"
    )


def hands_back(running: Running, *, has_started: bool = False) -> Transition:
    """The server gives the job back."""
    started_at = _started(running) if has_started else None
    return lifecycle.handed_back(
        running.job, running.holder, at=_ended(running), started_at=started_at, reason="server stopped"
    )


def crashes(running: Running, *, expires_at: int | None = None) -> Transition:
    """The job's own process died with it."""
    return lifecycle.crashed_alone(
        running.job, running.holder, at=_ended(running), started_at=_started(running),
        reason="killed by signal 9", error=error_info("crash"), expires_at=expires_at,
    )  # fmt: skip


def deletes(job_id: str, *, at: int = STAMP, expires_at: int | None = None) -> Transition:
    """An operator deletes the job."""
    return lifecycle.delete(job_id, at=at, reason="deleted by ada", expires_at=expires_at)


def requeues(job_id: str, *, at: int = STAMP) -> Transition:
    """An operator runs the job again."""
    return lifecycle.requeue(job_id, at=at, reason="requeued by ada")


def reschedules(job_id: str, *, due_at: int, at: int = STAMP) -> Transition:
    """An operator moves a scheduled job to another instant."""
    return lifecycle.reschedule(job_id, at=at, due_at=due_at, reason="rescheduled by ada")


def restores(
    job_id: str, former: State, *, due_at: int | None = None, at: int = STAMP, expires_at: int | None = None
) -> Transition:
    """An operator takes a delete back."""
    return lifecycle.restore(
        job_id, lifecycle.Former(former, due_at), at=at, reason="restored by ada", expires_at=expires_at
    )


ENDS: dict[str, Callable[[Running], Transition]] = {
    "succeeds": succeeds,
    "fails": fails,
    "retries later": lambda running: retries(running, due_at=BASE + HOUR),
    "retries at once": retries,
    "snoozes": lambda running: snoozes(running, due_at=BASE + HOUR),
    "gives up": gives_up,
    "hands back": hands_back,
}
"""Every way in which a holder ends its claim, by name."""
