"""The rules that a variant of the protocol can disable, and the size of the world in which it is explored."""

from __future__ import annotations

from enum import Enum, auto

import attrs


class Token(Enum):
    """The proof that an end must contain in addition to its session."""

    FENCE = auto()
    ATTEMPT = auto()
    NOTHING = auto()


class Reconciler(Enum):
    """The party that compares held jobs with the storage's list, and hands back unknown ones."""

    CHILD = auto()
    HASTY_CHILD = auto()  # hands back even while one of its own claims is in progress
    SUPERVISOR = auto()  # merges its worker processes' lists, as a shared session requires
    STORAGE = auto()  # itself returns the jobs that the list does not name
    NONE = auto()


class AtExit(Enum):
    """The reaction of the supervisor to the death of a worker process."""

    END_SESSION = auto()  # marks the session dead and takes its jobs, in one move
    TAKE_THEN_MARK = auto()
    MARK_THEN_TAKE = auto()
    TAKE_HELD = auto()  # takes the jobs that the process is known to have held; the session continues
    REPORT = auto()  # leaves the job unchanged


@attrs.frozen(kw_only=True)
class Rules:
    """The protocol. Each default is Firelock's rule; a variant changes one."""

    guard_state: bool = True
    guard_session: bool = True
    token: Token = Token.FENCE
    knows_repeats: bool = True
    death_is_final: bool = True
    reaper_tests_session: bool = True
    claim_tests_session: bool = True
    shared_session: bool = False
    at_exit: AtExit = AtExit.END_SESSION
    reconciler: Reconciler = Reconciler.CHILD
    reconcile_sees_tails: bool = True
    delete_leaves_tail: bool = True
    tail_blocks_claim: bool = True
    sweeps_continue: bool = True  # with a session that ended while its job was locked
    sweeps_keep_blame: bool = True
    # and take the jobs that the session has at that time, not the jobs that it had at its end
    sweeps_read_rows: bool = True


@attrs.frozen(kw_only=True)
class Bounds:
    """The size of the world, and the failures that can occur in it."""

    wire: int = 2  # calls in transit at the same time, including abandoned ones
    slots: int = 1  # claims that a worker process can hold
    crash_limit: int = 1  # crashes that a job survives
    kills: bool = True  # a worker process dies
    outages: bool = True  # the supervisor dies
    lapses: bool = True  # a session that is being renewed lapses: a pause, a partition
    losses: bool = True  # a request or a reply is lost, or a sender stops waiting
    returns: bool = True  # a worker process hands back a job that it has not started
    operator: bool = True  # delete and requeue
    locks: bool = True  # the job's row is locked when its session ends
