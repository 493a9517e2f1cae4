"""What a job spent its life with: waiting, running, backing off; to scale, out of its history; pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import attrs

from firelock.storage import FINAL_STATES, JobRecord, State
from firelock_dashboard.words import instant

if TYPE_CHECKING:
    from firelock import JobStep

__all__ = ["Phase", "Segment", "Step", "phases_of", "steps_of"]

_WAITS = {
    State.AWAITING: "awaiting",
    State.SCHEDULED: "scheduled",
    State.ENQUEUED: "enqueued",
    State.PROCESSING: "processing",
}
_LEAST = 0.4  # per cent of the bar that a segment has at least, so that it is seen


@attrs.frozen
class Segment:
    """One stretch of time."""

    kind: str  # awaiting, scheduled, enqueued, processing or retrying
    start: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.end - self.start).total_seconds()


@attrs.frozen
class Phase:
    """A segment on a bar that is 100 wide."""

    segment: Segment
    x: float
    width: float


@attrs.frozen
class Step:
    """A step of the history with what is told by its neighbours."""

    entry: JobStep
    since: float | None  # seconds since the step before; None for the first
    waited: float | None  # seconds from claim to start of the attempt that ended here
    took: float | None  # seconds that this attempt ran


def steps_of(history: Sequence[JobStep]) -> list[Step]:
    """Return the steps, newest first."""
    steps: list[Step] = []
    former: JobStep | None = None
    for entry in history:
        waited = took = None
        if entry.claimed_at is not None and entry.started_at is not None:
            waited = _seconds(entry.claimed_at, entry.started_at)
        if entry.started_at is not None:
            took = _seconds(entry.started_at, entry.at)
        since = None if former is None else _seconds(former.at, entry.at)
        steps.append(Step(entry, since, waited, took))
        former = entry
    return steps[::-1]


def _seconds(start: datetime, end: datetime) -> float:
    return max(timedelta(), end - start).total_seconds()


def phases_of(
    job: JobRecord, history: Sequence[JobStep], now: datetime, *, started_at: datetime | None = None
) -> list[Phase]:
    """Return the job's life as a bar: what lay between an end and a requeue is left out of it.

    `started_at` is when a running one started, where its record does not say so yet.
    """
    segments = _joined(_segments(job, history, now, instant(job.started_at) or started_at))
    whole = sum(one.seconds for one in segments)
    if whole <= 0:
        return []
    widths = [max(_LEAST, 100 * one.seconds / whole) for one in segments]
    scale = 100 / sum(widths)
    placed, x = list[Phase](), 0.0
    for segment, width in zip(segments, widths, strict=True):
        placed.append(Phase(segment, x, width * scale))
        x += width * scale
    return placed


def _segments(
    job: JobRecord, history: Sequence[JobStep], now: datetime, started_at: datetime | None
) -> list[Segment]:
    found: list[Segment] = []
    former: JobStep | None = None
    for entry in history:
        if former is not None and former.state not in FINAL_STATES:
            kind = _kind(former)
            if entry.attempt is not None:
                started = entry.started_at or entry.claimed_at or entry.at
                found += [Segment(kind, former.at, started), Segment("processing", started, entry.at)]
            else:
                found.append(Segment(kind, former.at, entry.at))
        former = entry
    if former is not None and not job.is_final and former.state not in FINAL_STATES:
        if job.state is State.PROCESSING:
            started = started_at or now
            found += [Segment(_kind(former), former.at, started), Segment("processing", started, now)]
        else:
            found.append(Segment(_kind(former), former.at, now))
    return [one for one in found if one.end > one.start]


def _kind(entry: JobStep) -> str:
    """Return what a job does from this entry on; a wait behind an attempt is a pause between two."""
    if entry.state is State.SCHEDULED and entry.attempt is not None:
        return "retrying"
    return _WAITS.get(entry.state, "enqueued")


def _joined(segments: Sequence[Segment]) -> list[Segment]:
    joined: list[Segment] = []
    for one in segments:
        if joined and joined[-1].kind == one.kind and joined[-1].end == one.start:
            joined[-1] = attrs.evolve(joined[-1], end=one.end)
        else:
            joined.append(one)
    return joined
