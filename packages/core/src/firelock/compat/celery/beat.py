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
            NotMapped: both day fields are restricted; Celery requires both to match, cron only one.
            ScheduleError: a field is wrong.
        """
        days = (self.day_of_month, self.day_of_week)
        if "*" not in days:
            raise NotMapped(
                f"{self} restricts both days: Celery fires where both match, cron where either does. Keep "
                "one of them, and return from the task on the other days."
            )
        fields = (self.minute, self.hour, self.day_of_month, self.month_of_year, self.day_of_week)
        return Cron(" ".join(fields), tz=timezone)


@attrs.frozen
class schedule:  # noqa: N801 - Celery's name
    """Celery's `schedule`: an interval in seconds, or a timedelta."""

    run_every: timedelta | float


def to_schedule(value: object, timezone: str) -> Cron | Every:
    """Return the schedule of a beat entry as one of Firelock's.

    Raises:
        NotMapped: it is of another kind, such as solar.
        ScheduleError: it is out of range.
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
        f"{shown(value)} is no schedule here; write crontab(…), a timedelta, seconds, or Firelock's Cron or "
        "Every."
    )
