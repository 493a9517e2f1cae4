"""Every route of the dashboard."""

from __future__ import annotations

from firelock_dashboard import api
from firelock_dashboard.pages import (
    activity,
    extension,
    failures,
    job,
    job_actions,
    jobs,
    navigation,
    overview,
    queues,
    recurring,
    recurring_forms,
    search,
    servers,
    settings,
    system,
    tasks,
)
from firelock_dashboard.routes import Route

__all__ = ["TABLE"]

TABLE: tuple[Route, ...] = (
    *overview.ROUTES,
    *navigation.ROUTES,
    *search.ROUTES,
    *jobs.ROUTES,
    *job_actions.ROUTES,
    *job.ROUTES,
    *failures.ROUTES,
    *queues.ROUTES,
    *recurring.ROUTES,
    *recurring_forms.ROUTES,
    *activity.ROUTES,
    *servers.ROUTES,
    *settings.ROUTES,
    *system.ROUTES,
    *tasks.ROUTES,
    *api.ROUTES,
    *extension.ROUTES,
)
