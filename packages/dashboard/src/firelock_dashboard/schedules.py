"""Schedules as a form writes and reads them, and what their policies mean in words."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

import attrs

from firelock import Cron, Every, ScheduleError

if TYPE_CHECKING:
    from firelock import Misfire, Overlap

__all__ = ["Policies", "read_schedule", "schedule_text", "zone_of"]

_EVERY = re.compile(
    r"every\s+(?P<number>\d{1,9}(?:\.\d{1,6})?)?\s*(?P<unit>s|m|min|h|d|w|seconds?|minutes?|hours?|days?|weeks?)",
    re.IGNORECASE,
)
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_CRON = 1_000  # characters; the reader of cron has a limit of its own


@attrs.frozen
class Policies:
    """What a schedule says besides when."""

    overlap: Overlap | str
    misfire: Misfire | str


def read_schedule(
    text: str, zone: str, policies: Policies, before: Cron | Every | None = None
) -> Cron | Every:
    """Return the schedule of `0 2 * * *` in a zone, or of `every 5m`, which knows no zone.

    What no form asks for stays as it was before: the limit of misfires, the anchor of a span.

    Raises:
        ScheduleError: it cannot be read.
    """
    limit = 100 if before is None else before.misfire_limit
    overlap, misfire = str(policies.overlap), str(policies.misfire)
    if span := _EVERY.fullmatch(text.strip()):
        interval = timedelta(seconds=float(span["number"] or 1) * _UNITS[span["unit"][0].lower()])
        anchor = before.anchor if isinstance(before, Every) else None
        every = Every(interval, misfire=misfire, misfire_limit=limit, overlap=overlap)
        return every if anchor is None else attrs.evolve(every, anchor=anchor)
    if len(text) > _CRON:
        message = f"schedule has {len(text):,} characters; a cron expression has at most {_CRON:,}."
        raise ScheduleError(message)
    return Cron(text, tz=zone or "UTC", misfire=misfire, misfire_limit=limit, overlap=overlap)


def schedule_text(schedule: Cron | Every) -> str:
    """Return what `read_schedule` reads as an equal schedule, but for zone and policies."""
    if isinstance(schedule, Cron):
        return schedule.expression
    for unit in ("w", "d", "h", "m"):
        number, rest = divmod(schedule.interval, timedelta(seconds=_UNITS[unit]))
        if not rest:
            return f"every {number}{unit}"
    seconds = f"{schedule.interval.total_seconds():.6f}".rstrip("0").rstrip(".")
    return f"every {seconds}s"


def zone_of(schedule: Cron | Every) -> str | None:
    """Return the zone whose clocks it follows; None where it follows none."""
    return schedule.tz if isinstance(schedule, Cron) else None
