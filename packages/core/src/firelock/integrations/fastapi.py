"""FastAPI, Starlette and Litestar: a lifespan that opens and closes the app, and request ids in jobs.

This module uses only ASGI, so it imports none of the three frameworks.
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
"""An ASGI application. Its parameters are untyped because the frameworks' own types do not match."""
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

    When the application stops, all enqueued jobs are stored, and connections are closed. If the application
    starts again in the same process, as in tests, the connections are opened again. `request.state.firelock`
    is the app.

    Args:
        fire: the app.
        inner: your own lifespan. It begins before the server and ends after it, so that jobs can use the
            objects that it opens; its state is kept.
        server: whether jobs run in this process as well, with `fire.server(…)`. When the application stops,
            running jobs have the grace time to finish.
        host_loop: whether the server's `async def` jobs run on the application's own event loop. Otherwise
            they run on a separate loop in a thread, where a blocking job does not delay requests.
        queues: for the server; see `Firelock.server`.
        workers: for the server; see `Firelock.server`.
        async_workers: for the server; see `Firelock.server`.

    Raises:
        ConfigurationError: If an option of the server is given without `server=True`.
    """
    if not server and (host_loop or (queues, workers, async_workers) != (None, None, None)):
        raise ConfigurationError(
            "host_loop, queues, workers and async_workers of lifespan(…) have no effect without a server; "
            "add server=True."
        )

    @asynccontextmanager
    async def life(application: Any) -> AsyncIterator[Mapping[str, Any]]:  # noqa: ANN401 - each framework's
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
    """Return a function that returns the app, for dependency injection.

    With `jobs = dependency(fire)`, a parameter `Annotated[Firelock, Depends(jobs)]` is the app. A test can
    replace the app: `web.dependency_overrides[jobs] = dependency(other)`. In Litestar, use
    `Provide(dependency(fire))`.
    """

    async def firelock_app() -> Firelock:
        return fire

    return firelock_app


class RequestIdMiddleware:
    """ASGI middleware that gives each request an id, `request_id`, and sends it with the response.

    With the plugin `RequestMeta`, the jobs that a request creates have this id, and so do the jobs that these
    jobs create.

    Args:
        app: the application.
        header: the header of received and sent ids. A received id is kept if it consists of up to 128
            letters, digits and marks, so that the id of a proxy or a client is passed on. If None, ids are
            neither read nor sent.
    """

    def __init__(self, app: ASGIApp, *, header: str | None = HEADER) -> None:
        self._app = app
        self._header = None if header is None else header.lower().encode("latin-1")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - see ASGIApp
        """Handle one request, or the messages of one connection."""
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
