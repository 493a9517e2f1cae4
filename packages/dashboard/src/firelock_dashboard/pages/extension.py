"""The pages that plugins add."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firelock_dashboard.access import Permission
from firelock_dashboard.extensions import rendered
from firelock_dashboard.problems import NotHere
from firelock_dashboard.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock_dashboard.visit import Visit

__all__ = ["ROUTES"]


def show_page(visit: Visit) -> Response:
    """A plugin's page, in the frame of all the others."""
    wanted = visit.places["name"]
    page = next((page for page in visit.dashboard.plugin_pages if page.name == wanted), None)
    if page is None:
        raise NotHere(visit.text("shared.no_page", path=f"/x/{wanted}"))
    visit.require(page.permission)
    body, is_bad = rendered(visit, lambda: page.render(visit), f"The page {page.name}")
    return visit.page(
        "extension.html", title=page.title, section=f"x:{page.name}", body=body, is_bad=is_bad,
        status=500 if is_bad else 200,
    )  # fmt: skip


ROUTES = (Route("GET", "/x/{name}", Permission.READ, show_page, None),)
