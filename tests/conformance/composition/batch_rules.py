"""The state of a batch in the model, and the rules by which it ends, each with a switch that disables it."""

from __future__ import annotations

from typing import NamedTuple

import attrs

# States of a member. UNOPENED: it waits only until its batch opens.
ABSENT, WAITING, UNOPENED, ENQUEUED, PROCESSING = "-", "W", "V", "E", "P"
OPEN, SUCCEEDED, FAILED, DELETED = "O", "S", "F", "D"
ENDED = (SUCCEEDED, FAILED, DELETED)


class Member(NamedTuple):
    """A job of a batch."""

    state: str = ABSENT
    is_tail: bool = False  # deleted while it ran, and that run may continue
    is_releasing: bool = False  # ended, but the jobs that wait for it have not been updated
    has_old_run: bool = False  # of a dead session
    is_wanted: bool = False  # requeued, and not stopped by a later failure


class Batch(NamedTuple):
    """A job without a task; its counts are the sum of the folded deltas."""

    state: str = ABSENT
    active: int = 0
    waiting: int = 0
    failed: int = 0
    is_held: bool = False  # while it is filled
    is_cancelled: bool = False
    is_stopping: bool = False  # a member has failed, and the others must be swept
    is_unopened: bool = False  # the job that it waits for has not ended
    is_releasing: bool = False  # ended, but its own continuations have not been updated
    fired: tuple[int, int, int] = (0, 0, 0)  # continuations on succeeded, finished, deleted


class Delta(NamedTuple):
    """The change of a batch's counts by one transaction."""

    batch: int
    active: int = 0
    waiting: int = 0
    failed: int = 0
    failures: int = 0  # members that failed in it, never reduced


class Fold(NamedTuple):
    """A transaction that has locked a batch and taken its deltas, but has not set its state yet."""

    batch: int
    taken: Delta
    could_move: int  # members that could move when the deltas were taken


class Budget(NamedTuple):
    """The number of times that each failure and each human action may occur."""

    requeue: int = 0
    delete: int = 0
    crash: int = 0
    cancel: int = 0
    add_inside: int = 0
    add_outside: int = 0
    fail: int = 0

    def spent(self, name):
        """Return the budget with one occurrence fewer."""
        return self._replace(**{name: getattr(self, name) - 1})


class World(NamedTuple):
    """The whole state at one time."""

    members: tuple[Member, ...]
    batches: tuple[Batch, ...]
    deltas: tuple[Delta, ...]
    folds: tuple[Fold | None, ...]
    adder: bool  # an outside transaction has read the batch and has not stored the job yet
    next_chunk: int  # the next chunk for the creator to store
    has_creator: bool
    budget: Budget
    broken: str = ""
    sweeper: int | None = None  # a batch that was detected as stopping and has not been swept yet


FILLED = 99
"""The next chunk of a creator that has finished."""


@attrs.frozen
class Scene:
    """The batches and members, and the events that can occur."""

    batch_of: tuple[int, ...]  # the batch of each member
    budget: Budget
    parent_of: dict[int, int] = attrs.field(factory=dict)  # members that wait for another member
    outer_of: dict[int, int] = attrs.field(factory=dict)  # batches that are members
    after: dict[int, int] = attrs.field(factory=dict)  # the member that a batch waits for
    # the chunks that fill batch 0; without any, everything was stored in one move
    chunks: tuple[tuple[int, ...], ...] = ()
    adds: dict[int, int] = attrs.field(factory=dict)  # a member that adds another member
    added_outside: int | None = None
    fails_fast: frozenset[int] = frozenset()  # batches that the first failure stops

    def inner(self, batch):
        """Return the batches that are members of this one."""
        return [one for one, outer in self.outer_of.items() if outer == batch]

    def child_of(self, member):
        """Return the member that waits for this one, or None."""
        return next((child for child, parent in self.parent_of.items() if parent == member), None)

    def around(self, batch):
        """Return the batch and all of its outer batches, the innermost first."""
        found = [batch]
        while found[-1] in self.outer_of:
            found.append(self.outer_of[found[-1]])
        return found


@attrs.frozen
class Rules:
    """The rules that hold; each variant disables one of them."""

    ends_are_guarded: bool = True  # the end of an old run writes no delta
    crash_is_no_end: bool = True
    is_held: bool = True
    hold_expires: bool = True
    lock_before_take: bool = True
    requeue_writes_opposite: bool = True
    parent_stays_active: bool = True  # until its children have been updated
    outside_add_locks: bool = True
    row_waits_for_fold: bool = True  # a change of the batch's row takes its lock
    cancel_waits: bool = True  # for running members
    cancel_waits_for_sweep: bool = True
    tails_count: bool = True
    unopened_count: bool = True  # members of an unopened batch are active
    batch_alone_waits: bool = True  # its members do not have edges to the job that it waits for
    reopening_is_reported: bool = True
    stop_sweeps_locked: bool = True  # a sweep after a failure holds the batch's lock
    requeue_calms: bool = True  # takes effect under the lock, with all known deltas folded
    stop_is_an_event: bool = True  # a new failure stops a batch; existing failed members do not
    stop_waits_for_sweep: bool = True
    folders: int = 1


def is_active(member, rules):
    """Return whether the member can still move by itself."""
    return (
        member.state in (ENQUEUED, PROCESSING)
        or (member.state == UNOPENED and rules.unopened_count)
        or (member.is_tail and rules.tails_count)
        or (member.is_releasing and rules.parent_stays_active)
    )


def is_waiting(member, rules):
    """Return whether the member has not ended and waits for another job."""
    return member.state in (WAITING, UNOPENED) and not is_active(member, rules)


def batch_is_active(batch):
    """Return whether a batch that is a member can still move by itself."""
    return batch.is_releasing or (batch.state == OPEN and (not batch.is_unopened or batch.is_cancelled))


def batch_is_waiting(batch):
    """Return whether the batch waits for the job before it."""
    return batch.state == OPEN and not batch_is_active(batch)


def batch_end(batch, rules):
    """Return the state that the counts of a batch imply.

    The decision depends on these numbers alone. A batch ends when no member can move. A batch that is
    cancelled or stopped by a failure must also have no waiting members.
    """
    if batch.active > 0:
        return OPEN
    if batch.is_cancelled:
        return OPEN if batch.waiting > 0 and rules.cancel_waits_for_sweep else DELETED
    if batch.is_stopping and batch.waiting > 0 and rules.stop_waits_for_sweep:
        return OPEN
    return FAILED if batch.failed > 0 or batch.waiting > 0 else SUCCEEDED
