"""The operations of the storage on its rows. Every function is one atomic operation."""

from __future__ import annotations

from typing import assert_never

from .rules import Reconciler, Token
from .state import (
    ANSWERED,
    APPLIED,
    CLAIM,
    DELETED,
    ENDED,
    ENQUEUED,
    FAILED,
    NO_FENCE,
    NOBODY,
    PROCESSING,
    RECONCILE,
    REFUSED,
    SETTLE,
    SUCCEEDED,
    TAKEN,
    answered,
    without_call,
)


def executed(world, call, rules):
    """Return the world after the storage has executed one request."""
    if call.kind == CLAIM:
        return _claim(world, call, rules)
    if call.kind == RECONCILE:
        return _reconcile(world, call, rules)
    return _end(world, call, rules)


def _claim(world, call, rules):
    job = world.job
    is_free = job.state == ENQUEUED and not (job.has_tail and rules.tail_blocks_claim)
    is_entitled = world.sessions[call.session] not in ENDED or not rules.claim_tests_session
    if not is_free or not is_entitled:
        return without_call(world, call)
    job = job._replace(
        state=PROCESSING, session=call.session, fence=job.fence + 1, attempt=job.attempt + 1, ended=False
    )
    answer = call._replace(stage=TAKEN, fences=(job.fence,), attempt=job.attempt)
    return answered(world._replace(job=job), call, answer)


def _end(world, call, rules):
    job = world.job
    if _accepts(job, call, rules):
        after = _succeeded(job) if call.kind == SETTLE else _returned(job)
        broken = _broken_by_end(job, call)
        return answered(world._replace(job=after, broken=broken), call, call._replace(stage=APPLIED))
    if rules.knows_repeats and call.kind == SETTLE and end_stands(job, call):
        return answered(world, call, call._replace(stage=APPLIED))
    if job.has_tail and (job.session, (job.fence,)) == (call.session, call.fences):
        world = world._replace(job=job._replace(session=NOBODY))
    return answered(world, call, call._replace(stage=REFUSED))


def _accepts(job, call, rules):
    if rules.guard_state and job.state != PROCESSING:
        return False
    if rules.guard_session and job.session != call.session:
        return False
    match rules.token:
        case Token.FENCE:
            return (job.fence,) == call.fences
        case Token.ATTEMPT:
            return job.attempt == call.attempt
        case Token.NOTHING:
            return True
        case _:
            assert_never(rules.token)


def _broken_by_end(job, call):
    if (job.fence,) != call.fences:
        return f"an end with fence {call.fences[0]} is accepted while the job's fence is {job.fence}"
    if job.state != PROCESSING:
        return f"an end is accepted though the job is {job.state}"
    return f"a second end is accepted for fence {job.fence}" if job.ended else ""


def end_stands(job, call):
    """Return whether the job is in the state that this same end produced."""
    return job.state == SUCCEEDED and (job.fence,) == call.fences


def _succeeded(job):
    return job._replace(state=SUCCEEDED, session=NOBODY, ended=True)


def _returned(job):
    return job._replace(state=ENQUEUED, session=NOBODY, attempt=job.attempt - 1, ended=True)


def _reconcile(world, call, rules):
    job = world.job
    mine = job.fence if job.session == call.session else NO_FENCE
    lost = tuple(fence for fence in call.fences if fence != mine or job.has_tail)
    visible = mine if rules.reconcile_sees_tails or not job.has_tail else NO_FENCE
    unknown = visible if visible not in call.fences else NO_FENCE
    if unknown and rules.reconciler is Reconciler.STORAGE:
        world = world._replace(job=taken(job, call.session, crashed=False))
        unknown = NO_FENCE
    attempt = job.attempt if unknown else 0
    answer = call._replace(stage=ANSWERED, fences=lost, attempt=attempt, unknown=unknown)
    return answered(world, call, answer)


def taken(job, session, *, crashed, crash_limit=0):
    """Return the job after a session has lost it: in its queue again, or failed because of its crashes.

    A tail is cleared.
    """
    if job.session != session or job.has_tail:
        return job._replace(session=NOBODY) if job.session == session else job
    if crashed and job.crashes >= crash_limit:
        return job._replace(state=FAILED, session=NOBODY)
    return job._replace(
        state=ENQUEUED, session=NOBODY, attempt=job.attempt - 1, crashes=job.crashes + crashed
    )


def deleted(job, rules):
    """Return the job after an operator has deleted it; its holder stays on the row as a tail."""
    return job._replace(state=DELETED, session=job.session if rules.delete_leaves_tail else NOBODY)


def requeued(job):
    """Return the job after an operator has requeued it, with its tail if it has one.

    Its attempts start at zero, so that the graph stays finite; no guard of the protocol reads them.
    """
    return job._replace(state=ENQUEUED, attempt=0, crashes=0)
