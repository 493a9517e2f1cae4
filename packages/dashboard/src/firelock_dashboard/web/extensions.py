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

    `render` receives the visit and returns the content. A `markupsafe.Markup` is used unchanged; any other
    string is escaped. The content security policy also applies here, so browsers ignore inline scripts and
    style attributes.
    """

    name: str  # part of the URL: a to z, 0 to 9 and dashes
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
    """The valid pages of plugins, and the problems of the invalid ones."""

    pages: Sequence[Page]
    problems: Sequence[str]
    owners: Mapping[str, str]  # the plugin of each page, by the page's name


def plugin_pages(fire: Firelock) -> PluginPages:
    """Return the pages of the app's plugins, in the order of the plugins.

    An invalid page is left out, and its problem is logged; the other pages are not affected.
    """
    found: dict[str, Page] = {}
    owners: dict[str, str] = {}
    problems: list[str] = []
    for answer in fire.plugins.results("dashboard_pages"):
        if answer.error is not None:
            problems.append(str(answer.error))
            log.error("%s The plugin's pages are left out.", answer.error, exc_info=answer.error)
        for page in answer.offered:
            problem = _problem_of(page, found)
            if problem is None and isinstance(page, Page):
                found[page.name] = attrs.evolve(page, title=str.__str__(page.title))
                owners[page.name] = answer.plugin
            else:
                problems.append(
                    str(fire.plugins.fault(answer.plugin, f"provides an invalid page: {problem}"))
                )
                log.error("%s This page is left out.", problems[-1])
    return PluginPages(list(found.values()), problems, owners)


def _problem_of(page: object, found: Container[str]) -> str | None:
    """Return the reason why a page is invalid, or None if it is valid."""
    if not isinstance(page, Page):
        return f"dashboard_pages() returned a {type(page).__name__}; return Page objects."
    if not isinstance(page.name, str) or not _NAME.match(page.name) or page.name in found:
        return (
            f"the name {page.name!r:.80} is invalid or not unique; use another name of a-z, 0-9 and dashes."
        )
    if not isinstance(page.title, str) or not 0 < len(page.title.strip()) <= _TITLE:
        return f"the title of {page.name!r} must be a string of 1 to {_TITLE} characters; set one."
    if not callable(page.render) or not isinstance(page.permission, Permission):
        return f"{page.name!r} must have a function render and a Permission; set both."
    return None


def route_of(page: Page, plugin: str) -> Route:
    """Return the route of a plugin's page in the dashboard's page frame; the query is not checked."""

    def show(visit: Visit) -> Response:
        body, is_bad = rendered(visit, lambda: page.render(visit), f"Plugin {plugin!r}: the page {page.name}")
        return visit.page(
            "extension.html", title=page.title, section=f"x:{page.name}", body=body, is_bad=is_bad,
            status=500 if is_bad else 200,
        )  # fmt: skip

    return Route("GET", f"/x/{page.name}", page.permission, show, None)


def rendered(visit: Visit, make: Callable[[], object], name: str) -> tuple[str, bool]:
    """Return a plugin function's output and False, or its problem and True if the function fails.

    Raises:
        RequestProblem: If the function refuses the request.
    """
    try:
        content = make()
        if isinstance(content, str):
            return content, False
        problem = f"render must return a string, got a {type(content).__name__}."
    except RequestProblem:
        raise
    except (Exception, SystemExit) as error:  # a plugin must not end the server
        log.exception("%s raised an error; showing the error instead of the content.", name)
        problem = f"{type(error).__name__}: {_words(error)}"
    return visit.redacted(problem)[:1_000], True


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a class of other code
        return "its message cannot be read"
