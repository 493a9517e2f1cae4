"""Pages: Jinja templates, always escaped, with the words and addresses that each of them needs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from firelock_dashboard import words
from firelock_dashboard.access import Permission
from firelock_dashboard.icons import icon
from firelock_dashboard.problems import NotHere

if TYPE_CHECKING:
    from firelock_dashboard.texts import Texts
    from firelock_dashboard.visit import Visit

__all__ = ["Pages", "show_turns", "written_out"]

# By these an address, a name or a line of a log reads as another: gnp.exe as exe.png.
_TURNS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Text between tags, and the attributes that are shown or read out; < and > are escaped everywhere else.
_READ = re.compile(r""">[^<]+|\b(?:title|aria-label|placeholder|alt|label|data-confirm|data-text)="[^"]*\"""")


class Pages:
    """The templates, compiled at their first use."""

    def __init__(self, texts: Texts) -> None:
        self._environment = Environment(
            loader=PackageLoader("firelock_dashboard"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,  # a page has some twenty templates: each would be a look at the disk
        )
        self._environment.globals.update(t=texts, Permission=Permission, draw=icon)
        self._environment.filters.update(
            count=words.count_text, span=words.span, iso=words.iso, rate=words.rate,
            bytes=words.bytes_text, short_id=words.short_id, task_name=words.task_name,
            task_path=words.task_path, tojson_text=_json, instant=words.instant, stamp=words.stamp,
        )  # fmt: skip

    def render(
        self,
        visit: Visit,
        template: str,
        *,
        title: str,
        section: str,
        part: str | None,
        values: Mapping[str, object],
    ) -> str:
        """Return a page, or its block `part_<name>` where one part is wanted alone.

        Raises:
            NotHere: the page has no part of that name.
        """
        page = self._environment.get_template(template)
        context: dict[str, object] = {
            **values, "visit": visit, "url": visit.url, "asset": visit.url.asset, "may": visit.may,
            "title": title, "section": section, "dashboard": visit.dashboard, "now": visit.now,
            "since": lambda at: words.ago(at, visit.now), "percent": words.percent,
            "started": time.perf_counter(), "elapsed": _elapsed,
        }  # fmt: skip
        # As a value and not an import: a block that is rendered alone has no imports of its page.
        context["p"] = self._environment.get_template("parts.html").make_module(context)
        if part is None:
            return show_turns(page.render(context))
        base = self._environment.get_template("base.html")
        block = page.blocks.get(f"part_{part}") or base.blocks.get(f"part_{part}")
        if block is None:
            raise NotHere(visit.text("shared.no_part", part=part))
        return show_turns("".join(block(page.new_context(context))))

    def render_alone(self, template: str, **values: object) -> str:
        """Return a page that stands alone: it asks neither the storage nor who looks at it."""
        return show_turns(self._environment.get_template(template).render(values))


def show_turns(html: str) -> str:
    r"""Return the page with signs that turn the direction of text written out where they are read: \u202e.

    What a form sends, and where a link leads, keeps it: there it is part of a name.
    """
    if _TURNS.search(html) is None:
        return html
    return _READ.sub(lambda part: written_out(part[0]), html)


def written_out(text: str) -> str:
    """Return the text with every sign that turns its direction written out."""
    return _TURNS.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text)


def _json(value: object) -> str:
    """Return JSON as text, to be escaped like any other: Jinja's own `tojson` marks it as safe."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _elapsed(started: float) -> str:
    return words.span(time.perf_counter() - started)
