"""The moves of the supervisor: renew sessions, notice the exit of a worker process, die, and start again."""

from __future__ import annotations

from .children import UNSEEN, fences_of, hung_up
from .rules import AtExit, Reconciler
from .state import (
    BLAMING,
    CLOSING,
    DEAD,
    FRESH,
    HALF_ENDED,
    LAPSED,
    NO_FENCE,
    RECONCILE,
    RUNNING,
    SENT,
    SUPERVISOR,
    UP,
    Call,
    Child,
    with_call,
    with_child,
    with_session,
)
from .storage import taken


def started(world, rules):
    """Return the world in which a server has started.

    Each worker process has its own session, or they share one.
    """
    sessions = (0, 0) if rules.shared_session else (0, 1)
    children = tuple(Child(UP, len(world.sessions) + new, ()) for new in sessions)
    rows = world.sessions + (FRESH,) * len(set(sessions))
    return world._replace(supervisor=True, children=children, sessions=rows)


def supervisor_moves(world, rules, bounds):
    """Yield all moves of the supervisor."""
    if not world.supervisor:
        if all(child.status != UP for child in world.children):
            yield "the server is started again", True, started(world, rules)
        return
    if bounds.outages:
        children = tuple(child if child.status == UP else UNSEEN for child in world.children)
        after = hung_up(world, SUPERVISOR)._replace(supervisor=False, children=children)
        yield "the supervisor dies", False, after
    renewed = _renewed(world, rules)
    if renewed != world:
        yield "the supervisor renews its sessions", True, renewed
    is_asking = any(call.sender == SUPERVISOR for call in world.wire)
    if rules.reconciler is Reconciler.SUPERVISOR and not is_asking and len(world.wire) < bounds.wire:
        held = fences_of(*(child for child in world.children if child.status == UP))
        call = Call(RECONCILE, SENT, SUPERVISOR, held, 0, NO_FENCE, world.children[0].session)
        yield "the supervisor asks to reconcile for its children", True, with_call(world, call)
    for index, child in enumerate(world.children):
        if child.status != UP:
            yield _notices_exit(world, index, rules, bounds)
            if bounds.locks and world.job.session == child.session:
                yield _ends_without_job(world, index)


def _renewed(world, rules):
    renewable = (LAPSED,) if rules.death_is_final else (LAPSED, DEAD)
    for child in world.children:
        if world.sessions[child.session] in renewable:
            world = with_session(world, child.session, FRESH)
    return world


def _notices_exit(world, index, rules, bounds):
    child = world.children[index]
    is_half_ended = child.status == HALF_ENDED
    takes = world._replace(job=_taken_at_exit(world.job, child, rules, bounds))
    marks = with_session(world, child.session, DEAD)
    match rules.at_exit:
        case AtExit.END_SESSION:
            after = _replaced(with_session(takes, child.session, DEAD), index)
            return f"the supervisor ends the session of child {index} and replaces it", True, after
        case AtExit.TAKE_THEN_MARK if not is_half_ended:
            after = with_child(takes, index, child._replace(status=HALF_ENDED, held=()))
            return f"the supervisor takes the jobs of child {index}", True, after
        case AtExit.MARK_THEN_TAKE if not is_half_ended:
            after = with_child(marks, index, child._replace(status=HALF_ENDED))
            return f"the supervisor marks the session of child {index} dead", True, after
        case AtExit.TAKE_THEN_MARK | AtExit.MARK_THEN_TAKE:
            rest = marks if rules.at_exit is AtExit.TAKE_THEN_MARK else takes
            return f"the supervisor does the rest and replaces child {index}", True, _replaced(rest, index)
        case AtExit.TAKE_HELD | AtExit.REPORT:
            after = with_child(takes, index, Child(UP, child.session, ()))
            return f"the supervisor replaces child {index} under the same session", True, after


def _ends_without_job(world, index):
    """Return the move for a locked job: a sweep takes it later, with the blame that is known now."""
    child = world.children[index]
    state = BLAMING if _was_running(world.job, child) else CLOSING
    after = _replaced(with_session(world, child.session, state), index)
    return f"the supervisor ends the session of child {index}, whose job is locked", False, after


def _taken_at_exit(job, child, rules, bounds):
    shown = [held for held in child.held if held.fence == job.fence]
    if rules.at_exit is AtExit.REPORT or (rules.at_exit is AtExit.TAKE_HELD and not shown):
        return job
    crashed = _was_running(job, child)
    return taken(job, child.session, crashed=crashed, crash_limit=bounds.crash_limit)


def _was_running(job, child):
    return any(held.fence == job.fence and held.phase == RUNNING for held in child.held)


def _replaced(world, index):
    child = Child(UP, len(world.sessions), ())
    return with_child(world, index, child)._replace(sessions=(*world.sessions, FRESH))
