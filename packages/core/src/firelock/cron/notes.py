"""What a change of clocks does to an instant of a schedule, in English words."""

from __future__ import annotations

from datetime import datetime, timedelta

from firelock.cron.timetable import Timetable

__all__ = ["note_on"]

_SECOND = timedelta(seconds=1)
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def note_on(timetable: Timetable, at: datetime) -> str | None:
    """Return the note on an instant at which the timetable fires; None where no clock was changed."""
    return _note_on_gap(timetable, at) or _note_on_overlap(timetable, at)


def _note_on_gap(timetable: Timetable, at: datetime) -> str | None:
    before = (at - _SECOND).astimezone(timetable.zone).replace(tzinfo=None, fold=0) + _SECOND
    here = at.astimezone(timetable.zone).replace(tzinfo=None, fold=0)
    skipped = timetable.walls.count(before, here) if before < here else 0
    if not skipped:
        return None
    first = timetable.walls.at_or_after(before) or before
    if skipped > 1:
        gap = f"{_clock(before)} to {_clock(here)} does not exist on {_day(first)}"
        return f"{gap}: its {skipped:,} times run once, at {_clock(here)}"
    runs_anyway = timetable.walls.count(here, here + _SECOND)
    outcome = f"the run at {_clock(here)} stands for it" if runs_anyway else f"runs at {_clock(here)}"
    return f"{_clock(first)} does not exist on {_day(first)}: {outcome}"


def _note_on_overlap(timetable: Timetable, at: datetime) -> str | None:
    here = at.astimezone(timetable.zone)
    if here.replace(fold=0).utcoffset() == here.replace(fold=1).utcoffset():
        return None
    comes_twice = f"{_clock(here)} comes twice on {_day(here)}"
    if not timetable.walls.fields.is_interval:
        return f"{comes_twice}: runs once, the first time"
    return f"{comes_twice}: runs both times, this is the {'second' if here.fold else 'first'}"


def _clock(wall: datetime) -> str:
    return f"{wall:%H:%M:%S}" if wall.second else f"{wall:%H:%M}"


def _day(wall: datetime) -> str:
    return f"{wall.day} {_MONTHS[wall.month - 1]}"
