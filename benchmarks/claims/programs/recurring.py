"""Huey's cron goes by the minute, Celery's beat keeps a file of its own, Taskiq adds schedules as it runs."""

from __future__ import annotations

import inspect

import celery.beat
import huey
import taskiq

assert next(iter(inspect.signature(huey.crontab).parameters)) == "minute"
assert "second" not in inspect.signature(huey.crontab).parameters
assert celery.Celery("claims").conf.beat_scheduler == "celery.beat:PersistentScheduler"  # a file of its own
assert inspect.iscoroutinefunction(taskiq.ScheduleSource.add_schedule)
print("crontab", inspect.signature(huey.crontab))
