"""Every route of the dashboard."""

from __future__ import annotations

from firelock_dashboard.pages import activity, extension, queues, system
from firelock_dashboard.routes import Route

__all__ = ["TABLE"]

TABLE: tuple[Route, ...] = (*queues.ROUTES, *activity.ROUTES, *system.ROUTES, *extension.ROUTES)
