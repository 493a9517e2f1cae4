"""The one table that maps each route to its permission and its view; nothing is reached past it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from firelock_dashboard.access import Permission

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock_dashboard.visit import Visit

__all__ = ["Parameter", "Route", "Routes"]

_PLACE = re.compile(r"\{([a-z_]+)(:path)?\}")


@attrs.frozen
class Parameter:
    """A field of a query or a form, for the description of the JSON API."""

    name: str
    doc: str
    kind: str = "string"  # string, integer, boolean, date-time, object or array (of strings)
    choices: tuple[str, ...] = ()
    is_required: bool = False


@attrs.frozen
class Route:
    """A method and a path below the mount, who may come, and what answers.

    A `{name}` in the path takes one segment, a last `{name:path}` all that is left.
    """

    method: str  # GET or POST; HEAD follows GET
    path: str
    permission: Permission
    view: Callable[[Visit], Response]
    is_personal: bool = False  # changes nothing but what the visitor sees; there on a read-only dashboard too
    is_api: bool = False  # answers JSON, its errors too
    summary: str = ""  # for the description of the JSON API
    parameters: tuple[Parameter, ...] = ()  # likewise

    @property
    def is_action(self) -> bool:
        """Tell whether it changes anything; a read-only dashboard has none of these."""
        return self.method != "GET" and not self.is_personal


class Routes:
    """Finds the route of a request."""

    def __init__(self, table: Sequence[Route]) -> None:
        self.table = tuple(table)
        self._patterns = [(_pattern(route.path), route) for route in self.table]

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | frozenset[str]:
        """Return the route and what its places took; else the methods that the path answers to, if any."""
        wanted = "GET" if method == "HEAD" else method
        others: set[str] = set()
        for pattern, route in self._patterns:
            if match := pattern.fullmatch(path):
                if route.method == wanted:
                    return route, match.groupdict()
                others.add(route.method)
        return frozenset(others)


def _pattern(path: str) -> re.Pattern[str]:
    parts, at = [], 0
    for place in _PLACE.finditer(path):
        parts += [re.escape(path[at : place.start()]), f"(?P<{place[1]}>{'.+' if place[2] else '[^/]+'})"]
        at = place.end()
    return re.compile("".join([*parts, re.escape(path[at:])]), re.DOTALL)
