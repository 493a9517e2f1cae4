"""Huey's cron has a resolution of a minute, Celery's beat its own file, Taskiq adds schedules at run time."""

from __future__ import annotations

import inspect

import celery.beat
import huey
import taskiq

assert next(iter(inspect.signature(huey.crontab).parameters)) == "minute"
assert "second" not in inspect.signature(huey.crontab).parameters
assert celery.Celery("claims").conf.beat_scheduler == "celery.beat:PersistentScheduler"  # its own file
assert inspect.iscoroutinefunction(taskiq.ScheduleSource.add_schedule)
print("crontab", inspect.signature(huey.crontab))
