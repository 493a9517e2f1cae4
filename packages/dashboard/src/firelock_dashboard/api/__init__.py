"""The JSON API under /api: everything that pages show and do, for programs.

/api/openapi.json describes it.
"""

from __future__ import annotations

from firelock_dashboard.api import act, openapi, read

__all__ = ["ROUTES"]

ROUTES = (*read.ROUTES, *act.ROUTES, *openapi.routes((*read.ROUTES, *act.ROUTES)))
