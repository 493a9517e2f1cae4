"""What a job asks before it is stored or started, and the JSON in which that is stored."""

from __future__ import annotations

import json
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter
from typing import Any

import attrs

from firelock.model.stored_json import INTEGER_OR_NULL, UNREADABLE, encode


@attrs.frozen
class LimitUse:
    """A key that a job holds while a server has it, and what its start costs there."""

    key: str
    cost: int = 1  # units of the key's rate, at least 0
    is_strict: bool = False  # it keeps the key from its first start to its end, retries included
    more: str | None = None  # fields of a newer release, as JSON; kept as they are


class Until(StrEnum):
    """How long a job keeps its unique key; the text is what is stored."""

    STARTED = "started"  # until it is claimed
    ENDED = "ended"  # until it has succeeded, failed or was deleted, and nothing runs it any more
    SUCCEEDED = "succeeded"  # as above, but a failed job keeps it
    DUE = "due"  # while it is scheduled and was never claimed: a debounced one


@attrs.frozen
class UniqueUse:
    """A key that one job has at a time, and what becomes of a call while another has it."""

    key: str  # as stored: the task's lasting name, a blank, the key
    until: Until = Until.ENDED
    at_least: int = 0  # micros from when it was taken
    keeps_last: bool = False  # the call's arguments, tags, priority and limits replace those of the job
    raises: bool = False  # the call is refused; else it is answered by the job
    wait: int | None = None  # micros that a call puts the job off: it is debounced
    max_wait: int | None = None  # micros from the first call at which it is due at the latest
    more: str | None = None  # fields of a newer release, as JSON; kept as they are


@attrs.frozen
class Admission:
    """What a job asks before it is stored, or before it starts; most ask nothing."""

    limits: tuple[LimitUse, ...] = ()  # its lane, in this order
    unique: UniqueUse | None = None
    start_before: int | None = None  # an instant; a job not claimed by then is deleted unrun
    start_within: int | None = None  # micros from when it first became enqueued, likewise
    more: str | None = None  # fields of a newer release, as JSON; kept as they are
    unread: str | None = None  # the stored string, if this release cannot read all: see `read_admission`


@attrs.frozen
class KeyState:
    """Who holds a limit's key, and who waits for it."""

    key: str
    holders: tuple[str, ...]  # ids of jobs, 100 at most, oldest first
    running: int  # how many hold it, strict ones between two attempts too
    waiting: int  # enqueued jobs that ask for it, 10,000 at most
    free_at: int  # up to which its rate has been used, or it was shut; see `LimitNumbers.opens_at`
    others: tuple[str, ...] = ()  # other keys that its waiting jobs ask for, in order, 10 at most


@attrs.frozen
class WaitingJobs:
    """A part of the line of jobs that wait for a limit's key."""

    ids: tuple[str, ...]  # in the order of their turns
    place: int | None = None  # how many come before the job that was asked for; 10,000 stands for more
    is_cut: bool = False  # there are more lanes than a line is made of, so that places are the least possible


@attrs.frozen
class UniqueState:
    """Which job a unique key points at; whether it has it still, the job says."""

    key: str
    job_id: str
    free_at: int  # before it is taken whatever became of the job; 0 where it was taken for no time


def write_admission(admission: Admission) -> str | None:
    """Return what is stored of it, None where it asks nothing."""
    if admission == _NO_ADMISSION:
        return None
    if admission.unread is not None:
        return admission.unread
    unique = admission.unique
    said = [
        [[use.key, use.cost, int(use.is_strict), *_kept(use.more)] for use in admission.limits],
        None if unique is None else [*_unique_fields(unique), *_kept(unique.more)],
        admission.start_before,
        admission.start_within,
        *_kept(admission.more),
    ]
    return encode(said)


_unique_fields = attrgetter(*[field.name for field in attrs.fields(UniqueUse)][:-1])
_UNIQUE_FIELDS = len(attrs.fields(UniqueUse)) - 1
_UNTIL = {until.value: until for until in Until}


def _kept(more: str | None) -> list[Any]:
    """Return the fields of a newer release that are to be written back."""
    fields: list[Any] = json.loads(more) if more else []
    return fields


@lru_cache(maxsize=4_096)
def read_admission(text: str) -> Admission:
    """Return the admission that `write_admission` wrote; fields that a newer release appended are kept.

    Never raises: a string that this release cannot read must not stop the jobs next to this one. `unread` is
    set then. Of a unique key with an unknown `until` the rest is read, and the job keeps its key until it has
    ended; otherwise nothing of such a string is used. No server runs such a job.
    """
    try:
        limits, unique, before, within, *more = json.loads(text)
        if type(before) not in INTEGER_OR_NULL or type(within) not in INTEGER_OR_NULL:
            return Admission(unread=text)
        uses = tuple([_limit_use(*one) for one in limits]) if limits else ()
        if unique is None:
            return Admission(uses, None, before, within, encode(more) if more else None)
        key, until, at_least = unique[:3]
        if type(key) is not str or type(until) is not str or type(at_least) is not int:
            return Admission(unread=text)
        known, kept = unique[3:_UNIQUE_FIELDS], unique[_UNIQUE_FIELDS:]
        is_known = until in _UNTIL
        use = UniqueUse(  # type: ignore[misc]  # `known` ends before `more`
            key,
            _UNTIL[until] if is_known else Until.ENDED,
            at_least,
            *known,
            more=encode(kept) if kept else None,
        )
        return Admission(
            uses, use, before, within, encode(more) if more else None, None if is_known else text
        )
    except UNREADABLE:
        return Admission(unread=text)


def _limit_use(key: str, cost: int, is_strict: int, *more: Any) -> LimitUse:  # noqa: ANN401 - JSON
    if type(key) is not str or type(cost) is not int:
        raise ValueError(key)
    return LimitUse(key, cost, bool(is_strict), encode([*more]) if more else None)


_NO_ADMISSION = Admission()
