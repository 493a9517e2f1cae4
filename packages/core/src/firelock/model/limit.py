"""The limits, the unique key and the start deadline of a job, and the JSON in which they are stored."""

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
    """A limit key that a job holds while a server has the job, and the cost of the job's start."""

    key: str
    cost: int = 1  # units of the key's rate, at least 0
    is_strict: bool = False  # whether the job keeps the key from its first start to its end, across retries
    more: str | None = None  # fields of a newer release, as JSON; they are written back unchanged


class Until(StrEnum):
    """The time until which a job keeps its unique key; the value is the stored string."""

    STARTED = "started"  # until the job is claimed
    ENDED = "ended"  # until the job has succeeded, failed or was deleted, and no server is still running it
    SUCCEEDED = "succeeded"  # as above, but a failed job keeps the key
    DUE = "due"  # while the job is scheduled and has never been claimed; for debounced jobs


@attrs.frozen
class UniqueUse:
    """A key that only one job has at a time, and the effect of a call while another job has it."""

    key: str  # the stored key: the name that owns the task's unique keys, a space, and the key
    until: Until = Until.ENDED
    at_least: int = 0  # minimum duration for which the key is taken after the job took it, in microseconds
    keeps_last: bool = False  # whether the call's arguments, tags, priority and limits replace the job's
    raises: bool = False  # whether the call raises `DuplicateJob` instead of returning the other job
    wait: int | None = None  # microseconds by which each call delays a debounced job; None for other jobs
    max_wait: int | None = None  # the longest delay since the first call, in microseconds
    # Fields of a newer release, as JSON; written back unchanged. The other fields are read by position.
    more: str | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Admission:
    """The limits, the unique key and the start deadline of a job; most jobs have none of them."""

    limits: tuple[LimitUse, ...] = ()  # the limits whose keys, in this order, form the job's lane
    unique: UniqueUse | None = None
    start_before: int | None = (
        None  # deadline; a job that has not been claimed by then is deleted without a run
    )
    start_within: int | None = None  # deadline in microseconds after the job first became enqueued
    more: str | None = None  # fields of a newer release, as JSON; written back unchanged
    # The stored string, if this release cannot read all of it: see `read_admission`.
    unread: str | None = None


@attrs.frozen
class KeyState:
    """The jobs that hold a limit's key, and the number of jobs that wait for it."""

    key: str
    holders: tuple[str, ...]  # ids of jobs, at most 100, oldest first
    running: int  # number of jobs that hold the key, including strict jobs between two attempts
    waiting: int  # number of enqueued jobs with this key, at most 10,000
    next_arrival_at: int
    """The time up to which its rate is used, or the key is blocked: see `LimitSettings.opens_at`."""
    others: tuple[str, ...] = ()  # other keys of the jobs that wait for it, in order, at most 10


@attrs.frozen
class WaitingJobs:
    """A part of the line of jobs that wait for a limit's key."""

    ids: tuple[str, ...]  # ids of the waiting jobs, in order
    place: int | None = None  # number of jobs before the requested job; 10,000 means 10,000 or more
    is_cut: bool = False  # whether more lanes exist than a line includes, so that positions are lower bounds


@attrs.frozen
class UniqueState:
    """The job to which a unique key points; the job's fields determine whether it still has the key."""

    key: str
    job_id: str
    free_at: int  # time until which the key is taken, regardless of the job; 0 if there is none


def write_admission(admission: Admission) -> str | None:
    """Return the stored string for an admission; None if the admission is empty."""
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


_UNIQUE_NAMES = [field.name for field in attrs.fields(UniqueUse) if field.name != "more"]
_unique_fields = attrgetter(*_UNIQUE_NAMES)
_UNIQUE_FIELDS = len(_UNIQUE_NAMES)
_UNTIL = {until.value: until for until in Until}


def _kept(more: str | None) -> list[Any]:
    """Return the fields of a newer release, which are written back."""
    fields: list[Any] = json.loads(more) if more else []
    return fields


@lru_cache(maxsize=4_096)
def read_admission(text: str) -> Admission:
    """Return the admission that `write_admission` wrote; fields that a newer release appended are kept.

    This function never raises an exception, because a string that this release cannot read must not stop the
    processing of other jobs. For such a string, `unread` is set, and no server runs the job. If only the
    `until` of a unique key is unknown, the other fields are read, and the job keeps its key until it has
    ended. Otherwise the other fields of such a string are not used.
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
        use = UniqueUse(
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
