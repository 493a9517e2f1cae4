"""The dashboard of Firelock: see everything, fix anything, in one line.

`app.mount("/jobs", Dashboard(fire))` in FastAPI and Starlette; docs/dashboard.md tells of the others.
"""

from __future__ import annotations

from firelock_dashboard.access import LEVELS, Access, Permission
from firelock_dashboard.dashboard import Auth, Dashboard
from firelock_dashboard.for_django import dashboard_urls

__all__ = ["LEVELS", "Access", "Auth", "Dashboard", "Permission", "dashboard_urls"]
