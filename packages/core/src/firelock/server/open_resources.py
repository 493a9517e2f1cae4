"""The resources that a child, or a job's process, has open: each once, from its first use to the stop."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any

import attrs

from firelock.model.aio import in_thread

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from firelock.resource import Resource

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class _Held:
    """What is open on the event loop, kept by one asyncio task that opens it and closes it."""

    opened: asyncio.Future[Any]
    is_to_close: asyncio.Event
    task: asyncio.Task[None] | None = None


@attrs.define(eq=False)
class OpenResources:
    """Opens a resource when the first job asks for it, for all; after a failure the next job tries again.

    What is opened sees no context variable of that job: it outlives it.
    """

    _lock: threading.Lock = attrs.Factory(threading.Lock)
    _values: dict[Resource, Future[Any]] = attrs.Factory(dict)  # of those that are not async
    entered: list[tuple[Resource, AbstractContextManager[Any], Context]] = attrs.Factory(list)
    """What `close` has to close."""
    _held: dict[Resource, _Held] = attrs.Factory(dict)
    _held_open: list[_Held] = attrs.Factory(list)  # as they were opened

    @property
    def has_async(self) -> bool:
        """Tell whether something is open on an event loop, which has to go on until `aclose`."""
        return bool(self._held)

    @property
    def keepers(self) -> set[asyncio.Task[None]]:
        """Return the asyncio tasks that keep something open: whoever ends all tasks of a loop spares them."""
        return {held.task for held in self._held.values() if held.task is not None}

    # ---- taking ------------------------------------------------------------------------------------------

    def get(self, resource: Resource) -> Any:  # noqa: ANN401 - whatever it yields
        """Return what is open, opened by this thread if nobody has; others who ask wait for it.

        Raises:
            LookupError: it is opened on the event loop.
            Exception: as it was opened, to all who waited for it.
        """
        if resource.replacements:
            return resource.replacements[-1]
        if resource.is_async:
            raise LookupError(
                f"Resource {resource.name} is opened on the event loop; ask for it in an async task: "
                f"await current_job().aresource({resource.name})."
            )
        value = self._values.get(resource)
        if value is None:
            value = self._open(resource)
        return value.result()

    def _open(self, resource: Resource) -> Future[Any]:
        from concurrent.futures import Future  # noqa: PLC0415 - loaded when first used

        with self._lock:
            if (value := self._values.get(resource)) is not None:
                return value
            value = self._values[resource] = Future()
        try:
            needs = {name: self.get(each) for name, each in resource.needs.items()}
            context: Any = resource.context(**needs)
            surroundings = Context()
            opened = surroundings.run(context.__enter__)
        except BaseException as error:  # noqa: BLE001 - it is the job's, and of all that wait
            del self._values[resource]
            value.set_exception(error)
        else:
            self.entered.append((resource, context, surroundings))
            value.set_result(opened)
        return value

    async def aget(self, resource: Resource) -> Any:  # noqa: ANN401 - whatever it yields
        """Return what is open; on the event loop, and what is not async is opened in a thread beside it.

        A job that is cancelled while it waits leaves the opening to the next one.

        Raises:
            Exception: as it was opened, to all who waited for it.
        """
        if resource.replacements:
            return resource.replacements[-1]
        if not resource.is_async:
            value = self._values.get(resource)
            return (
                value.result() if value is not None and value.done() else await in_thread(self.get, resource)
            )
        import asyncio  # noqa: PLC0415 - loaded by now

        held = self._held.get(resource)
        if held is None:
            loop = asyncio.get_running_loop()
            held = self._held[resource] = _Held(loop.create_future(), asyncio.Event())
            held.task = loop.create_task(
                self._hold(resource, held), name=f"resource {resource.name}", context=Context()
            )
        return held.opened.result() if held.opened.done() else await asyncio.shield(held.opened)

    async def _hold(self, resource: Resource, held: _Held) -> None:
        """Open, keep open and close in one asyncio task: task groups and time limits ask for that."""
        import asyncio  # noqa: PLC0415 - loaded by now

        try:
            needs = {name: await self.aget(each) for name, each in resource.needs.items()}
            context: AbstractAsyncContextManager[Any] = resource.context(**needs)  # type: ignore[assignment]
            async with context as opened:
                held.opened.set_result(opened)
                self._held_open.append(held)
                with suppress(asyncio.CancelledError):  # whoever ends all tasks ends this one in order
                    await held.is_to_close.wait()
        except BaseException as error:
            if held.opened.done():
                log.exception("Resource %s could not be closed.", resource.name)
            else:
                held.opened.set_exception(_as_exception(resource, error))
                held.opened.exception()  # it is known, also where the job that waited is gone
        finally:
            del self._held[resource]

    # ---- closing -----------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """What is open on this event loop is closed, the last first."""
        for held in [each for each in self._held.values() if not each.opened.done()]:
            if held.task is not None:
                held.task.cancel()
        while self._held_open:
            held = self._held_open.pop()
            held.is_to_close.set()
            if held.task is not None:
                await held.task

    def close(self) -> None:
        """The rest is closed, the last first; call it when no job runs any more, and after `aclose`."""
        while self.entered:
            resource, context, surroundings = self.entered.pop()
            del self._values[resource]
            try:
                surroundings.run(context.__exit__, None, None, None)
            except BaseException:
                log.exception("Resource %s could not be closed.", resource.name)


def _as_exception(resource: Resource, error: BaseException) -> BaseException:
    """Return what a future can hold: it takes no StopIteration, and a cancellation would be the job's."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    told = RuntimeError(
        f"resource {resource.name} was not opened: {type(error).__name__}: {error}".rstrip(": ")
    )
    told.__cause__ = error
    return told
