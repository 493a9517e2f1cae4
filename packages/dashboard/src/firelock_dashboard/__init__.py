"""The dashboard of Firelock: see everything, fix anything, in one line.

`app.mount("/jobs", Dashboard(fire))` in FastAPI and Starlette; docs/dashboard.md tells of the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    from firelock_dashboard.visit import Visit

_HOMES = {
    "access": ("LEVELS", "Access", "Auth", "Level", "Permission"),
    "auth": (
        "any_of", "basic_auth", "bearer_tokens", "django_staff", "fastapi_dependency", "flask_login",
        "hash_password",
    ),
    "dashboard": ("Dashboard",),
    "extensions": ("JobPanel", "Page"),
    "for_django": ("dashboard_urls",),
    "visit": ("Visit",),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "LEVELS",
    "Access",
    "Auth",
    "Dashboard",
    "JobPanel",
    "Level",
    "Page",
    "Permission",
    "Visit",
    "any_of",
    "basic_auth",
    "bearer_tokens",
    "dashboard_urls",
    "django_staff",
    "fastapi_dependency",
    "flask_login",
    "hash_password",
]


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for: an app loads the plugin and no framework."""
    home = _HOME_OF.get(name)
    if home is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted(__all__)
