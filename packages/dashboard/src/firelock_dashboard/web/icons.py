"""Icons as inline SVG, drawn on a 16 × 16 grid in the text's colour; `icons.toml` contains the paths."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files

from markupsafe import Markup

_PATHS = tomllib.loads(files("firelock_dashboard").joinpath("icons.toml").read_text("utf-8"))


def icon(name: str, *, size: int = 16, label: str = "") -> Markup:
    """Return an icon; without a label, the icon is decorative, and screen readers skip it."""
    if not label:
        return _ornament(name, size)
    return _drawn(name, size, Markup('role="img" aria-label="{}"').format(label))


@cache
def _ornament(name: str, size: int) -> Markup:
    """Return an icon without a label.

    The result is cached, because a list shows hundreds of icons, but only a few different ones.
    """
    return _drawn(name, size, Markup('aria-hidden="true"'))


def _drawn(name: str, size: int, label: Markup) -> Markup:
    return Markup(
        '<svg class="icon icon-{}" width="{}" height="{}" viewBox="0 0 16 16" {}><path d="{}"/></svg>'
    ).format(name, size, size, label, _PATHS[name])
