"""What a variant of the protocol may leave out, and how large a world it is tried in."""

from __future__ import annotations

from enum import Enum, auto

import attrs


class Token(Enum):
    """What an end must show besides its session."""

    FENCE = auto()
    ATTEMPT = auto()
    NOTHING = auto()


class Reconciler(Enum):
    """Who compares what is held with what the storage says, and who hands back what nobody knows."""

    CHILD = auto()
    HASTY_CHILD = auto()  # hands back although a claim of its own is open
    SUPERVISOR = auto()  # merges its children's lists, as a shared session demands
    STORAGE = auto()  # hands back by itself what the list does not name
    NONE = auto()


class AtExit(Enum):
    """What the supervisor does when a child has died."""

    END_SESSION = auto()  # marks dead and takes, in one step
    TAKE_THEN_MARK = auto()
    MARK_THEN_TAKE = auto()
    TAKE_HELD = auto()  # takes what the child is known to have held; the session lives on
    REPORT = auto()  # leaves the job where it is


@attrs.frozen(kw_only=True)
class Rules:
    """The protocol. Each default is the rule as Firelock has it; a variant changes one."""

    guard_state: bool = True
    guard_session: bool = True
    token: Token = Token.FENCE
    repeats_are_told: bool = True
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
    sweeps_read_rows: bool = True  # and take what the session holds then, not what it held at its end


@attrs.frozen(kw_only=True)
class Bounds:
    """The size of the world and the bad luck that is admitted in it."""

    wire: int = 2  # calls on their way at the same time, abandoned ones included
    slots: int = 1  # claims a child may hold
    crash_limit: int = 1  # crashes a job survives
    kills: bool = True  # a child dies
    outages: bool = True  # the supervisor dies
    lapses: bool = True  # a session that is being renewed lapses: a pause, a partition
    losses: bool = True  # a request or a reply is lost, a sender gives up waiting
    returns: bool = True  # a child hands back what it has not started
    operator: bool = True  # delete and requeue
    locks: bool = True  # the job's row is locked when its session ends
