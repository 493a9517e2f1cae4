"""The dashboard of Firelock: see everything, fix anything, in one line.

`app.mount("/jobs", Dashboard(fire))` in FastAPI and Starlette; docs/dashboard.md tells of the others. Read
`app` (a request comes in; `routes` is how an address finds its view), `request` (what a view gets; `fields`
checks what was asked, `problems` can be wrong with it), `site` (what it finds there), then one of `pages/`,
such as that of queues. Who may come in is under `security/`, what counts and remembers under `stats/`, what
programs ask under `api/`.

What pages are made of: `rendering`, `texts`, `urls`, `assets`, `icons`, `formatting`, `charts`, `flow_graph`,
`tracebacks`, `payloads`; what they look up: `job_search`, `suggestions`, `waiting` (why a job is not
running). What they do: `actions`, and `operations` in the background; `event_stream` keeps them current. How
it is mounted and started: `frameworks`, `plugin`, `command`, whose server's `connections` are limited;
`extensions` and `hookspecs` are for plugins.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firelock_dashboard.app import Dashboard, dashboard_urls
    from firelock_dashboard.extensions import JobPanel, Page
    from firelock_dashboard.request import Visit
    from firelock_dashboard.security.auth import (
        any_of,
        django_permissions,
        django_staff,
        fastapi_dependency,
        flask_login,
    )
    from firelock_dashboard.security.passwords import basic_auth, bearer_tokens, hash_password
    from firelock_dashboard.security.permissions import LEVELS, Access, Auth, Level, Permission

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
    "extensions": ("JobPanel", "Page"),
    "request": ("Visit",),
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
    """Load a public name when it is first asked for: an app loads the plugin and no framework."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted(__all__)
