"""The JSON API under /api: everything that pages show and do, for programs.

Read `read` and `act`, which name their routes at their ends, then `shapes`, which makes JSON of the core's
values; `openapi` describes all of it at /api/openapi.json. `metrics` is for Prometheus.
"""

from __future__ import annotations

from firelock_dashboard.api import act, openapi, read

ROUTES = (*read.ROUTES, *act.ROUTES, *openapi.routes((*read.ROUTES, *act.ROUTES)))
