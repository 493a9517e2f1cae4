"""What a batch is in the model, and the rules by which it ends, each with a switch that leaves it out."""

from __future__ import annotations

from typing import NamedTuple

import attrs

# States of a member. One that is shut out waits for nothing but the opening of its batch.
ABSENT, WAITING, SHUT_OUT, ENQUEUED, PROCESSING = "-", "W", "V", "E", "P"
OPEN, SUCCEEDED, FAILED, DELETED = "O", "S", "F", "D"
ENDED = (SUCCEEDED, FAILED, DELETED)


class Member(NamedTuple):
    """A job of a batch."""

    state: str = ABSENT
    is_tail: bool = False  # deleted while it ran: that run may still go on
    is_releasing: bool = False  # ended, and what waits for it is not decided
    has_old_run: bool = False  # of a session that is dead
    is_wanted: bool = False  # requeued by somebody, and not stopped by a failure that came later


class Batch(NamedTuple):
    """A job without a task; its counts are what has been folded into it."""

    state: str = ABSENT
    active: int = 0
    waiting: int = 0
    failed: int = 0
    is_held: bool = False  # while it is filled
    is_cancelled: bool = False
    is_stopping: bool = False  # a member has failed, and the rest is to be swept
    is_shut: bool = False  # what it is after has not ended
    is_releasing: bool = False  # ended, and its own continuations are not decided
    fired: tuple[int, int, int] = (0, 0, 0)  # continuations on succeeded, finished, deleted


class Delta(NamedTuple):
    """What one transaction has changed of the counts of a batch."""

    batch: int
    active: int = 0
    waiting: int = 0
    failed: int = 0
    failures: int = 0  # members that failed by it, never taken back


class Fold(NamedTuple):
    """A transaction that has locked a batch and taken its deltas, and has not decided yet."""

    batch: int
    taken: Delta
    could_move: int  # members that could, when the deltas were taken


class Budget(NamedTuple):
    """How often each ill luck, or person, may come."""

    requeue: int = 0
    delete: int = 0
    crash: int = 0
    cancel: int = 0
    add_inside: int = 0
    add_outside: int = 0
    fail: int = 0

    def spent(self, name):
        """Return it with one less."""
        return self._replace(**{name: getattr(self, name) - 1})


class World(NamedTuple):
    """All there is at one instant."""

    members: tuple[Member, ...]
    batches: tuple[Batch, ...]
    deltas: tuple[Delta, ...]
    folds: tuple[Fold | None, ...]
    adder: bool  # somebody outside has looked at the batch and not stored the job yet
    next_chunk: int  # that the creator stores
    has_creator: bool
    budget: Budget
    broken: str = ""
    sweeper: int | None = None  # a batch that somebody has found to be stopped, and not swept yet


FILLED = 99
"""The next chunk of a creator that has nothing more to do."""


@attrs.frozen
class Scene:
    """Which batches and members there are, and what may happen to them."""

    batch_of: tuple[int, ...]  # each member's
    budget: Budget
    parent_of: dict[int, int] = attrs.field(factory=dict)  # members that wait for a fellow
    outer_of: dict[int, int] = attrs.field(factory=dict)  # batches that are members
    after: dict[int, int] = attrs.field(factory=dict)  # the member that a batch is after
    chunks: tuple[tuple[int, ...], ...] = ()  # as batch 0 is filled; none: all was stored in one step
    adds: dict[int, int] = attrs.field(factory=dict)  # a member that adds another one
    added_outside: int | None = None
    fails_fast: frozenset[int] = frozenset()  # batches that the first failure stops

    def inner(self, batch):
        """Return the batches that are members of this one."""
        return [one for one, outer in self.outer_of.items() if outer == batch]

    def child_of(self, member):
        """Return who waits for the member, if anybody does."""
        return next((child for child, parent in self.parent_of.items() if parent == member), None)

    def around(self, batch):
        """Return the batch and all that are around it, from the inside."""
        found = [batch]
        while found[-1] in self.outer_of:
            found.append(self.outer_of[found[-1]])
        return found


@attrs.frozen
class Rules:
    """What holds; each variant leaves one of it out."""

    ends_are_guarded: bool = True  # a late run's end writes no delta
    crash_is_no_end: bool = True
    is_held: bool = True
    hold_expires: bool = True
    lock_before_take: bool = True
    requeue_writes_opposite: bool = True
    parent_stays_active: bool = True  # until its children are decided
    outside_add_locks: bool = True
    row_waits_for_fold: bool = True  # who changes the batch's row locks it
    cancel_waits: bool = True  # for those that run
    cancel_waits_for_sweep: bool = True
    tails_count: bool = True
    shut_out_count: bool = True  # members of a batch that is after something are active
    batch_alone_waits: bool = True  # its members have no edge of their own to what it is after
    reopening_is_told: bool = True
    stop_sweeps_locked: bool = True  # who sweeps what a failure stops holds the batch's lock
    requeue_calms: bool = True  # under the lock, with all that is known folded
    stop_is_an_event: bool = True  # a failure stops, not that there is one
    stop_waits_for_sweep: bool = True
    folders: int = 1


def is_active(member, rules):
    """Tell whether the member may still move by itself."""
    return (
        member.state in (ENQUEUED, PROCESSING)
        or (member.state == SHUT_OUT and rules.shut_out_count)
        or (member.is_tail and rules.tails_count)
        or (member.is_releasing and rules.parent_stays_active)
    )


def is_waiting(member, rules):
    """Tell whether it has not ended and waits for somebody."""
    return member.state in (WAITING, SHUT_OUT) and not is_active(member, rules)


def batch_is_active(batch):
    """Tell the same of a batch that is a member."""
    return batch.is_releasing or (batch.state == OPEN and (not batch.is_shut or batch.is_cancelled))


def batch_is_waiting(batch):
    """Tell whether it waits for what it is after."""
    return batch.state == OPEN and not batch_is_active(batch)


def batch_end(batch, rules):
    """Return the state that the counts of a batch say.

    This is the whole decision, by numbers alone: a batch ends when nothing in it can move; one that is
    cancelled, or that a failure stops, only when nobody in it waits, either.
    """
    if batch.active > 0:
        return OPEN
    if batch.is_cancelled:
        return OPEN if batch.waiting > 0 and rules.cancel_waits_for_sweep else DELETED
    if batch.is_stopping and batch.waiting > 0 and rules.stop_waits_for_sweep:
        return OPEN
    return FAILED if batch.failed > 0 or batch.waiting > 0 else SUCCEEDED
