"""The state of the modelled world as small comparable values, and the renumbering that keeps it finite."""

from __future__ import annotations

from typing import NamedTuple

ENQUEUED = "enqueued"
PROCESSING = "processing"
SUCCEEDED = "succeeded"
FAILED = "failed"
DELETED = "deleted"
FINAL = (SUCCEEDED, FAILED, DELETED)

FRESH = "fresh"
LAPSED = "lapsed"
DEAD = "dead"
CLOSING = "closing"  # dead, but it still holds the job, which was locked and had not started
BLAMING = "closing and blaming"  # dead, but it still holds the job, which was locked and gets a crash
ENDED = (DEAD, CLOSING, BLAMING)

UP = "up"
EXITED = "exited"
HALF_ENDED = "half ended"

CLAIMED = "claimed"
RUNNING = "running"
DONE = "done"

CLAIM = "claim"
SETTLE = "settle"
RETURN = "return"
RECONCILE = "reconcile"

SENT = "sent"
TAKEN = "taken"
APPLIED = "applied"
REFUSED = "refused"
ANSWERED = "answered"

NOBODY = -1
SUPERVISOR = 2
NO_FENCE = 0


class Job(NamedTuple):
    """The row in the storage. If it has a session and is not processing, it has that session's tail."""

    state: str
    session: int
    fence: int
    attempt: int
    crashes: int
    ended: bool  # only for the checker: an end of this fence was accepted

    @property
    def has_tail(self):
        """Whether an earlier holder might still run the job."""
        return self.session != NOBODY and self.state != PROCESSING

    @property
    def is_final(self):
        """Whether neither the current holder nor an earlier one has anything left to do."""
        return self.state in FINAL and not self.has_tail


class HeldClaim(NamedTuple):
    """One claim as its worker process sees it."""

    fence: int
    attempt: int
    phase: str


class Child(NamedTuple):
    """A worker process with a session.

    After its exit, `held` contains the runs in its slots in shared memory.
    """

    status: str
    session: int
    held: tuple[HeldClaim, ...]


class Call(NamedTuple):
    """A request in transit to the storage, or its reply. Its sender waits for it, if it has one."""

    kind: str
    stage: str
    sender: int
    fences: tuple[int, ...]
    attempt: int
    unknown: int
    session: int


class World(NamedTuple):
    """The whole state: the storage (job, sessions), the processes, and the calls in transit."""

    job: Job
    sessions: tuple[str, ...]
    children: tuple[Child, ...]
    supervisor: bool
    wire: tuple[Call, ...]
    broken: str  # only for the checker: the condition that the last move has broken


Move = tuple[str, bool, World]
"""A description, whether this is a regular move, and the world after it."""


def with_child(world, index, child):
    """Return the world in which one worker process has changed."""
    children = world.children
    return world._replace(children=(*children[:index], child, *children[index + 1 :]))


def with_session(world, session, state):
    """Return the world in which one session has changed."""
    rows = world.sessions
    return world._replace(sessions=(*rows[:session], state, *rows[session + 1 :]))


def with_call(world, call):
    """Return the world with one more call in transit."""
    return world._replace(wire=(*world.wire, call))


def without_call(world, call):
    """Return the world without this call."""
    position = world.wire.index(call)
    return world._replace(wire=world.wire[:position] + world.wire[position + 1 :])


def answered(world, call, answer):
    """Return the world in which a call has its reply; without a waiting sender, the call ends immediately."""
    position = world.wire.index(call)
    answers = () if call.sender == NOBODY else (answer,)
    return world._replace(wire=world.wire[:position] + answers + world.wire[position + 1 :])


def kept_sessions(children, supervisor):
    """Return the sessions that are renewed or used; it does not matter when other sessions lapse."""
    return {child.session for child in children if supervisor or child.status == UP}


def normalised(world):
    """Return the one world that represents all worlds with the same behaviour.

    Sessions and fences are only compared with each other, so the numbers still in use are renumbered. This
    turns an endless sequence of restarts and claims into a finite graph, without a limit on either. The
    worker processes are interchangeable, so they have a fixed order. An unused session counts as lapsed.
    """
    job, sessions, children, supervisor, wire, broken = world
    first, second = children
    if _is_later(first, second, world):
        children = (second, first)
        wire = tuple([call._replace(sender=_SWAPPED[call.sender]) for call in wire])
    job, children, wire = _renumber_fences(job, children, wire)
    return World(*_renumber_sessions(job, sessions, children, supervisor, wire), broken)


_SWAPPED = {0: 1, 1: 0, SUPERVISOR: SUPERVISOR, NOBODY: NOBODY}


def _is_later(first, second, world):
    rows = (*world.sessions, "")
    one = (first.status, first.held, rows[first.session])
    other = (second.status, second.held, rows[second.session])
    return one > other or (one == other and _spoken_of(0, world) > _spoken_of(1, world))


def _spoken_of(index, world):
    session = world.children[index].session
    calls = [call for call in world.wire if call.session == session and call.sender in (index, NOBODY)]
    known_calls = sorted(
        [(call.kind, call.stage, call.sender == index, call.fences, call.unknown) for call in calls]
    )
    return world.job.session == session, known_calls


def _renumber_fences(job, children, wire):
    spoken = {held.fence for child in children for held in child.held}
    for call in wire:
        spoken.update(call.fences)
        spoken.add(call.unknown)
    if job.ended and job.fence not in spoken:
        job = job._replace(ended=False)
    spoken.add(job.fence)
    spoken.discard(NO_FENCE)
    if not spoken or max(spoken) == len(spoken):
        return job, children, wire
    new = {fence: rank for rank, fence in enumerate(sorted(spoken), start=1)}
    new[NO_FENCE] = NO_FENCE
    return (
        job._replace(fence=new[job.fence]),
        tuple(
            [
                child._replace(held=tuple([held._replace(fence=new[held.fence]) for held in child.held]))
                for child in children
            ]
        ),
        tuple(
            [
                call._replace(fences=tuple([new[fence] for fence in call.fences]), unknown=new[call.unknown])
                for call in wire
            ]
        ),
    )


def _renumber_sessions(job, sessions, children, supervisor, wire):
    order = {}
    for child in children:
        if child.session != NOBODY:
            order.setdefault(child.session, len(order))
    kept = kept_sessions(children, supervisor)
    if job.session != NOBODY:
        order.setdefault(job.session, len(order))
    for call in sorted(wire, key=lambda call: (call[:-1], sessions[call.session])) if wire else ():
        order.setdefault(call.session, len(order))
    rows = tuple([LAPSED if old not in kept and sessions[old] == FRESH else sessions[old] for old in order])
    if all(old == new for old, new in order.items()):
        return job, rows, children, supervisor, tuple(sorted(wire))
    order[NOBODY] = NOBODY
    return (
        job._replace(session=order[job.session]),
        rows,
        tuple([child._replace(session=order[child.session]) for child in children]),
        supervisor,
        tuple(sorted([call._replace(session=order[call.session]) for call in wire])),
    )
