"""The JSON API under /api, with which programs can read and change everything that pages can.

Read `read` and `act`, which list their routes at the end, then `shapes`, which converts the core's values to
JSON. `openapi` describes the API at /api/openapi.json. `metrics` serves the metrics for Prometheus.
"""

from __future__ import annotations

from firelock_dashboard.api import act, openapi, read

ROUTES = (*read.ROUTES, *act.ROUTES, *openapi.routes((*read.ROUTES, *act.ROUTES)))
