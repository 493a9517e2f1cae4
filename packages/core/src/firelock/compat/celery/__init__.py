"""Celery's interface, built on Firelock, for programs that migrate one import at a time. Experimental.

    from firelock.compat.celery import Celery, chain, crontab, get_task_logger, shared_task

`app.fire` is the underlying Firelock app: `firelock server shop.tasks:app.fire` replaces the worker and beat.
A feature of Celery without a counterpart raises `NotMapped`, whose message contains the replacement. See
docs/coming-from-celery.md.

Read `app` first: it contains the app and the tasks. `canvas` contains calls that are used as values,
`async_result` their results, `beat` the schedules and `config` the settings. `errors` contains the
exceptions, and `refused` the names without a counterpart.
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
    """Raise an error for a missing name; its message contains the replacement.

    Raises:
        NotMapped: If Celery has the name.
        AttributeError: If Celery does not have the name either.
    """
    if name in REFUSED_NAMES:
        raise NotMapped(f"{name} of Celery has no counterpart: {REFUSED_NAMES[name]}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get_task_logger(name: str) -> logging.Logger:
    """Return the logger with this name; log records of a job contain the job's id automatically."""
    return logging.getLogger(name)
