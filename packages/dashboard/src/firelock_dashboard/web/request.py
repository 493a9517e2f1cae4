"""`Visit`, the object that a view receives: the request, its visitor, and methods that create responses."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import anyio
import attrs
from starlette.responses import JSONResponse, RedirectResponse, Response

from firelock.storage import JobRecord, State
from firelock_dashboard.problems import BadRequest, Forbidden, NotHere, RequestProblem
from firelock_dashboard.security.permissions import Access, Permission
from firelock_dashboard.web.fields import SentFields
from firelock_dashboard.web.formatting import ago, instant, micros, span
from firelock_dashboard.web.payloads import IN_DETAIL, Called, Payload, hidden
from firelock_dashboard.web.rendering import written_out
from firelock_dashboard.web.routes import BACK, PART

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Scope

    from firelock import Firelock, JsonValue, RecurringJob
    from firelock.storage import Input
    from firelock_dashboard.site import Site
    from firelock_dashboard.web.fields import Field
    from firelock_dashboard.web.urls import Urls

SETTINGS_COOKIE = "firelock_settings"

# The settings of a visitor; the first value of each is the default.
SETTINGS = {
    "theme": ("system", "light", "dark"),
    "density": ("comfortable", "compact"),
    "times": ("relative", "absolute"),
    "shortcuts": ("on", "off"),
}

_FLASH = "firelock_flash"
_FLASH_LIMIT = 3_000  # the maximum number of characters of a cookie; browsers accept up to 4,096
_UNDOES = frozenset(
    {
        "/jobs/restore",
        "/limits/pause",
        "/limits/resume",
        "/queues/pause",
        "/queues/resume",
        "/recurring/pause",
        "/recurring/resume",
    }
)
_YEAR = 365 * 86_400  # seconds
_PART = f"{PART.name}="
_FORM, _JSON = "application/x-www-form-urlencoded", "application/json"
_MOST_PARTS = 20  # the maximum number of regions in one response
_LARGEST_BODY = 1024 * 1024
_SECONDS = 30.0  # seconds; a body that takes longer is refused


@attrs.frozen
class Undo:
    """The form that undoes an action."""

    path: str
    fields: dict[str, list[str]]

    @classmethod
    def read(cls, value: object) -> Undo | None:
        """Return the undo from a cookie, or None if it is not valid, because cookies are not trusted."""
        if not isinstance(value, dict) or value.get("path") not in _UNDOES:
            return None
        fields = value.get("fields")
        if not isinstance(fields, dict):
            return None
        lists = {str(name): values for name, values in fields.items() if isinstance(values, list)}
        return cls(value["path"], {name: [str(one) for one in values] for name, values in lists.items()})


@attrs.frozen
class Flash:
    """The message of an action, shown on the page that follows it."""

    kind: str  # "good", "note" or "bad"
    message: str
    link: str | None
    undo: Undo | None


class Visit:
    """The object that a view receives; views are plain functions that run in a thread, so they may block."""

    def __init__(
        self,
        dashboard: Site,
        request: Request,
        urls: Urls,
        *,
        access: Access,
        places: Mapping[str, str],
        body: bytes,
    ) -> None:
        self.dashboard = dashboard
        self.request = request
        self.url = urls
        self.access = access
        self.places = places  # the values of the `{name}`s of the route
        self.body = body
        self._by_state: Mapping[State, int] | None = None

    # ---- the request -------------------------------------------------------------------------------------

    @property
    def fire(self) -> Firelock:
        """The app whose jobs are shown."""
        return self.dashboard.fire

    @cached_property
    def query(self) -> SentFields:
        """The fields of the query."""
        return SentFields.parse(self.request.scope["query_string"].decode("latin-1"))

    @cached_property
    def form(self) -> SentFields:
        """The fields of a posted form, or of a JSON object posted by a program."""
        kind = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == _JSON:
            return SentFields.parse_json(self.body)
        if kind != _FORM:
            raise BadRequest(f"Content-Type must be {_FORM}, got {kind[:60]!r}.", status=415)
        try:
            return SentFields.parse(self.body.decode("ascii"))
        except UnicodeDecodeError as error:
            raise BadRequest("The form must be urlencoded; send ASCII with percent signs.") from error

    def check_fields(
        self,
        query: Sequence[Field[Any]] | None,
        form: Sequence[Field[Any]],
        *,
        is_strict: bool = False,
        left: Collection[Field[Any]] = (),
    ) -> None:
        """Check the sent fields against the declared ones; `query=None` allows any query.

        Args:
            query: the fields of the query.
            form: the fields of the body.
            is_strict: whether no field may be empty.
            left: the fields whose types are not checked here, because the view shows invalid values.

        Raises:
            BadRequest: If a field is unknown, missing or of another type; the message names it.
        """
        if query is not None:
            self.query.check(query, is_strict=is_strict)
        has_form = self.request.method == "POST" and any(field.is_required for field in form)
        if self.body or has_form:
            self.form.check(form, is_strict=is_strict, left=left)

    @cached_property
    def now(self) -> datetime:
        """The storage's time."""
        return instant(self.fire.client.clock.now())

    @property
    def now_micros(self) -> int:
        """The storage's time in micros."""
        return micros(self.now)

    @property
    def part(self) -> str | None:
        """The name of the region that is requested alone; None for a whole page."""
        return None if self.request.method == "POST" else self.query.maybe(PART)

    @property
    def is_for_part(self) -> bool:
        """Whether the query names a region, even an invalid one; for responses to an unchecked query."""
        query = self.request.scope["query_string"].decode("latin-1")
        return any(pair.startswith(_PART) for pair in query.split("&"))

    @property
    def wants_json(self) -> bool:
        """Whether the response to an action is for a script instead of a page."""
        return "application/json" in self.request.headers.get("accept", "")

    @property
    def here(self) -> str:
        """The URL of this page, to return to it."""
        query = self.request.scope["query_string"].decode("latin-1")
        pairs = [pair for pair in query.split("&") if pair and not pair.startswith(_PART)]
        return self.url(path_of(self.request.scope) or "/") + (f"?{'&'.join(pairs)}" if pairs else "")

    def setting(self, name: str) -> str:
        """Return one of the visitor's settings, which are stored in a cookie."""
        return self._settings.get(name, SETTINGS[name][0])

    @property
    def _settings(self) -> dict[str, str]:
        """The settings in the cookie; unknown names and values are ignored."""
        pairs = (pair.partition("=") for pair in self.request.cookies.get(SETTINGS_COOKIE, "").split("."))
        return {name: value for name, _, value in pairs if value in SETTINGS.get(name, ())}

    def state_counts(self) -> dict[str, int]:
        """Return the number of jobs in each state, including states without jobs."""
        if self._by_state is None:
            self._by_state = self.dashboard.counts().by_state
        return {str(state): self._by_state.get(state, 0) for state in State}

    def use_counts(self, by_state: Mapping[State, int]) -> None:
        """Show these counts in the whole response, because the view has read them along with other data."""
        self._by_state = by_state

    def text(self, key: str, **values: object) -> str:
        """Return one of the dashboard's texts."""
        return self.dashboard.texts(key, **values)

    def may(self, permission: Permission | str) -> bool:
        """Return whether the visitor has this permission on this dashboard."""
        return self.dashboard.may(self.access, Permission(permission))

    def require(self, permission: Permission) -> None:
        """Refuse a visitor without this permission; for actions whose permission depends on the request.

        Raises:
            Forbidden: If the visitor does not have the permission.
        """
        if not self.may(permission):
            raise Forbidden(self.text("shared.forbidden", permission=permission))

    def audit(self, action: str, target: str, **detail: JsonValue) -> None:
        """Record the action in the audit under the visitor's name."""
        self.fire.audit.record(action, target, by=self.who, detail=detail or None)

    @property
    def who(self) -> str:
        """The visitor's name for the audit: the name from `auth`, otherwise the IP address."""
        client = self.request.client
        return self.access.name or (client.host if client else "local")

    # ---- the job's data, as this visitor may see it -------------------------------------------------------

    def arguments(self, record: Called, *, limit: int | None = IN_DETAIL) -> Payload:
        """Return a job's arguments: decoded, redacted, and cut to the limit; None for a download.

        Outputs of other jobs are shown by name where the arguments use them.
        """
        relations = record.relations if isinstance(record, JobRecord) else None
        return self._payload(record, record.arguments, limit, () if relations is None else relations.inputs)

    def arguments_value(self, record: JobRecord) -> JsonValue:
        """Return a job's arguments, decoded and redacted; None if unreadable or hidden from the visitor."""
        if not self.may(Permission.VIEW_ARGUMENTS):
            return None
        return self.dashboard.payloads.arguments(record)

    def meta(self, record: JobRecord | RecurringJob) -> JsonValue:
        """Return the redacted metadata of a job or a recurring job; None if the visitor may not see it."""
        if not self.may(Permission.VIEW_ARGUMENTS):
            return None
        return self.dashboard.redactor.value(dict(record.meta), record.task)

    def result(self, record: JobRecord, *, limit: int | None = IN_DETAIL) -> Payload:
        """Return a job's result, like `arguments`; the caller must check that `record.result` is not None."""
        return self._payload(record, record.result, limit)

    def redacted(self, text: str) -> str:
        """Return a message, a traceback or a log line with unmistakable secrets masked."""
        return self.dashboard.redactor.text(text)

    def _payload(
        self, record: Called, stored: object, limit: int | None, inputs: Sequence[Input] = ()
    ) -> Payload:
        if not self.may(Permission.VIEW_ARGUMENTS):
            return hidden(self.text("shared.not_allowed", permission=Permission.VIEW_ARGUMENTS))
        return self.dashboard.payloads.payload(record, stored, limit, inputs)

    # ---- responses ---------------------------------------------------------------------------------------

    def page(
        self, template: str, *, title: str = "", section: str = "", status: int = 200, **values: object
    ) -> Response:
        """Return a page, or only the region of it that the request names in `part`.

        If `part` has several names, joined by commas, the response is a JSON object with these regions, all
        of which show the same reading.

        If the page is a section's own page, `section` and `title` can be left out.

        Values may be functions without parameters, which the template calls. So a value is not computed for a
        region that does not show it.
        """
        part = self.part if status < 400 else None  # noqa: PLR2004 - an error is shown as a whole page
        section = section or template.removesuffix(".html")
        title = title or self.text(f"nav.{section.partition(':')[0]}")
        if part is not None and "," in part:
            names = list(dict.fromkeys(part.split(",", _MOST_PARTS)))
            shown = {
                name: self.render(template, title=title, section=section, part=name, **values)
                for name in names
            }
            return self.json(shown)
        html = self.render(template, title=title, section=section, part=part, **values)
        return self._tagged(html, status, "text/html; charset=utf-8")

    def _tagged(self, text: str, status: int, kind: str) -> Response:
        """Return the response, or a 304 if the client already has it."""
        headers = {"ETag": f'"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"'}
        if self.request.method != "POST" and self.request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(text, status, headers, kind)

    def render(
        self, template: str, *, title: str, section: str, part: str | None = None, **values: object
    ) -> str:
        """Return a page as a string, or only one part of it.

        Raises:
            NotHere: If the page has no part of this name.
        """
        began = time.perf_counter()
        context: dict[str, object] = {
            **values, "visit": self, "url": self.url, "asset": self.url.asset, "may": self.may,
            "title": title, "section": section, "dashboard": self.dashboard, "now": self.now,
            "since": lambda at: ago(at, self.now), "elapsed": lambda: span(time.perf_counter() - began),
        }  # fmt: skip
        html = self.dashboard.templates.render_page(template, context, part)
        if html is None:
            raise NotHere(self.text("shared.no_part", part=part))
        return html

    def json(self, value: object, status: int = 200) -> Response:
        """Return a JSON response."""
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
        return self._tagged(text, status, "application/json")

    def done(
        self, message: str, *, to: str = "/", kind: str = "good", link: str | None = None,
        undo: Undo | None = None,
    ) -> Response:  # fmt: skip
        """Return the response to an action: JSON for a script, otherwise a redirect to the form's page.

        Args:
            message: the result of the action, with numbers if there are any.
            to: the target of the redirect if the form has no field `back`.
            kind: the appearance of the message: good, note or bad.
            link: the target of the message's link, if there is one.
            undo: the form that undoes the action, if there is one.
        """
        back = None if undo is None else attrs.asdict(undo)
        if self.wants_json:
            message = written_out(message)  # the page's script shows this text as it is
            return JSONResponse({"message": message, "kind": kind, "link": link, "undo": back})
        response = RedirectResponse(self.url.back(self.form.maybe(BACK), to), 303)
        flash = json.dumps([kind, message, link, back])
        if 2 * len(flash) > _FLASH_LIMIT:
            flash = json.dumps([kind, message, link, None])
        self.set_cookie(response, _FLASH, flash.encode().hex(), 30)
        return response

    def keep_settings(self, response: Response, changes: Mapping[str, str]) -> None:
        """Store these settings in the visitor's browser, in addition to the existing ones."""
        kept = {**self._settings, **changes}
        value = ".".join(f"{name}={value}" for name, value in kept.items())
        self.set_cookie(response, SETTINGS_COOKIE, value, _YEAR)

    def take_flash(self) -> Flash | None:
        """Return the message of the action that redirected here, and delete it."""
        try:
            kind, message, link, undo = json.loads(bytes.fromhex(self.request.cookies.get(_FLASH, "")))
        except (ValueError, TypeError):
            return None
        if kind not in {"good", "note", "bad"} or not isinstance(message, str):
            return None
        self.clears_flash = True
        leads = link if isinstance(link, str) and self.url.is_here(link) else None
        return Flash(kind, message, leads, Undo.read(undo))

    clears_flash = False

    def finish(self, response: Response) -> Response:
        """Return the response with the cookies that this visit sets or clears."""
        if self.clears_flash:
            self.clear_cookie(response, _FLASH)
        return response

    def set_cookie(self, response: Response, name: str, value: str, seconds: int) -> None:
        """Store the value in the visitor's browser for this mount; scripts and other sites cannot read it."""
        response.set_cookie(
            name, value, max_age=seconds, path=f"{self.url.root}/", httponly=True, samesite="strict",
            secure=self.dashboard.gate.scheme(self.request) == "https",
        )  # fmt: skip

    def clear_cookie(self, response: Response, name: str) -> None:
        """Delete a cookie that `set_cookie` set for this mount."""
        response.delete_cookie(name, path=f"{self.url.root}/", httponly=True, samesite="strict")


# ---- the path and the body -------------------------------------------------------------------------------


def path_of(scope: Scope) -> str:
    """Return the path below the mount; empty if the mount itself was requested without a final slash."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :]
    return path


async def read_body(request: Request, *, seconds: float = _SECONDS) -> bytes:
    """Return the body, without keeping more of it in memory than the allowed size.

    Raises:
        RequestProblem: If the body is larger than any form of the dashboard, compressed, neither a form nor
            JSON, or not received within `seconds`.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestProblem("Content-Encoding is not supported; send the body uncompressed.", status=415)
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and (len(length) > 9 or int(length) > _LARGEST_BODY):  # noqa: PLR2004
        raise _too_large()
    chunks, size = [], 0
    with anyio.move_on_after(seconds) as deadline:
        async for chunk in request.stream():
            size += len(chunk)
            if size > _LARGEST_BODY:
                raise _too_large()
            chunks.append(chunk)
    if deadline.cancelled_caught:
        raise RequestProblem(f"The body did not arrive within {seconds:g} s; send it again.", status=408)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if size and kind not in {_FORM, _JSON}:
        raise RequestProblem(f"Content-Type must be {_FORM}, got {kind[:60]!r}.", status=415)
    return b"".join(chunks)


def _too_large() -> RequestProblem:
    return RequestProblem(f"The body must have at most {_LARGEST_BODY} bytes; send less data.", status=413)
