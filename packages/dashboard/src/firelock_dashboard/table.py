"""Every route of the dashboard."""

from __future__ import annotations

from firelock_dashboard.pages import (
    activity,
    extension,
    job_actions,
    jobs,
    overview,
    queues,
    servers,
    settings,
    system,
)
from firelock_dashboard.routes import Route

__all__ = ["TABLE"]

TABLE: tuple[Route, ...] = (
    *overview.ROUTES,
    *jobs.ROUTES,
    *job_actions.ROUTES,
    *queues.ROUTES,
    *activity.ROUTES,
    *servers.ROUTES,
    *settings.ROUTES,
    *system.ROUTES,
    *extension.ROUTES,
)
