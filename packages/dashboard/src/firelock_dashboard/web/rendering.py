"""Pages: Jinja templates, always escaped, with the words and addresses that each of them needs."""

from __future__ import annotations

import inspect
import json
import re
import secrets
import struct
import zlib
from functools import cache
from typing import TYPE_CHECKING

from jinja2 import BytecodeCache, Environment, FunctionLoader, PackageLoader, StrictUndefined
from starlette.responses import JSONResponse, Response

from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web import formatting
from firelock_dashboard.web.assets import preferred_encoding
from firelock_dashboard.web.icons import icon
from firelock_dashboard.web.sections import SECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import CodeType

    from jinja2.bccache import Bucket
    from starlette.requests import Request

    from firelock_dashboard.web.texts import Texts

_PACKED = ("text/html", "application/json")
_WORTH = 1_000  # bytes: less than that comes in one packet anyway
_EFFORT = 6
_OFF_AT_MOST = 256  # bytes by which the length of an answer may be off

# By these an address, a name or a line of a log reads as another: gnp.exe as exe.png.
_TURNS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Text between tags, and the attributes that are shown or read out; < and > are escaped everywhere else.
_READ = re.compile(r""">[^<]+|\b(?:title|aria-label|placeholder|alt|label|data-confirm|data-text)="[^"]*\"""")


class _Compiled(BytecodeCache):
    """What templates were compiled to: once a process, for all dashboards, as all compile alike."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], CodeType] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._kept.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        if bucket.code is not None:
            self._kept[bucket.key, bucket.checksum] = bucket.code


_compiled = _Compiled()


@cache
def _sources() -> Mapping[str, tuple[str, str | None, Callable[[], bool] | None]]:
    """Return every template with its file, read once: an upgrade of the package must not mix two releases."""
    loader, environment = PackageLoader("firelock_dashboard"), Environment(autoescape=True)
    return {name: loader.get_source(environment, name) for name in loader.list_templates()}


class Templates:
    """The templates, read when the first dashboard is made and compiled at their first use."""

    def __init__(self, texts: Texts) -> None:
        self._environment = Environment(
            loader=FunctionLoader(_sources().get),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            bytecode_cache=_compiled,
            auto_reload=False,  # a page has some twenty templates: each would be a look at the disk
        )
        self._environment.globals.update(
            t=texts, Permission=Permission, draw=icon, percent=formatting.percent, sections=SECTIONS
        )
        self._environment.filters.update(
            {name: filter_ for name, filter_ in vars(formatting).items() if inspect.isfunction(filter_)},
            tojson_text=_json,
        )

    def render(self, template: str, **values: object) -> str:
        """Return a page that stands alone: it asks neither the storage nor who looks at it."""
        return show_turns(self._environment.get_template(template).render(values))

    def render_page(self, template: str, context: dict[str, object], part: str | None = None) -> str | None:
        """Return a page, or its block `part_<name>` where one part is wanted; None where it has none."""
        page = self._environment.get_template(template)
        # As a value and not an import: a block that is rendered alone has no imports of its page.
        context["p"] = self._environment.get_template("parts.html").make_module(context)
        if part is None:
            return show_turns(page.render(context))
        base = self._environment.get_template("base.html")
        block = page.blocks.get(f"part_{part}") or base.blocks.get(f"part_{part}")
        return None if block is None else show_turns("".join(block(page.new_context(context))))


def packed(request: Request, response: Response, *, scheme: str) -> Response:
    """Return the answer compressed, where its reader takes that and nobody else can have caused it.

    Whoever may choose a text of a page and see the length of what is sent could find out what else is in it,
    a guess at a time. So over TLS only what the dashboard's own pages ask for, or somebody by hand, is
    compressed: no page elsewhere can cause that. The length is off by a random number of bytes all the same.
    """
    plain = bytes(response.body) if type(response) in {Response, JSONResponse} else b""
    kind = response.headers.get("content-type", "").partition(";")[0]
    if len(plain) < _WORTH or kind not in _PACKED or "content-encoding" in response.headers:
        return response
    response.headers.add_vary_header("Accept-Encoding")
    site = request.headers.get("sec-fetch-site", "")
    accepted = ",".join(request.headers.getlist("accept-encoding"))
    is_own = scheme != "https" or site in {"same-origin", "none"}
    if not is_own or preferred_encoding(accepted, ["gzip"]) != "gzip":
        return response
    response.body = _gzipped(plain)
    response.headers["Content-Encoding"] = "gzip"
    response.headers["Content-Length"] = str(len(response.body))
    return response


def _gzipped(plain: bytes) -> bytes:
    """Return the gzip form, with a name of random length in its header, which readers pass over."""
    squeeze = zlib.compressobj(_EFFORT, zlib.DEFLATED, -zlib.MAX_WBITS)
    name = b"-" * secrets.randbelow(_OFF_AT_MOST)
    head = b"\x1f\x8b\x08\x08" + bytes(5) + b"\xff" + name + b"\0"
    check = struct.pack("<LL", zlib.crc32(plain), len(plain) & 0xFFFFFFFF)
    return head + squeeze.compress(plain) + squeeze.flush() + check


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
