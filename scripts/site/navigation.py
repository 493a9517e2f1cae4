"""The site's table of contents, from `zensical.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

import attrs


@attrs.frozen
class Place:
    """A page's entry in the table of contents."""

    section: str
    title: str
    page: str


def places(configuration: str) -> Iterator[Place]:
    """Yield the entries of all pages in the table of contents, in order."""
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
