"""A schedule is one value; it turns into instants without reading a clock.

`Cron` and `Every` say when, `schedule.due_instants` says which instants a recurring job owes at a given
moment. Only this package imports croniter, and only when the first cron expression is read. Read `schedule`,
then `grammar` (what the text means) and `timezones` (what clocks do to it).
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
