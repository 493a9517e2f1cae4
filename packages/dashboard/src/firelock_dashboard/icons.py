"""Icons as inline SVG: drawn on a grid of 16, in strokes of the text's colour."""

from __future__ import annotations

from functools import cache

from markupsafe import Markup

# ruff: noqa: E501 - a path is one text

__all__ = ["ICONS", "icon"]

# A path in strokes; "." before a name means that it is filled.
ICONS = {
    # the states
    "awaiting": "M4 2h8M4 14h8M5 2v2.5L8 8l3-3.5V2M5 14v-2.5L8 8l3 3.5V14",
    "scheduled": "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M8 4.8V8l2.4 1.6",
    "enqueued": "M2.5 4h11M2.5 8h11M2.5 12h7",
    "processing": "M8 2a6 6 0 0 1 6 6M8 2a6 6 0 1 0 4.2 10.2",
    "retrying": "M13.5 8A5.5 5.5 0 1 1 11.6 3.8M13.5 2v3.2h-3.2",
    "succeeded": "M3 8.5l3.2 3.2L13 5",
    "failed": "M5.5 1.8h5l3.7 3.7v5l-3.7 3.7h-5l-3.7-3.7v-5zM6 6l4 4M10 6l-4 4",
    "deleted": "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M3.8 3.8l8.4 8.4",
    # the sections
    "overview": "M2 2.5h5v5H2zM9 2.5h5v3H9zM9 7.5h5v6H9zM2 9.5h5v4H2z",
    "jobs": "M2 3.5h2M2 8h2M2 12.5h2M6.5 3.5H14M6.5 8H14M6.5 12.5H14",
    "failures": "M8 2l6.5 11.5h-13zM8 6.2v3.4M8 11.6v.1",
    "queues": "M2 4.5l6-2.5 6 2.5-6 2.5zM2 8l6 2.5L14 8M2 11.5L8 14l6-2.5",
    "recurring": "M3 3h10v10.5H3zM3 6.2h10M5.8 1.5v2.8M10.2 1.5v2.8M6 9.8l1.4 1.4L10 8.6",
    "tasks": "M5.5 4L1.8 8l3.7 4M10.5 4l3.7 4-3.7 4M9 2.5l-2 11",
    "servers": "M2.5 2.5h11v4.5h-11zM2.5 9h11v4.5h-11zM5 4.8v.1M5 11.3v.1M8 4.8h3M8 11.3h3",
    "activity": "M1.5 8.5h3L6.5 3l3 10 2-4.5h3",
    "system": "M8 5.6a2.4 2.4 0 1 0 0 4.8 2.4 2.4 0 0 0 0-4.8M8 1.5v2M8 12.5v2M1.5 8h2M12.5 8h2M3.4 3.4l1.4 1.4M11.2 11.2l1.4 1.4M12.6 3.4l-1.4 1.4M4.8 11.2l-1.4 1.4",
    "settings": "M2 4.5h7M12.5 4.5H14M2 11.5h1.5M7 11.5h7M10.7 2.8a1.7 1.7 0 1 0 0 3.4 1.7 1.7 0 0 0 0-3.4M5.2 9.8a1.7 1.7 0 1 0 0 3.4 1.7 1.7 0 0 0 0-3.4",
    # actions and signs
    "bell": "M4 11V7a4 4 0 0 1 8 0v4l1.2 1.5H2.8zM6.8 14.2h2.4",
    "mute": "M4 11V7a4 4 0 0 1 6.8-2.8M12 7.5V11l1.2 1.5H2.8L4 11M6.8 14.2h2.4M2 2l12 12",
    "search": "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9M10.4 10.4l3.4 3.4",
    "pause": "M5.5 3v10M10.5 3v10",
    "play": "M4.5 2.8l8.5 5.2-8.5 5.2z",
    "stop": "M3.5 3.5h9v9h-9z",
    "trash": "M2.5 4h11M6 4V2.5h4V4M4 4l.6 9.5h6.8L12 4M6.5 6.8v4M9.5 6.8v4",
    "copy": "M5.5 5.5h8v8h-8zM3 10.5h-.5v-8h8V3",
    "edit": "M10.8 2.6l2.6 2.6-8 8-3.2.6.6-3.2z",
    "plus": "M8 3v10M3 8h10",
    "close": "M3.5 3.5l9 9M12.5 3.5l-9 9",
    "check": "M3 8.5l3.2 3.2L13 5",
    "more": "M3.5 8v.1M8 8v.1M12.5 8v.1",
    "next": "M6 3l5 5-5 5",
    "previous": "M10 3L5 8l5 5",
    "down": "M3 6l5 5 5-5",
    "link": "M6.5 9.5l3-3M7 4.5l1.2-1.2a3 3 0 0 1 4.5 4.5L11.5 9M9 11.5l-1.2 1.2a3 3 0 0 1-4.5-4.5L4.5 7",
    "external": "M9 2.5h4.5V7M13.5 2.5L7.5 8.5M11.5 9.5v4h-9v-9h4",
    "download": "M8 2v8M4.5 7L8 10.5 11.5 7M2.5 13.5h11",
    "info": "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M8 7.2v3.6M8 5v.1",
    "warning": "M8 2l6.5 11.5h-13zM8 6.2v3.4M8 11.6v.1",
    "moon": "M13.5 9.5A6 6 0 0 1 6.5 2.5a6 6 0 1 0 7 7",
    "sun": "M8 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6M8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1",
    "user": "M8 2.5a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6M2.8 14c.6-3 2.6-4.4 5.2-4.4s4.6 1.4 5.2 4.4",
    "back": "M6.5 3.5L2 8l4.5 4.5M2 8h12",
    "menu": "M2 4h12M2 8h12M2 12h12",
    "flame": "M8 1.5c.6 2.6 4 4 4 7.6A4 4 0 0 1 8 14.5a4 4 0 0 1-4-4.4c0-1.8 1-2.8 1.6-3.9.4 1 .9 1.5 1.5 1.8C6.7 5.6 7 3.3 8 1.500z",
    "keyboard": "M1.5 4h13v8h-13zM4 6.500v.1M6.7 6.500v.1M9.3 6.500v.1M12 6.500v.1M4.5 9.500h7",
    "bolt": "M9 1.500L3.5 9H7.500L7 14.5 12.5 7H8.500z",
    "dash": "M4 8h8",
    "plugin": "M5.5 2v3M10.5 2v3M3.5 5h9v3.5a4.5 4.5 0 0 1-9 0zM8 13v1.500",
}  # fmt: skip


def icon(name: str, *, size: int = 16, label: str = "") -> Markup:
    """Return an icon; without a label it is an ornament that a screen reader passes over."""
    if not label:
        return _ornament(name, size)
    return _drawn(name, size, Markup('role="img" aria-label="{}"').format(label))


@cache
def _ornament(name: str, size: int) -> Markup:
    """Return an icon without a label; a list draws hundreds of a few."""
    return _drawn(name, size, Markup('aria-hidden="true"'))


def _drawn(name: str, size: int, said: Markup) -> Markup:
    return Markup(
        '<svg class="icon icon-{}" width="{}" height="{}" viewBox="0 0 16 16" {}><path d="{}"/></svg>'
    ).format(name, size, size, said, ICONS[name])
