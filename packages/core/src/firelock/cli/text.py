"""Texts for terminals. What jobs carry is hostile: none of it moves a cursor or turns a line round."""

from __future__ import annotations

import unicodedata

from firelock.text import age, clock_time, isoformat, shorten, span

__all__ = ["age", "clock_time", "isoformat", "shorten", "span", "visible", "visible_lines", "width"]

_ASCII, _LATIN = 0x7F, 0xFF


def visible(text: str) -> str:
    """Return the text in one line; control, format and other unseen characters are written as escapes."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) == "Zs":
        return " "
    if character in "\n\t\r":
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}[character]
    code = ord(character)
    if code <= _LATIN:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - as Python writes them


def visible_lines(text: str) -> list[str]:
    """Return the lines of a text, each visible; a tab is four spaces."""
    return [visible(line.removesuffix("\r").replace("\t", "    ")) for line in text.split("\n")]


def width(text: str) -> int:
    """Return how many columns the text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if ord(character) <= _ASCII:
        return 1
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
