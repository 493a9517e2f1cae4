"""The rendering of pages from Jinja templates, which always escape values and can use all texts and URLs."""

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
_WORTH = 1_000  # bytes; a smaller response is not worth compressing, because it fits in one packet
_EFFORT = 6
_OFF_AT_MOST = 256  # maximum number of bytes by which the length of a response is varied

# These characters can make a URL, a name or a log line look like another: gnp.exe looks like exe.png.
_TURNS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Text between tags, and attributes that are shown or read aloud. Elsewhere < and > are escaped.
_READ = re.compile(r""">[^<]+|\b(?:title|aria-label|placeholder|alt|label|data-confirm|data-text)="[^"]*\"""")


class _Compiled(BytecodeCache):
    """A cache of compiled templates, which all dashboards of a process share."""

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
    """Return every template by its name.

    Each file is read once, so that a running process does not mix templates of two releases after an upgrade.
    """
    loader, environment = PackageLoader("firelock_dashboard"), Environment(autoescape=True)
    return {name: loader.get_source(environment, name) for name in loader.list_templates()}


class Templates:
    """The templates, read when the first dashboard is created and compiled at their first use."""

    def __init__(self, texts: Texts) -> None:
        self._environment = Environment(
            loader=FunctionLoader(_sources().get),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            bytecode_cache=_compiled,
            auto_reload=False,  # a page uses about twenty templates, each of which would require a file check
        )
        self._environment.globals.update(
            t=texts, Permission=Permission, draw=icon, percent=formatting.percent, sections=SECTIONS
        )
        self._environment.filters.update(
            {name: filter_ for name, filter_ in vars(formatting).items() if inspect.isfunction(filter_)},
            tojson_text=_json,
        )

    def render(self, template: str, **values: object) -> str:
        """Return a page that needs neither the storage nor a visitor."""
        return show_turns(self._environment.get_template(template).render(values))

    def render_page(self, template: str, context: dict[str, object], part: str | None = None) -> str | None:
        """Return a page, or its block `part_<name>` if a part is requested; None if there is no such part."""
        page = self._environment.get_template(template)
        # passed as a value, because a block that is rendered alone lacks the imports of its page
        context["p"] = self._environment.get_template("parts.html").make_module(context)
        if part is None:
            return show_turns(page.render(context))
        base = self._environment.get_template("base.html")
        block = page.blocks.get(f"part_{part}") or base.blocks.get(f"part_{part}")
        return None if block is None else show_turns("".join(block(page.new_context(context))))


def packed(request: Request, response: Response, *, scheme: str) -> Response:
    """Return the response compressed, if the client accepts it and no other site can have caused the request.

    An attacker who can choose a string on a page and observe the length of the compressed response could
    guess the page's other contents step by step. Therefore, over TLS, a response is compressed only if the
    request comes from the dashboard's own pages or directly from the user, because no other site can cause
    such requests. In addition, the length is varied by a random number of bytes.
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
    """Return the gzip form, whose header contains a file name of random length, which clients ignore."""
    squeeze = zlib.compressobj(_EFFORT, zlib.DEFLATED, -zlib.MAX_WBITS)
    name = b"-" * secrets.randbelow(_OFF_AT_MOST)
    head = b"\x1f\x8b\x08\x08" + bytes(5) + b"\xff" + name + b"\0"
    check = struct.pack("<LL", zlib.crc32(plain), len(plain) & 0xFFFFFFFF)
    return head + squeeze.compress(plain) + squeeze.flush() + check


def show_turns(html: str) -> str:
    r"""Return the page with each character that changes the text direction as an escape such as \u202e.

    Only visible text changes. Form values and link targets keep the character, because there it is part of a
    name.
    """
    if _TURNS.search(html) is None:
        return html
    return _READ.sub(lambda part: written_out(part[0]), html)


def written_out(text: str) -> str:
    """Return the string with each character that changes the text direction as an escape."""
    return _TURNS.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text)


def _json(value: object) -> str:
    """Return JSON as a string that is escaped like any other; Jinja's own `tojson` marks it as safe."""
    return json.dumps(value, ensure_ascii=False, default=str)
