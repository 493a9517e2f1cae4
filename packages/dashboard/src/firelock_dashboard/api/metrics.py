"""`/metrics`: the cluster's metrics for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from firelock import METRICS_TYPE, metrics_text
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from firelock_dashboard.web.request import Visit

__all__ = ["ROUTES"]


def show_metrics(visit: Visit) -> Response:
    text = metrics_text(visit.dashboard.gauges.families())
    return Response(text, media_type=METRICS_TYPE, headers={"Cache-Control": "no-store"})


ROUTES = (Route("GET", "/metrics", Permission.READ, show_metrics, is_api=True),)
