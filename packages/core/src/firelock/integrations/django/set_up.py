"""Forbid creating jobs while Django is being set up, because every process would create them again."""

from __future__ import annotations

from django.apps import apps

from firelock.jobs.client import Client

_REASON = (
    "while Django is being set up, because every process of the project, including manage.py check, would "
    "create this job. Move the call into a function."
)


def forbid_jobs_until_ready() -> None:
    """Forbid creating jobs in this process while Django imports apps, models and tasks."""
    if not apps.ready and _reason not in Client.creates_no_jobs:
        Client.creates_no_jobs.append(_reason)


def _reason() -> str | None:
    if apps.ready:
        Client.creates_no_jobs.remove(_reason)
        return None
    return _REASON if apps.loading else None  # a script can use the app without Django's models
