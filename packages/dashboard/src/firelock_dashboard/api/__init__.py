"""The JSON API under /api: everything that pages show and do, for programs.

/api/openapi.json describes it.
"""

from __future__ import annotations

from firelock_dashboard.api import acting, description, reading

__all__ = ["ROUTES"]

ROUTES = (*reading.ROUTES, *acting.ROUTES, *description.routes((*reading.ROUTES, *acting.ROUTES)))
