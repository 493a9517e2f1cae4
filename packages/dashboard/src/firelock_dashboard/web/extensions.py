"""Pages and panels of plugins: pages in the navigation, and panels on a job's page."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from firelock_dashboard.problems import RequestProblem
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import Firelock, Job
    from firelock_dashboard.web.request import Visit

log = logging.getLogger(__name__)

_TITLE = 80
_NAME = re.compile(r"[a-z0-9-]{1,40}\Z")


@attrs.frozen
class Page:
    """A page of a plugin, at `/x/<name>` and in the navigation; `dashboard_pages` returns such objects.

    `render` receives the visit and returns the content: a `markupsafe.Markup` is used unchanged, any other
    string is escaped. The content security policy applies there too: no inline scripts, no style attributes.
    """

    name: str  # for its URL: a to z, 0 to 9 and dashes
    title: str
    render: Callable[[Visit], str]
    permission: Permission = Permission.READ


@attrs.frozen
class JobPanel:
    """A card on a job's page; `job_panels` returns such objects.

    `render` works as for `Page`.
    """

    title: str
    render: Callable[[Visit, Job[object]], str]


@attrs.frozen
class PluginPages:
    """The pages of plugins that can be shown, and the problems of the others."""

    pages: Sequence[Page]
    problems: Sequence[str]
    owners: Mapping[str, str]  # the plugin of each page, by the page's name


def plugin_pages(fire: Firelock) -> PluginPages:
    """Return the pages of the app's plugins, in the order of the plugins.

    A page that cannot be shown is left out, and its problem is logged; the other pages are not affected.
    """
    found: dict[str, Page] = {}
    owners: dict[str, str] = {}
    problems: list[str] = []
    for answer in fire.plugins.answers("dashboard_pages"):
        if answer.error is not None:
            problems.append(str(answer.error))
            log.error("%s Its pages are left out.", answer.error, exc_info=answer.error)
        for page in answer.offered:
            problem = _problem_of(page, found)
            if problem is None and isinstance(page, Page):
                found[page.name] = attrs.evolve(page, title=str.__str__(page.title))
                owners[page.name] = answer.plugin
            else:
                problems.append(str(fire.plugins.fault(answer.plugin, f"offers a wrong page: {problem}")))
                log.error("%s This page is left out.", problems[-1])
    return PluginPages(list(found.values()), problems, owners)


def _problem_of(page: object, found: Container[str]) -> str | None:
    """Return the reason why a page cannot be shown, or None."""
    if not isinstance(page, Page):
        return f"dashboard_pages() returned a {type(page).__name__}; return Page objects."
    if not isinstance(page.name, str) or not _NAME.match(page.name) or page.name in found:
        return f"the name {page.name!r:.80} is taken or refused; use a-z, 0-9 and dashes."
    if not isinstance(page.title, str) or not 0 < len(page.title.strip()) <= _TITLE:
        return f"{page.name!r} has no title of 1 to {_TITLE} characters; give one."
    if not callable(page.render) or not isinstance(page.permission, Permission):
        return f"{page.name!r} has no function render, or no Permission; give both."
    return None


def route_of(page: Page, plugin: str) -> Route:
    """Return the route of a plugin's page, with the common page frame; its query is not checked."""

    def show(visit: Visit) -> Response:
        body, is_bad = rendered(visit, lambda: page.render(visit), f"Plugin {plugin!r}: the page {page.name}")
        return visit.page(
            "extension.html", title=page.title, section=f"x:{page.name}", body=body, is_bad=is_bad,
            status=500 if is_bad else 200,
        )  # fmt: skip

    return Route("GET", f"/x/{page.name}", page.permission, show, None)


def rendered(visit: Visit, make: Callable[[], object], name: str) -> tuple[str, bool]:
    """Return the output of a plugin's function, and False; if the function fails, the problem and True.

    Raises:
        RequestProblem: the function refuses the request.
    """
    try:
        content = make()
        if isinstance(content, str):
            return content, False
        problem = f"render returned a {type(content).__name__}; return a text."
    except RequestProblem:
        raise
    except (Exception, SystemExit) as error:  # a page must not end the server
        log.exception("%s raised an error, which is shown in its place.", name)
        problem = f"{type(error).__name__}: {_words(error)}"
    return visit.redacted(problem)[:1_000], True


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a class of other code
        return "its message cannot be read"
