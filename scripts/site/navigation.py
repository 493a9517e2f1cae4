"""The site's table of contents, as `zensical.toml` names it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator

import attrs

_PAGE = re.compile(r'^ *\{ "[^"]*" = "(?P<page>[^"]*)" \},\n', re.MULTILINE)
_EMPTY = re.compile(r'^ *\{ "[^"]*" = \[\n *\] \},\n', re.MULTILINE)


@attrs.frozen
class Place:
    """A page's place in the table of contents."""

    section: str
    title: str
    page: str


def effective(configuration: str, names: Collection[str]) -> str:
    """Return the configuration without places of pages that are not there."""
    left = _PAGE.sub(lambda line: line[0] if line["page"] in names else "", configuration)
    return _EMPTY.sub("", left)


def places(configuration: str) -> Iterator[Place]:
    """Yield every page that has a place, in order."""
    for section in tomllib.loads(configuration)["project"]["nav"]:
        ((name, inside),) = section.items()
        for title, page in _leaves(name, inside):
            yield Place(name, title, page)


def _leaves(name: str, inside: object) -> Iterator[tuple[str, str]]:
    if isinstance(inside, str):
        yield name, inside
    for entry in inside if isinstance(inside, list) else ():
        ((title, below),) = entry.items()
        yield from _leaves(title, below)
