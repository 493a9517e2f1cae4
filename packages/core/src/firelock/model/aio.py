"""Threads for blocking calls in asyncio programs, and async versions of blocking methods (`aget`)."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import attrs

if TYPE_CHECKING:
    from concurrent.futures import Future

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")

_THREADS = 16  # number of threads for all calls; about the size of a connection pool
_IDLE = 10.0  # seconds after which an idle thread ends
_STALL = 0.1  # one more thread starts if no waiting call has started for this number of seconds


class BlockingCalls:
    """A thread pool in which coroutines run Firelock's own blocking calls.

    The few threads of `asyncio.to_thread` are not used: an application might occupy all of them with calls
    that wait for Firelock, which would be a deadlock. The threads of this pool are daemons, so they do not
    delay the exit of the interpreter.

    Calls that wait for each other do not deadlock, because the pool starts one more thread if none of the
    waiting calls could start for a moment.

    Args:
        threads: the number of threads; more are started only if all of them are blocked.
        idle: seconds after which an idle thread ends.
        stall: if no waiting call starts for this number of seconds, one more thread is started.
    """

    def __init__(self, threads: int = _THREADS, *, idle: float = _IDLE, stall: float = _STALL) -> None:
        self._limit = threads
        self._idle_seconds = idle
        self._stall_seconds = stall
        self.reset()

    def reset(self) -> None:
        """Discard all threads and calls after a fork, because the new process does not have them."""
        self._lock = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._idle: list[_Thread] = []  # the most recently used thread is last, so that the others can end
        self._count = 0  # number of threads
        self._started = 0  # number of calls that were started after a wait
        self._watcher: threading.Thread | None = None  # thread that runs while calls wait

    def submit(self, function: Callable[[], R]) -> Future[R]:
        """Call the function in a thread and return its future.

        Raises:
            RuntimeError: The system cannot start a thread, and none exists yet.
        """
        from concurrent.futures import Future  # noqa: PLC0415 - asyncio has already imported it

        call = _Call(Future(), function)
        with self._lock:
            if self._idle:
                self._idle.pop().take(call)
                return call.future
            self._waiting.append(call)
            try:
                self._help()
            except RuntimeError:
                if not self._count:
                    self._waiting.remove(call)
                    raise
        return call.future

    def _help(self) -> None:
        """Start a thread, or the stall watcher if the limit is reached. The caller must hold the lock."""
        if self._count < self._limit:
            self._start_thread()
        elif self._watcher is None:
            watcher = threading.Thread(target=self._watch, name="firelock-async-watch", daemon=True)
            watcher.start()
            self._watcher = watcher

    def _start_thread(self) -> None:
        threading.Thread(target=self._work, name="firelock-async", daemon=True).start()
        self._count += 1

    def _work(self) -> None:
        thread = _Thread()
        while (call := self._next(thread)) is not None:
            call.run()
            del call  # do not keep the call and its result alive while the thread is idle

    def _next(self, thread: _Thread) -> _Call | None:
        """Return the thread's next call, or None if the thread was idle for too long and must end."""
        with self._lock:
            if self._waiting:
                self._started += 1
                return self._waiting.popleft()
            self._idle.append(thread)
        if not thread.woken.acquire(timeout=self._idle_seconds):
            with self._lock:
                if thread in self._idle:
                    self._idle.remove(thread)
                    self._count -= 1
                    return None
            thread.woken.acquire()  # a call was assigned to this thread just before the timeout
        return thread.taken()

    def _watch(self) -> None:
        """Start one more thread whenever no waiting call has started for `stall` seconds."""
        pause = threading.Event()
        while True:
            with self._lock:
                if not self._waiting:
                    self._watcher = None
                    return
                started = self._started
            pause.wait(self._stall_seconds)
            with self._lock:
                if self._waiting and started == self._started:
                    with suppress(
                        RuntimeError
                    ):  # the system cannot start a thread now, but might be able to later
                        self._start_thread()


@attrs.define(eq=False)
class _Call:
    future: Future[Any]
    function: Callable[[], Any]

    def run(self) -> None:
        """Call the function, unless its future was cancelled."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.function()
        except BaseException as error:  # noqa: BLE001 - raised where the call is awaited
            self.future.set_exception(error)
            del self  # the traceback of the error refers to this frame
        else:
            self.future.set_result(result)


class _Thread:
    """An idle thread and the call that wakes it."""

    def __init__(self) -> None:
        self.woken = threading.Lock()
        self.woken.acquire()
        self._call: _Call | None = None

    def take(self, call: _Call) -> None:
        self._call = call
        self.woken.release()

    def taken(self) -> _Call | None:
        call, self._call = self._call, None
        return call


_calls = BlockingCalls()

if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows cannot fork
    os.register_at_fork(after_in_child=_calls.reset)


async def in_thread(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call the function in one of Firelock's threads with the caller's context, and return its result.

    If the coroutine is cancelled in the meantime, the thread still finishes the call.
    """
    import asyncio  # noqa: PLC0415 - only programs that use asyncio need it

    context = copy_context()
    return await asyncio.wrap_future(_calls.submit(lambda: context.run(function, *args, **kwargs)))


def twin(verb: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Return the async version of a method; assign it to the method's name with the prefix `a` (`aget`)."""

    async def awaited(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        blocking: Callable[P, R] = getattr(self, name)
        return await in_thread(blocking, *args, **kwargs)

    name = verb.__name__
    awaited.__name__ = f"a{name}"
    awaited.__qualname__ = verb.__qualname__.removesuffix(name) + awaited.__name__
    awaited.__doc__ = f"`{name}` without blocking the event loop."
    awaited.__wrapped__ = verb  # type: ignore[attr-defined]  # for inspect.signature
    return awaited
