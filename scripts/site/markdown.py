"""The headings, anchors and links of a Markdown page, as GitHub and similar sites determine them."""

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
    """Yield the line, counted from 0, and the anchor of each heading.

    An anchor is the heading in lower case with hyphens, and a number if the heading is repeated.
    """
    found: set[str] = set()
    for line, heading in _headings_by_line(text):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (anchor := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(anchor)
        yield line, anchor


def anchors(text: str) -> set[str]:
    """Return the valid fragments of links to the page: the anchors of headings, and explicit anchors."""
    return {anchor for _, anchor in heading_anchors(text)} | set(_HTML_ANCHOR.findall(text))


def links(text: str) -> list[str]:
    """Return the targets of the page's links and images, including those in HTML."""
    inside = [child for token in tokens(text) for child in (token, *(token.children or []))]
    targets = [str(child.attrs["href"]) for child in inside if child.type == "link_open"]
    targets += [str(child.attrs["src"]) for child in inside if child.type == "image"]
    html = [child.content for child in inside if child.type in {"html_block", "html_inline"}]
    return targets + [target for part in html for target in _HTML_LINK.findall(part)]


def _headings_by_line(text: str) -> Iterator[tuple[int, str]]:
    for opening, inline in pairwise(tokens(text)):
        if opening.type == "heading_open" and opening.map:
            yield opening.map[0], "".join(child.content for child in inline.children or [])
