"""The pages that plugins add."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firelock_dashboard.access import Permission
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
    content = page.render(visit)
    return visit.page("extension.html", title=page.title, section=f"x:{page.name}", body=content)


ROUTES = (Route("GET", "/x/{name}", Permission.READ, show_page, None),)
