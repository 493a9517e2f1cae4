"""Links from pages of the admin to the dashboard in the project."""

from __future__ import annotations

from urllib.parse import urlencode

from django.urls import NoReverseMatch, reverse


def dashboard_link(path: str = "", **query: str) -> str | None:
    """Return the URL of a page of the dashboard; None if no urlpatterns contain `dashboard_urls`."""
    try:
        address = str(reverse("firelock:dashboard", kwargs={"path": path}))
    except NoReverseMatch:
        return None
    return f"{address}?{urlencode(query)}" if query else address


def may_see_jobs(user: object) -> bool:
    """Return whether a user has one of the permissions for jobs."""
    names = ("view_jobs", "operate_jobs", "administer_jobs")
    return any(user.has_perm(f"firelock.{name}") for name in names)  # type: ignore[attr-defined]
