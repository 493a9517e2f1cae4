"""Celery's schedules as Firelock's: `crontab`, `schedule`, timedeltas and seconds."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import attrs

from firelock.compat.celery.errors import NotMapped
from firelock.model.text import shown
from firelock.schedules.cron import Cron, Every

_Field = str | int | Iterable[int]


def _to_field(value: _Field) -> str:
    if isinstance(value, str):
        return "".join(value.split()) or "*"
    return str(value) if isinstance(value, int) else ",".join(str(each) for each in sorted(value))


@attrs.frozen
class crontab:  # noqa: N801 - Celery's name
    """Celery's `crontab`: five fields, each a string, a number or a list of numbers."""

    minute: str = attrs.field(default="*", converter=_to_field)
    hour: str = attrs.field(default="*", converter=_to_field)
    day_of_week: str = attrs.field(default="*", converter=_to_field)
    day_of_month: str = attrs.field(default="*", converter=_to_field)
    month_of_year: str = attrs.field(default="*", converter=_to_field)

    def to_cron(self, timezone: str) -> Cron:
        """Return the schedule that fires at the same times.

        Raises:
            NotMapped: If both day fields are restricted, because Celery requires both to match, but cron only
                one of them.
            ScheduleError: If a field is invalid.
        """
        days = (self.day_of_month, self.day_of_week)
        if "*" not in days:
            raise NotMapped(
                f"{self} restricts both day fields: Celery fires if both match, but cron if either matches. "
                "Use only one of them, and return from the task on other days."
            )
        fields = (self.minute, self.hour, self.day_of_month, self.month_of_year, self.day_of_week)
        return Cron(" ".join(fields), tz=timezone)


@attrs.frozen
class schedule:  # noqa: N801 - Celery's name
    """Celery's `schedule`: an interval in seconds, or a timedelta."""

    run_every: timedelta | float


def to_schedule(value: object, timezone: str) -> Cron | Every:
    """Return the schedule of a beat entry as a schedule of Firelock.

    Raises:
        NotMapped: If the schedule is of another kind, such as solar.
        ScheduleError: If the schedule is out of range.
    """
    match value:
        case crontab():
            return value.to_cron(timezone)
        case schedule():
            return to_schedule(value.run_every, timezone)
        case timedelta():
            return Every(value)
        case bool():
            pass
        case int() | float():
            return Every(timedelta(seconds=value))
        case Cron() | Every():
            return value
    raise NotMapped(
        "A schedule must be a crontab(…), a timedelta, a number of seconds, or Firelock's Cron or Every, got "
        f"{shown(value)}."
    )
