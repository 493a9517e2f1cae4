"""A page of the documentation as a forge reads it: its headings with their anchors, its links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]

_HTML_LINK = re.compile(r"""\b(?:href|src|srcset)=["']([^"']+)["']""")
_HTML_ANCHOR = re.compile(r"""<a\s+(?:name|id)=["']([^"']+)["']""")


@cache
def tokens(text: str) -> list[Token]:
    """Return the page as a flat list of Markdown's tokens."""
    return MarkdownIt("commonmark").enable("table").parse(text)


def headings(text: str) -> Iterator[str]:
    """Yield the text of each heading, without its markup."""
    for _, heading in _headings_by_line(text):
        yield heading


def heading_anchors(text: str) -> Iterator[tuple[int, str]]:
    """Yield line, from 0, and anchor of each heading: in lower case with hyphens, numbered when repeated."""
    found: set[str] = set()
    for line, heading in _headings_by_line(text):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (anchor := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(anchor)
        yield line, anchor


def anchors(text: str) -> set[str]:
    """Return what a link may name after the #: headings, and anchors written as such."""
    return {anchor for _, anchor in heading_anchors(text)} | set(_HTML_ANCHOR.findall(text))


def links(text: str) -> list[str]:
    """Return where the page's links and images lead, those written in HTML as well."""
    inside = [child for token in tokens(text) for child in (token, *(token.children or []))]
    targets = [str(child.attrs["href"]) for child in inside if child.type == "link_open"]
    targets += [str(child.attrs["src"]) for child in inside if child.type == "image"]
    html = [child.content for child in inside if child.type in {"html_block", "html_inline"}]
    return targets + [target for part in html for target in _HTML_LINK.findall(part)]


def _headings_by_line(text: str) -> Iterator[tuple[int, str]]:
    for opening, inline in pairwise(tokens(text)):
        if opening.type == "heading_open" and opening.map:
            yield opening.map[0], "".join(child.content for child in inline.children or [])
