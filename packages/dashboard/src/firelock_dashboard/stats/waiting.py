"""The reasons why a job is not running, derived from a snapshot without any I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

from firelock.control.findings import Readings, lacks_release, lacks_serializer
from firelock.storage import FINAL_STATES, JobRecord, State
from firelock_dashboard.web.formatting import instant, micros, short_id, span

if TYPE_CHECKING:
    from firelock import KeyPlace, KeyWait, ServerView

COUNTED = 25
"""The maximum number of jobs ahead for which those held by other limits are left out of the count."""
_NAMED = 10  # the maximum number of parents that are named per kind; other parents are only counted
_RECENT = 10.0  # a wait of fewer seconds needs no reason


class Weight(StrEnum):
    """The weight of a reason, which decides how it is shown."""

    BAD = "bad"  # the job does not run until a person acts
    WARN = "warn"  # the job might not run
    NOTE = "note"  # the job will run without help


@attrs.frozen
class Parent:
    """A job that another job waits for; its state and task are None if it is no longer stored."""

    id: str
    on: str
    state: State | None
    task: str | None = None
    call: str | None = None  # the call with its arguments, if the visitor may see them

    @property
    def name(self) -> str:
        """The name of the job in a sentence."""
        return self.call or f"job {self.id}"

    @property
    def is_met(self) -> bool:
        """Whether the other job no longer waits for this one."""
        if self.state is State.FAILED:
            return self.on in {"failed", "finished"}
        return self.state in FINAL_STATES


@attrs.frozen
class JobWait:
    """A snapshot of a job and of the queue, servers, parents and limits on which it depends."""

    job: JobRecord
    now: datetime
    is_paused: bool = False
    note: str | None = None  # the reason why the queue is paused
    servers: Sequence[ServerView] = ()
    ahead: int | None = None  # the number of enqueued jobs ahead of the job; None if they were not counted
    is_ahead_cut: bool = False  # whether `ahead` is a lower bound
    per_minute: float | None = None  # the number of recently ended jobs of the queue per minute
    parents: tuple[Parent, ...] = ()
    places: Sequence[KeyPlace] = ()  # the job's positions in the lines of its limits
    holders: Mapping[str, datetime] = attrs.field(factory=dict)  # start times of jobs that alone use a limit
    is_registered: bool | None = None  # whether any running server has registered the task; None if unknown

    @property
    def readings(self) -> Readings:
        """The servers at the time of the snapshot."""
        return Readings(micros(self.now), servers=self.servers)


@attrs.frozen
class Reason:
    """A sentence, given by its key in `job.toml` and its values, and the page for resolving the cause."""

    key: str
    weight: Weight
    values: Mapping[str, object] = attrs.field(factory=dict)
    path: str | None = None
    query: Mapping[str, str] = attrs.field(factory=dict)


def explain(at: JobWait) -> list[Reason]:
    """Return the reasons, those that require human action first; empty for a job that runs or has ended."""
    match at.job.state:
        case State.AWAITING if at.job.waits_for is not None:
            reasons = [_of_wait(at, at.job.waits_for)]
        case State.AWAITING:
            reasons = [*_of_parents(at)]
        case State.SCHEDULED:
            reasons = [*_of_schedule(at), *_of_queue(at)]
        case State.ENQUEUED:
            reasons = [*_of_task(at), *_of_queue(at), *(_of_limits(at) or _of_line(at))]
        case _:
            return []
    if at.job.is_stopping:
        reasons.append(Reason("why_tail", Weight.WARN, {"server": at.job.server or "–"}))
    order = list(Weight)
    return sorted(reasons, key=lambda reason: order.index(reason.weight))


def _of_wait(at: JobWait, waits_for: str) -> Reason:
    """Return the reason of a suspended job, which waits for a signal, a sleep or a call without a worker."""
    kind, _, name = waits_for.partition(" ")
    due_at = instant(at.job.due_at)
    if due_at is None:
        return Reason(f"why_{kind}", Weight.NOTE, {"name": name})
    left = span(max(0.0, (due_at - at.now).total_seconds()))
    return Reason(f"why_{kind}_until", Weight.NOTE, {"name": name, "span": left})


def _of_parents(at: JobWait) -> Iterator[Reason]:
    missing, failed, unended, met = by_end(at.parents)
    for key, weight, parents in (
        ("why_parent_gone", Weight.BAD, missing), ("why_parent_failed", Weight.BAD, failed),
        ("why_parent", Weight.NOTE, unended),
    ):  # fmt: skip
        for parent in parents[:_NAMED]:
            values = {"name": parent.name, "on": parent.on, "state": parent.state}
            yield Reason(key, weight, values, None if parent.state is None else f"/jobs/{parent.id}")
        if len(parents) > _NAMED:
            yield Reason(f"{key}_more", weight, {"count": len(parents) - _NAMED})
    if met:
        key = "why_parents_done" if len(met) < len(at.parents) else "why_parents_all"
        are_succeeded = all(parent.state is State.SUCCEEDED for parent in met)
        yield Reason(f"{key}{'' if are_succeeded else '_ended'}", Weight.NOTE, {"count": len(met)})
    relations = at.job.relations
    if at.parents or (relations is not None and relations.batch is not None):
        return
    if relations is not None and relations.batch_id is not None:
        yield Reason(
            "why_batch_unopened", Weight.NOTE, {"id": relations.batch_id}, f"/batches/{relations.batch_id}"
        )
    else:
        yield Reason("why_no_parent", Weight.BAD)


def by_end(parents: Sequence[Parent]) -> tuple[list[Parent], list[Parent], list[Parent], list[Parent]]:
    """Return the parents in four lists: not stored, failed, not ended, and ended as required."""
    missing, failed, unended, met = list[Parent](), list[Parent](), list[Parent](), list[Parent]()
    for parent in parents:
        if parent.state is None:
            missing.append(parent)
        elif parent.is_met:
            met.append(parent)
        else:
            (failed if parent.state is State.FAILED else unended).append(parent)
    return missing, failed, unended, met


def _of_schedule(at: JobWait) -> Iterator[Reason]:
    due_at = instant(at.job.due_at)
    left = None if due_at is None else (due_at - at.now).total_seconds()
    values: dict[str, object] = {
        "span": span(abs(left or 0)),
        "number": at.job.retries,
        "attempt": at.job.attempt,
    }
    if left is not None and left < -_RECENT:
        yield Reason("why_overdue", Weight.BAD, values, "/servers")
    elif at.job.waits_for is not None:
        yield _of_wait(at, at.job.waits_for)
    elif lacks_serializer(at.job):
        yield Reason("why_unreadable", Weight.BAD, {"serializer": at.job.serializer, **values}, "/servers")
    elif (part := lacks_release(at.job)) is not None:
        yield Reason("why_unread", Weight.BAD, {"part": part, **values}, "/servers")
    elif at.job.is_retrying:
        error = at.job.error
        values["error"] = f"{error.type}: {error.message[:200]}" if error else at.job.reason or "–"
        yield Reason("why_retry", Weight.NOTE, values)
    elif at.is_registered is False:
        yield Reason("why_unregistered", Weight.BAD, {"task": at.job.task}, "/tasks")
    else:
        yield Reason("why_due", Weight.NOTE, values)


def _of_task(at: JobWait) -> Iterator[Reason]:
    if at.is_registered is False:
        yield Reason("why_unregistered", Weight.BAD, {"task": at.job.task}, "/tasks")


def _of_queue(at: JobWait) -> Iterator[Reason]:
    queue = at.job.queue
    if at.is_paused:
        key = "why_paused_note" if at.note else "why_paused"
        yield Reason(key, Weight.BAD, {"queue": queue, "note": at.note}, "/queues")
    alive = at.readings.alive
    if not alive:
        yield Reason("why_no_servers", Weight.BAD, {}, "/servers")
        return
    listening = [one for one in alive if one.listens_to(queue)]
    if not listening:
        listeners = ", ".join(f"{one.name} ({one.queues})" for one in alive[:5])
        yield Reason("why_no_listener", Weight.BAD, {"queue": queue, "listeners": listeners}, "/servers")
    elif not at.readings.listening(queue):
        names = ", ".join(one.name for one in listening[:5])
        yield Reason("why_quiet", Weight.BAD, {"servers": names, "queue": queue}, "/servers")


def _of_limits(at: JobWait) -> list[Reason]:
    """Return a reason for each limit that delays the job, narrowest first, then the expected start time.

    The reason of a limit contains the job's position in line.
    """
    holding = sorted(
        ((place, place.wait) for place in at.places if place.wait is not None),
        key=lambda one: _narrowness(*one),
    )
    if not holding:
        return []
    reasons = [_of_limit(at, place, wait) for place, wait in holding]
    if len(holding) > 1 and not any(wait.is_paused or wait.concurrent == 0 for _, wait in holding):
        reasons.append(Reason("why_limit_each", Weight.NOTE))
    if all(
        place.starts_at is None and not (wait.is_paused or wait.concurrent == 0) for place, wait in holding
    ):
        bounds = [place.starts_by for place, _ in holding if place.starts_by is not None]
        if len(bounds) == len(holding):
            reasons.append(Reason("why_limit_within", Weight.NOTE, {"span": span(max(bounds) - at.now)}))
        else:
            reasons.append(Reason("why_limit_unknown", Weight.NOTE))
    return reasons


def _narrowness(place: KeyPlace, wait: KeyWait) -> tuple[bool, float, int]:
    """Return the sort key of a limit that delays a job: paused limits first, then the lowest limits."""
    concurrent = float("inf") if wait.concurrent is None else wait.concurrent
    return not wait.is_paused, concurrent, -(place.ahead or 0)


def _only_holder(at: JobWait, wait: KeyWait) -> str | None:
    """Return the running job whose end alone would make the limit available; None if there is none."""
    if wait.is_paused or wait.opens_in or len(wait.holders) != 1 or wait.concurrent != 1:
        return None
    return wait.holders[0] if wait.holders[0] in at.holders else None


def _of_limit(at: JobWait, place: KeyPlace, wait: KeyWait) -> Reason:
    """Return the sentence for one limit, with an estimate of the wait if one is possible."""
    key, values = "why_limit", dict[str, object](limit=str(wait))
    holder = _only_holder(at, wait)
    if holder is not None and not place.ahead:
        values |= {"job": short_id(holder), "ran": span(at.now - at.holders[holder])}
        key = "why_limit_job"
    elif place.ahead is not None:
        key, values["count"] = "why_limit_ahead" if place.ahead else "why_limit_next", place.ahead
        if place.ahead and place.is_least:
            key += "_least"
        elif place.ahead >= COUNTED and len(at.places) > 1 and (wait.is_behind or not wait.is_full):
            key += "_most"  # the count includes jobs that others overtake
    if place.ahead is not None and place.starts_at is not None:
        key, values["span"] = f"{key}_about", span(place.starts_at - at.now)
    if holder is not None and not place.ahead:
        return Reason(key, Weight.NOTE, values, f"/jobs/{holder}")
    weight = Weight.BAD if wait.is_paused else Weight.NOTE
    return Reason(key, weight, values, "/limits/key", {"key": place.key})


def _of_line(at: JobWait) -> Iterator[Reason]:
    listening = at.readings.listening(at.job.queue)
    if at.is_paused or not listening or at.is_registered is False:
        return
    query = {"state": "enqueued", "queue": at.job.queue}
    if at.ahead:
        key = "why_ahead_cut" if at.is_ahead_cut else "why_ahead"
        values: dict[str, object] = {"count": at.ahead, "queue": at.job.queue}
        if at.per_minute:
            values["span"] = span(60 * at.ahead / at.per_minute)
            key += "_rate"
        yield Reason(key, Weight.NOTE, values, "/jobs", query)
        return
    workers = sum(one.workers for one in listening)
    busy = sum(one.busy for one in listening)
    if workers and busy >= workers:
        yield Reason("why_busy", Weight.NOTE, {"count": workers}, "/servers")
    elif at.ahead == 0:
        yield Reason("why_next", Weight.NOTE, {"queue": at.job.queue})
