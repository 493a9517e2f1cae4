"""The navigation, which every page contains and updates from a separate URL.

The page's own URL is not suitable, because a page may be the response to a form, or show a deleted object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from firelock_dashboard.problems import NotHere
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.fields import Text
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock_dashboard.web.request import Visit

_SECTION = Text("section", limit=250, default="")  # a section's name, which may be that of a plugin's page


def show_navigation(visit: Visit) -> Response:
    """Show the sections with their counts, as a part of a page; the page's own section is marked."""
    if visit.part != "nav":
        raise NotHere(visit.text("shared.no_part", part=visit.part or ""))
    section = visit.query.value(_SECTION)
    return visit.page("base.html", title=visit.text("shared.navigation"), section=section)


ROUTES = (Route("GET", "/navigation", Permission.READ, show_navigation, (_SECTION,)),)
