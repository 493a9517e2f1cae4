"""Routes, and the search for the route of a path.

`TABLE` in `app` lists all routes; no other paths are reachable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs

from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.fields import Field, Flag, Text

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock_dashboard.web.request import Visit

_PLACE = re.compile(r"\{([a-z_]+)(:path)?\}")


BACK = Text("back", limit=4_000, may_be_empty=True)
"""The target after an action."""

SURE = Flag("sure")
"""Whether the visitor has confirmed the action."""

PART = Text("part")
"""The region of a page that is requested alone."""


def _check_declared(route: Route, attribute: attrs.Attribute[Any], fields: Sequence[object] | None) -> None:
    """Raise a TypeError for a field without a declared type, because its values would not be checked."""
    for field in fields or ():
        if not isinstance(field, Field):
            raise TypeError(
                f"{attribute.name} of {route.method} {route.path} must contain only Field objects, got "
                f"{field!r}; declare it as a Field."
            )


@attrs.frozen(slots=False)
class Route:
    """A method and a path below the mount, with the required permission and the view.

    A `{name}` in the path matches one segment; a final `{name:path}` matches the rest of the path. The fields
    of a request are checked before the view runs. An undeclared field, or a value of another type, results in
    a 400.
    """

    method: str  # GET or POST; a GET route also accepts HEAD
    path: str
    permission: Permission
    view: Callable[[Visit], Response]
    query: tuple[Field[Any], ...] | None = attrs.field(  # None for a plugin's view, which may read any field
        default=(), validator=_check_declared
    )
    form: tuple[Field[Any], ...] = attrs.field(default=(), validator=_check_declared)  # fields of the body
    is_personal: bool = False  # only changes the visitor's own view; also exists on a read-only dashboard
    is_api: bool = False  # whether all responses are JSON, including errors
    is_strict: bool = False  # whether no field may be empty, as in the API
    shows_problems: bool = False  # whether the view shows a value of the wrong type next to its form field
    summary: str = ""  # the summary in the description of the JSON API
    parameters: tuple[Field[Any], ...] = attrs.field(default=(), validator=_check_declared)  # in the JSON API

    @cached_property
    def query_fields(self) -> tuple[Field[Any], ...] | None:
        """The fields that the query may have; None for any."""
        if self.query is None:
            return None
        common = () if self.is_api or self.method != "GET" else (PART,)
        return (*self.query, *common, *(self.parameters if self.method == "GET" else ()))

    @cached_property
    def form_fields(self) -> tuple[Field[Any], ...]:
        """The fields that the body may have."""
        if self.method == "GET":
            return ()
        return (*self.form, *(() if self.is_api else (BACK, SURE)), *self.parameters)

    @property
    def is_action(self) -> bool:
        """Whether the route changes anything; a read-only dashboard has no such routes."""
        return self.method != "GET" and not self.is_personal


class Routes:
    """The table that finds the route of a request."""

    def __init__(self, table: Sequence[Route]) -> None:
        self.table = tuple(table)
        self._patterns = [(_pattern(route.path), route) for route in self.table]

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | frozenset[str]:
        """Return the route and the values of the `{name}`s in its path.

        If no route matches, the result is the set of methods that the path supports, which may be empty.
        """
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
