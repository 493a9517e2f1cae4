"""From the wire to somebody who may come in: what is asked, where, by whom, with which body."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from firelock import ConfigurationError, Firelock
from firelock_dashboard.access import Access, Auth, to_access
from firelock_dashboard.auth import access_from, refusal_of
from firelock_dashboard.problems import BadRequest, Forbidden, RequestProblem
from firelock_dashboard.wsgi import ACCESS

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from firelock_dashboard.gate import Gate
    from firelock_dashboard.links import Links

__all__ = ["Entrance", "framework_of", "path_of", "read_body", "refuse_other", "without_body"]

_LARGEST_BODY = 1024 * 1024
_SECONDS = 30.0  # a body that takes longer is not waited for
_KINDS = ("application/x-www-form-urlencoded", "application/json")
_SAFE = "/~!$&()*+,:@="
_SEGMENT = re.compile(r"[^/\\?#<>\"'\x00-\x20\x7f-\x9f]+")


class Entrance:
    """Lets in who may come, to one dashboard.

    Raises:
        ConfigurationError: the prefix is no path.
    """

    def __init__(
        self, fire: Firelock, gate: Gate, links: Links, *, auth: Auth | None, prefix: str | None
    ) -> None:
        self._fire = fire
        self._gate = gate
        self._links = links
        self._auth = auth
        self._prefix = prefix
        if prefix is not None and _checked_root(prefix) is None:
            message = f"prefix={prefix!r} is no path; write /jobs, and nothing or / for the root."
            raise ConfigurationError(message)

    def root(self, request: Request) -> str:
        """Return where the dashboard is mounted as the browser sees it, without a slash at its end.

        Raises:
            BadRequest: the path is none, and a redirect to it could lead elsewhere.
        """
        mounted = str(request.scope.get("root_path", ""))
        given = (
            self._prefix if self._prefix is not None else f"{self._gate.root(request).rstrip('/')}{mounted}"
        )
        root = _checked_root(given)
        if root is None:
            raise BadRequest(
                f"The dashboard cannot be mounted at {given[:100]!r}; see prefix= and X-Forwarded-Prefix."
            )
        return root

    async def admit(self, request: Request) -> Access:
        """Return what the sender of the request may do.

        Raises:
            RequestProblem: nothing, or not from where the request comes.
            StorageUnavailable: a session cannot be looked for.
        """
        self._gate.check_visitor(request)
        is_own = self._gate.check_origin(request)
        needs_token = request.method == "POST" and not is_own
        if needs_token and not request.headers.get("authorization", "").lower().startswith("bearer "):
            raise _without_origin()
        access = await self._access(request)
        if needs_token and not access.has_token:
            raise _without_origin()
        return access

    async def _access(self, request: Request) -> Access:
        try:
            answer = await run_in_threadpool(self._fire.plugins.dashboard_permission, request)
            if answer is not None:
                return to_access(answer)
        except Exception as error:
            raise refusal_of(error) from error
        asked = request.scope.get("wsgi_environ", {}).get(ACCESS)
        if isinstance(asked, RequestProblem):  # by the host, in its own thread
            raise asked
        if isinstance(asked, Access):
            return asked
        if self._auth is None:
            return await run_in_threadpool(self._links.access, request)
        return await access_from(self._auth, request)


def _without_origin() -> Forbidden:
    return Forbidden(
        "The request does not say which page it comes from: it has neither Sec-Fetch-Site nor Origin. "
        "A program sends a token instead: see bearer_tokens()."
    )


def _checked_root(text: str) -> str | None:
    """Return the root percent-encoded; None where it is no path of plain segments."""
    text = text.rstrip("/")
    if not text:
        return ""
    first, *segments = text.split("/")
    if first or not all(_SEGMENT.fullmatch(each) and each not in {".", ".."} for each in segments):
        return None
    try:
        return quote(text, safe=_SAFE)
    except UnicodeEncodeError:
        return None


def path_of(scope: Scope) -> str:
    """Return the path below the mount; empty where the mount itself was asked for without its slash."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :]
    return path


async def read_body(request: Request, *, seconds: float = _SECONDS) -> bytes:
    """Return the body; no more of it is held than may be sent.

    Raises:
        RequestProblem: it is larger than anything that a form here sends, compressed, of another kind than
            forms and JSON, or takes longer than `seconds`.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestProblem("Content-Encoding is not read here; send the body as it is.", status=415)
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
    if size and kind not in _KINDS:
        raise RequestProblem(f"Content-Type {kind[:60]!r} is not read here; send {_KINDS[0]}.", status=415)
    return b"".join(chunks)


def _too_large() -> RequestProblem:
    return RequestProblem(f"The body is larger than {_LARGEST_BODY} bytes; send less at once.", status=413)


def framework_of(scope: Scope) -> str:
    """Return what the dashboard is mounted in, as far as a request shows it; `alone` where it does not."""
    if "django.request" in scope:
        return "django"
    environ = scope.get("wsgi_environ")
    if environ is not None:
        return "flask" if "werkzeug.request" in environ else "wsgi"
    homes = {each.__module__.partition(".")[0] for each in type(scope.get("app")).__mro__}
    return "fastapi" if homes & {"fastapi", "starlette"} else "alone"


def without_body(response: Response) -> Response:
    """Return the answer to HEAD: what GET would send but for the content, also of a stream without an end."""
    bare = Response(status_code=response.status_code)
    bare.raw_headers = response.raw_headers
    return bare


async def refuse_other(scope: Scope, receive: Receive, send: Send, close: Callable[[], None]) -> None:
    """A lifespan is acknowledged, and its end closes what runs; a WebSocket is closed."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await run_in_threadpool(close)
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await receive()
    await send({"type": "websocket.close", "code": 1008})
