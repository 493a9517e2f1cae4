"""The moves of a worker process (a child): claim, run, settle, reconcile, and die."""

from __future__ import annotations

from .rules import AtExit, Reconciler
from .state import (
    CLAIM,
    CLAIMED,
    DONE,
    ENDED,
    EXITED,
    FRESH,
    NO_FENCE,
    NOBODY,
    RECONCILE,
    REFUSED,
    RETURN,
    RUNNING,
    SENT,
    SETTLE,
    SUPERVISOR,
    TAKEN,
    UP,
    Call,
    Child,
    HeldClaim,
    with_call,
    with_child,
)
from .storage import end_stands

_SENT_BY_CHILD = (Reconciler.CHILD, Reconciler.HASTY_CHILD, Reconciler.STORAGE)
UNSEEN = Child(EXITED, NOBODY, ())
"""A worker process whose exit will not be reported, because its supervisor has died."""


def child_moves(world, index, rules, bounds):
    """Yield all moves of one running worker process."""
    child = world.children[index]
    yield from _calls(world, index, child, rules, bounds)
    for held in child.held:
        if held.phase != DONE:
            yield from _goes_on(world, index, child, held, bounds)
    if not world.supervisor:
        yield f"child {index} ends with its supervisor", True, _exited(world, index, rules)
    elif bounds.kills:
        yield f"child {index} is killed", False, _exited(world, index, rules)
    if world.supervisor and world.sessions[child.session] in ENDED:
        name = f"child {index} is notified that its session is dead and begins a new one"
        yield name, True, _begun_anew(world, child.session)


def _calls(world, index, child, rules, bounds):
    if len(world.wire) >= bounds.wire:
        return
    open_kinds = {call.kind for call in world.wire if call.sender == index}
    if CLAIM not in open_kinds and len(child.held) < bounds.slots:
        call = Call(CLAIM, SENT, index, (), 0, NO_FENCE, child.session)
        yield f"child {index} sends a claim", True, with_call(world, call)
    if RECONCILE not in open_kinds and rules.reconciler in _SENT_BY_CHILD:
        call = Call(RECONCILE, SENT, index, fences_of(child), 0, NO_FENCE, child.session)
        yield f"child {index} asks to reconcile", True, with_call(world, call)
    for held in child.held:
        if held.phase == DONE and SETTLE not in open_kinds:
            call = Call(SETTLE, SENT, index, (held.fence,), held.attempt, NO_FENCE, child.session)
            yield f"child {index} sends the end of fence {held.fence}", True, with_call(world, call)


def _goes_on(world, index, child, held, bounds):
    fence = held.fence
    if held.phase == RUNNING:
        done = _with_phase(child, fence, DONE)
        yield f"child {index} is through with fence {fence}", True, with_child(world, index, done)
        return
    running = _with_phase(child, fence, RUNNING)
    yield f"child {index} starts fence {fence}", True, with_child(world, index, running)
    if bounds.returns and len(world.wire) < bounds.wire:
        call = _hand_back(child.session, fence, held.attempt)
        after = with_call(with_child(world, index, _without(child, fence)), call)
        yield f"child {index} hands fence {fence} back", False, after


def _hand_back(session, fence, attempt):
    """Return the call of a hand-back.

    Its reply is not awaited, because reconciliation detects a lost hand-back.
    """
    return Call(RETURN, SENT, NOBODY, (fence,), attempt, NO_FENCE, session)


def fences_of(*children):
    """Return the fences that these worker processes hold."""
    return tuple(sorted(held.fence for child in children for held in child.held))


def _with_phase(child, fence, phase):
    held = tuple(held._replace(phase=phase) if held.fence == fence else held for held in child.held)
    return child._replace(held=held)


def _without(child, fence):
    return child._replace(held=tuple(held for held in child.held if held.fence != fence))


def _exited(world, index, rules):
    """Return the world after the worker process has exited.

    Its supervisor can still read from its slots which jobs ran. Calls that it had sent might still be
    executed.
    """
    child = world.children[index]
    shown = tuple(held for held in child.held if held.phase == RUNNING or rules.at_exit is AtExit.TAKE_HELD)
    exited = child._replace(status=EXITED, held=shown) if world.supervisor else UNSEEN
    return with_child(hung_up(world, index), index, exited)


def hung_up(world, sender):
    """Return the world in which a sender no longer waits for any call."""
    wire = (call._replace(sender=NOBODY) if call.sender == sender else call for call in world.wire)
    return world._replace(wire=tuple(call for call in wire if call.sender != NOBODY or _may_still_run(call)))


def _may_still_run(call):
    return call.stage == SENT and call.kind != RECONCILE


def _begun_anew(world, session):
    """Return the world in which this session's processes have dropped all jobs and begun a new session."""
    members = [index for index, child in enumerate(world.children) if child.session == session]
    for index in members:
        child = world.children[index]._replace(session=len(world.sessions), held=())
        world = with_child(hung_up(world, index), index, child)
    return hung_up(world, SUPERVISOR)._replace(sessions=(*world.sessions, FRESH))


def handled(world, call):
    """Return the world after the sender has read the reply to its claim or settle."""
    child = world.children[call.sender]
    fence = call.fences[0]
    if call.stage == TAKEN:
        held = tuple(sorted((*child.held, HeldClaim(fence, call.attempt, CLAIMED))))
        return with_child(world, call.sender, child._replace(held=held))
    if call.stage == REFUSED and end_stands(world.job, call):
        world = world._replace(broken=f"fence {fence} is reported lost though its end stands")
    return with_child(world, call.sender, _without(child, fence))


def reconciled(world, call, rules):
    """Return the world after a reconciliation.

    Lost runs have stopped, and their later ends will be refused. A job that the process does not hold is
    handed back.
    """
    indexes = range(len(world.children)) if call.sender == SUPERVISOR else (call.sender,)
    for index in indexes:
        child = world.children[index]
        for fence in call.fences if child.status == UP else ():
            child = _with_phase(child, fence, DONE)
        world = with_child(world, index, child)
    is_held = call.unknown in fences_of(*(world.children[index] for index in indexes))
    is_claiming = any(other.kind == CLAIM and other.sender == call.sender for other in world.wire)
    if not call.unknown or is_held or (is_claiming and rules.reconciler is Reconciler.CHILD):
        return world
    return with_call(world, _hand_back(call.session, call.unknown, call.attempt))
