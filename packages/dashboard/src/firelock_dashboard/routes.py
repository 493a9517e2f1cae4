"""What a route is and how an address finds one; `TABLE` in `app` has all, and nothing is reached past it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import attrs

from firelock_dashboard.security.permissions import Permission

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock_dashboard.request import Visit

_PLACE = re.compile(r"\{([a-z_]+)(:path)?\}")


@attrs.frozen
class ApiParameter:
    """A field of a query or a form, for the description of the JSON API."""

    name: str
    doc: str
    kind: str = "string"  # string, integer, boolean, date-time, object or array (of strings)
    choices: tuple[str, ...] = ()
    is_required: bool = False


@attrs.frozen(slots=False)
class Route:
    """A method and a path below the mount, who may come, and what answers.

    A `{name}` in the path takes one segment, a last `{name:path}` all that is left. A request with a field
    that is not named here is refused before the view. Of a field with + at its end there may be several; one
    with a dot at its end stands for all that begin so. The parameters of the JSON API are fields as well.
    """

    method: str  # GET or POST; HEAD follows GET
    path: str
    permission: Permission
    view: Callable[[Visit], Response]
    query: (
        tuple[str, ...] | None
    ) = ()  # fields of the query; None for a view of a plugin's, which knows its own
    form: tuple[str, ...] = ()  # fields of what is posted
    is_personal: bool = False  # changes nothing but what the visitor sees; there on a read-only dashboard too
    is_api: bool = False  # answers JSON, its errors too
    summary: str = ""  # for the description of the JSON API
    parameters: tuple[ApiParameter, ...] = ()  # likewise

    @cached_property
    def query_fields(self) -> tuple[str, ...] | None:
        """Every field that the query may have; None for any."""
        if self.query is None:
            return None
        common = () if self.is_api or self.method != "GET" else ("part",)
        return (*self.query, *common, *(self._described if self.method == "GET" else ()))

    @cached_property
    def form_fields(self) -> tuple[str, ...]:
        """Every field that a form may have."""
        common = () if self.is_api else ("back", "sure")
        return (*self.form, *common, *(self._described if self.method != "GET" else ()))

    @property
    def _described(self) -> tuple[str, ...]:
        return tuple(
            f"{one.name}+" if one.kind == "array" else one.name.removesuffix("NAME")
            for one in self.parameters
        )

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
