"""The Settings page, on which visitors sign out and change the appearance of pages in their browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse

from firelock_dashboard.problems import BadRequest, NotHere
from firelock_dashboard.security.links import ENTER
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.fields import Choice
from firelock_dashboard.web.request import SETTINGS
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock_dashboard.web.request import Visit


_FIELDS = tuple(Choice(name, choices=choices) for name, choices in SETTINGS.items())


def show_settings(visit: Visit) -> Response:
    """Show the possible settings and the current ones."""
    return visit.page("settings.html", choices=SETTINGS)


def save_settings(visit: Visit) -> Response:
    """Store the sent settings; the other settings do not change."""
    changes = {field.name: visit.form.value(field) for field in _FIELDS if field in visit.form}
    if not changes:
        raise BadRequest(f"The form contains no setting; send at least one of {', '.join(SETTINGS)}.")
    response = visit.done(visit.text("settings.saved"), to="/settings")
    visit.keep_settings(response, changes)
    return response


def sign_out(visit: Visit) -> Response:
    """End the visitor's session, so that neither its cookie nor a copy of the cookie is valid.

    Raises:
        NotHere: If the dashboard has an `auth=`, which has its own sessions.
    """
    if not visit.dashboard.has_sessions:
        raise NotHere(visit.text("settings.no_session"))
    response = RedirectResponse(visit.url(ENTER, ended=1), 303)
    for name in visit.dashboard.links.end(visit.request):
        visit.clear_cookie(response, name)
    return response


ROUTES = (
    Route("GET", "/settings", Permission.READ, show_settings),
    Route("POST", "/settings", Permission.READ, save_settings, form=_FIELDS, is_personal=True),
    Route("POST", "/sign-out", Permission.READ, sign_out, is_personal=True),
)
