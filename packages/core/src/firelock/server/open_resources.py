"""The open resources of a worker or job process; each is opened once, and closed when the process stops."""

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
    """An open resource on the event loop: one asyncio task opens it, keeps it open and closes it."""

    opened: asyncio.Future[Any]
    is_to_close: asyncio.Event
    task: asyncio.Task[None] | None = None


@attrs.define(eq=False)
class OpenResources:
    """The open resources. Each is opened when a job first requests it, and all jobs share it.

    If a resource cannot be opened, the next job tries again. A resource cannot use the context variables of
    the job that opens it, because the resource outlives that job.
    """

    _lock: threading.Lock = attrs.Factory(threading.Lock)
    _values: dict[Resource, Future[Any]] = attrs.Factory(dict)  # values of the synchronous resources
    entered: list[tuple[Resource, AbstractContextManager[Any], Context]] = attrs.Factory(list)
    """The resources that `close` must close."""
    _held: dict[Resource, _Held] = attrs.Factory(dict)
    _held_open: list[_Held] = attrs.Factory(list)  # async resources, in the order in which they were opened

    @property
    def has_async(self) -> bool:
        """Whether a resource is open on an event loop, which must run until `aclose`."""
        return bool(self._held)

    @property
    def keepers(self) -> set[asyncio.Task[None]]:
        """The asyncio tasks that keep a resource open. Code that cancels all tasks must skip them."""
        return {held.task for held in self._held.values() if held.task is not None}

    # ---- opening -----------------------------------------------------------------------------------------

    def get(self, resource: Resource) -> Any:  # noqa: ANN401 - any yielded value
        """Return the value of the resource; this thread opens it if necessary, and other threads wait.

        Raises:
            LookupError: If the resource is opened on the event loop.
            Exception: If the resource cannot be opened; every thread that waited for it gets the same error.
        """
        if resource.replacements:
            return resource.replacements[-1]
        if resource.is_async:
            raise LookupError(
                f"Resource {resource.name} is opened on the event loop; use it in an async task: "
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
            variables = Context()
            opened = variables.run(context.__enter__)
        except BaseException as error:  # noqa: BLE001 - raised in the job and in all threads that wait
            del self._values[resource]
            value.set_exception(error)
        else:
            self.entered.append((resource, context, variables))
            value.set_result(opened)
        return value

    async def aget(self, resource: Resource) -> Any:  # noqa: ANN401 - any yielded value
        """Return the value of the resource to a coroutine; a resource that is not async opens in a thread.

        If a job is cancelled while it waits, the resource is opened anyway, for the next job.

        Raises:
            Exception: If the resource cannot be opened; every job that waited for it gets the same error.
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
        """Open, keep and close the resource in one asyncio task, which task groups and timeouts require."""
        import asyncio  # noqa: PLC0415 - loaded by now

        try:
            needs = {name: await self.aget(each) for name, each in resource.needs.items()}
            context: AbstractAsyncContextManager[Any] = resource.context(**needs)  # type: ignore[assignment]
            async with context as opened:
                held.opened.set_result(opened)
                self._held_open.append(held)
                with suppress(asyncio.CancelledError):  # code that cancels all tasks closes this one normally
                    await held.is_to_close.wait()
        except BaseException as error:
            if held.opened.done():
                log.exception("Resource %s could not be closed.", resource.name)
            else:
                held.opened.set_exception(_as_exception(resource, error))
                held.opened.exception()  # marks the exception as retrieved, even if the waiting job has ended
        finally:
            del self._held[resource]

    # ---- closing -----------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the resources on this event loop, starting with the last one that was opened."""
        for held in [each for each in self._held.values() if not each.opened.done()]:
            if held.task is not None:
                held.task.cancel()
        while self._held_open:
            held = self._held_open.pop()
            held.is_to_close.set()
            if held.task is not None:
                await held.task

    def close(self) -> None:
        """Close the other resources, the last one first. Call this after `aclose`, when no job is running."""
        while self.entered:
            resource, context, variables = self.entered.pop()
            del self._values[resource]
            try:
                variables.run(context.__exit__, None, None, None)
            except BaseException:
                log.exception("Resource %s could not be closed.", resource.name)


def _as_exception(resource: Resource, error: BaseException) -> BaseException:
    """Return an error that can be set on a future.

    A future does not accept StopIteration, and a cancellation would look like a cancellation of the job.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError(
        f"resource {resource.name} was not opened: {type(error).__name__}: {error}".rstrip(": ")
    )
    wrapped.__cause__ = error
    return wrapped
