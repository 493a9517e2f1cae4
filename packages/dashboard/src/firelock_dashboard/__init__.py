"""The dashboard of Firelock, a web application that shows and changes jobs, queues and servers.

`app.mount("/jobs", Dashboard(fire))` mounts it in FastAPI and Starlette; docs/dashboard.md describes the
other frameworks.

Read `app` first, which receives each request, then `web/` (the code between a request and a page) and one
module of `pages/`. `site` holds the objects that all pages of one dashboard share.
`stats/` computes the numbers that pages show, `security/` decides what each visitor may see and do, and
`api/` serves programs. `problems` contains the exceptions for refused requests, and `hookspecs` the hooks.
The command line finds the dashboard through `plugin` and starts it through `command`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firelock_dashboard.app import Dashboard, dashboard_urls
    from firelock_dashboard.security.auth import (
        any_of,
        django_permissions,
        django_staff,
        fastapi_dependency,
        flask_login,
    )
    from firelock_dashboard.security.passwords import basic_auth, bearer_tokens, hash_password
    from firelock_dashboard.security.permissions import LEVELS, Access, Auth, Level, Permission
    from firelock_dashboard.web.extensions import JobPanel, Page
    from firelock_dashboard.web.request import Visit

_HOMES = {
    "security.permissions": ("LEVELS", "Access", "Auth", "Level", "Permission"),
    "security.auth": (
        "any_of",
        "django_permissions",
        "django_staff",
        "fastapi_dependency",
        "flask_login",
    ),
    "security.passwords": ("basic_auth", "bearer_tokens", "hash_password"),
    "app": ("Dashboard", "dashboard_urls"),
    "web.extensions": ("JobPanel", "Page"),
    "web.request": ("Visit",),
}
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
    "django_permissions",
    "django_staff",
    "fastapi_dependency",
    "flask_login",
    "hash_password",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that importing the plugin imports no framework."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    """Return the public names, including those that are not imported yet."""
    return sorted(__all__)
