"""What plugins add: pages in the navigation, and panels on a job's page."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from firelock import PluginError
from firelock_dashboard.access import Permission

if TYPE_CHECKING:
    from firelock import Firelock, Job
    from firelock_dashboard.visit import Visit

__all__ = ["JobPanel", "Page", "pages_of"]

_NAME = re.compile(r"[a-z0-9-]{1,40}\Z")


@attrs.frozen
class Page:
    """A page of a plugin, at `/x/<name>` and in the navigation: what `dashboard_pages` returns.

    `render` gets the visit and returns the content: a `markupsafe.Markup` as it is, any other text escaped.
    The content security policy holds there as well: no inline script, no style attribute.
    """

    name: str  # of its address: a to z, 0 to 9 and dashes
    title: str
    render: Callable[[Visit], str]
    permission: Permission = Permission.READ


@attrs.frozen
class JobPanel:
    """A card on a job's page: what `job_panels` returns. `render` as for `Page`."""

    title: str
    render: Callable[[Visit, Job[object]], str]


def pages_of(fire: Firelock) -> list[Page]:
    """Return the pages that the app's plugins offer, in the order of the plugins.

    Raises:
        PluginError: what a plugin offers is no page, or two have one name.
    """
    found: dict[str, Page] = {}
    for page in fire.plugins.dashboard_pages():
        if not isinstance(page, Page):
            message = f"A plugin's dashboard_pages() returned {page!r}; return Page objects."
            raise PluginError(message)
        if not _NAME.match(page.name) or page.name in found:
            message = f"The dashboard page name {page.name!r} is taken or refused; use a-z, 0-9 and dashes."
            raise PluginError(message)
        found[page.name] = page
    return list(found.values())
