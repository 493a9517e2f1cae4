"""Schedules, which are values that compute due times without reading a clock.

`Cron` and `Every` are schedules. `schedule.due_instants` returns the due times for which a recurring job must
run at a given time. Only this package imports croniter, and only when the first cron expression is parsed.
Read `schedule` first, then `grammar` (the syntax of expressions) and `timezones` (the effect of clock
changes).
"""

from __future__ import annotations

from firelock.schedules.cron.schedule import (
    Cron,
    Every,
    Firing,
    Misfire,
    Overlap,
    Schedule,
    due_instants,
    parse_schedule,
    schedule_from_json,
    schedule_to_json,
)

__all__ = [
    "Cron",
    "Every",
    "Firing",
    "Misfire",
    "Overlap",
    "Schedule",
    "due_instants",
    "parse_schedule",
    "schedule_from_json",
    "schedule_to_json",
]
