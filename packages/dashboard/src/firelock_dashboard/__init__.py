"""The dashboard of Firelock: see everything, fix anything, in one line.

`app.mount("/jobs", Dashboard(fire))` in FastAPI and Starlette; docs/dashboard.md tells of the others.
"""

from __future__ import annotations

from firelock_dashboard.access import LEVELS, Access, Auth, Level, Permission
from firelock_dashboard.auth import (
    any_of,
    basic_auth,
    bearer_tokens,
    django_staff,
    fastapi_dependency,
    flask_login,
    hash_password,
)  # fmt: skip
from firelock_dashboard.dashboard import Dashboard
from firelock_dashboard.extensions import JobPanel, Page
from firelock_dashboard.for_django import dashboard_urls

__all__ = [
    "LEVELS",
    "Access",
    "Auth",
    "Dashboard",
    "JobPanel",
    "Level",
    "Page",
    "Permission",
    "any_of",
    "basic_auth",
    "bearer_tokens",
    "dashboard_urls",
    "django_staff",
    "fastapi_dependency",
    "flask_login",
    "hash_password",
]
