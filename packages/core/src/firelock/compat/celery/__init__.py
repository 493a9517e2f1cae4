"""Celery's way of writing tasks, on Firelock: for a program that moves, one import at a time. Experimental.

    from firelock.compat.celery import Celery, chain, crontab, get_task_logger, shared_task

`app.fire` is the Firelock app behind it: `firelock server shop.tasks:app.fire` takes the place of the
worker and of beat. What Celery has and this has not raises `NotMapped`, which says how it is written here.
Its page is docs/coming-from-celery.md.

Read `app` first, with the tasks; `canvas` has calls as values, `async_result` their ends, `beat` schedules
and `config` settings; `errors` is what is raised, `refused` what has no counterpart.
"""

from __future__ import annotations

import logging
from typing import NoReturn

from firelock.compat.celery.app import Celery, CeleryTask, shared_task
from firelock.compat.celery.async_result import AsyncResult, GroupResult
from firelock.compat.celery.beat import crontab, schedule
from firelock.compat.celery.canvas import chain, group
from firelock.compat.celery.errors import (
    CeleryError,
    Ignore,
    MaxRetriesExceededError,
    NotMapped,
    Retry,
    RunsTwiceWarning,
    TaskRevokedError,
    TimeoutError,  # noqa: A004 - its name in Celery
)
from firelock.compat.celery.refused import REFUSED_NAMES

__all__ = [
    "AsyncResult", "Celery", "CeleryError", "CeleryTask", "GroupResult", "Ignore", "MaxRetriesExceededError",
    "NotMapped", "Retry", "RunsTwiceWarning", "TaskRevokedError", "TimeoutError", "chain", "crontab",
    "get_task_logger", "group", "schedule", "shared_task",
]  # fmt: skip


def __getattr__(name: str) -> NoReturn:
    """Say how what is not here is written.

    Raises:
        NotMapped: Celery has it.
        AttributeError: nobody has.
    """
    if name in REFUSED_NAMES:
        raise NotMapped(f"{name} of Celery has no counterpart here: {REFUSED_NAMES[name]}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get_task_logger(name: str) -> logging.Logger:
    """Return the logger of a name; a job's records carry its id by themselves."""
    return logging.getLogger(name)
