"""The navigation alone: every page has it, and it keeps itself current at an address of its own.

The page's own address would not do: a page may be the answer to a form, or show what is gone by now.
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

_SECTION = Text("section", limit=250, default="")  # a page of a plugin is named in it


def show_navigation(visit: Visit) -> Response:
    """The sections with their counts, the one that the page belongs to marked; a part of other pages."""
    if visit.part != "nav":
        raise NotHere(visit.text("shared.no_part", part=visit.part or ""))
    section = visit.query.value(_SECTION)
    return visit.page("base.html", title=visit.text("shared.navigation"), section=section)


ROUTES = (Route("GET", "/navigation", Permission.READ, show_navigation, (_SECTION,)),)
