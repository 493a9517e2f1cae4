"""FastAPI, Starlette, Litestar: jobs live with the web application, and know the request they come from.

Made of ASGI alone: none of the three is imported, each will do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from firelock import ConfigurationError, Firelock
from firelock.integrations.request_meta import HEADER, RequestMeta, request_id, to_request_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["RequestIdMiddleware", "RequestMeta", "dependency", "lifespan", "request_id"]

ASGIApp: TypeAlias = Callable[..., Awaitable[None]]
"""Each framework has types of its own for a scope and its messages, which fit no other's."""
Message: TypeAlias = MutableMapping[str, Any]
Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Any]]


def lifespan(
    fire: Firelock,
    inner: Lifespan | None = None,
    *,
    server: bool = False,
    host_loop: bool = False,
    queues: Sequence[str] | str | None = None,
    workers: int | None = None,
    async_workers: int | None = None,
) -> Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """Return a lifespan: `FastAPI(lifespan=lifespan(fire))`, `Litestar(lifespan=[lifespan(fire)])`.

    What was enqueued is stored and connections are closed when the application stops; one that starts again
    in the same process, as tests have it, opens them again. `request.state.firelock` is the app.

    Args:
        fire: the app.
        inner: a lifespan of your own. It begins before the server and ends after it, so that jobs may use
            what it opens; its state is kept.
        server: jobs run in this process as well, by `fire.server(…)`; it has the grace time to stop.
        host_loop: the server's `async def` jobs run on the application's own event loop. Else they run on
            one of their own, in a thread, where a job that blocks holds up no request.
        queues: of the server, as its `workers` and `async_workers`: see `Firelock.server`.
        workers: see `queues`.
        async_workers: see `queues`.

    Raises:
        ConfigurationError: something is said of a server, and there is none.
    """
    if not server and (host_loop or (queues, workers, async_workers) != (None, None, None)):
        raise ConfigurationError("lifespan(…) describes a server and has none; add server=True.")

    @asynccontextmanager
    async def life(application: Any) -> AsyncIterator[Mapping[str, Any]]:  # noqa: ANN401 - each framework's own
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(fire)
            state = None if inner is None else await stack.enter_async_context(inner(application))
            if server:
                loop = asyncio.get_running_loop() if host_loop else None
                await stack.enter_async_context(
                    fire.server(queues=queues, workers=workers, async_workers=async_workers, loop=loop)
                )
            yield {"firelock": fire, **(state or {})}

    return life


def dependency(fire: Firelock) -> Callable[[], Awaitable[Firelock]]:
    """Return a function that gives the app, to be injected.

    With `jobs = dependency(fire)` a parameter `Annotated[Firelock, Depends(jobs)]` is the app, and a test
    puts another in its place: `web.dependency_overrides[jobs] = dependency(other)`. In Litestar it is
    `Provide(dependency(fire))`.
    """

    async def firelock_app() -> Firelock:
        return fire

    return firelock_app


class RequestIdMiddleware:
    """ASGI middleware: each request has an id, `request_id`, and its answer says it.

    With the plugin `RequestMeta` the jobs that a request makes carry it, and theirs.

    Args:
        app: the application.
        header: where the id comes in and goes out. One that came in is kept if it is up to 128 letters,
            digits and marks, so that a proxy's or a client's id leads through. None takes and gives none.
    """

    def __init__(self, app: ASGIApp, *, header: str | None = HEADER) -> None:
        self._app = app
        self._header = None if header is None else header.lower().encode("latin-1")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - see ASGIApp
        """Answer one request, or one connection's messages."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        name, id_ = self._header, to_request_id(self._given(scope))

        async def send_with_id(message: Message) -> None:
            if name is not None and message["type"] == "http.response.start":
                others = [pair for pair in message.get("headers", ()) if bytes(pair[0]).lower() != name]
                message = {**message, "headers": [*others, (name, id_.encode("latin-1"))]}
            await send(message)

        token = request_id.set(id_)
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            request_id.reset(token)

    def _given(self, scope: Mapping[str, Any]) -> str | None:
        found = (
            value for name, value in scope["headers"] if self._header is not None and name == self._header
        )
        first = next(found, None)
        return None if first is None else bytes(first).decode("latin-1")
