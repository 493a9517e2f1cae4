"""Concurrent awaits share one round trip: who awaits an insert while one is under way joins the next."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING
from weakref import WeakSet

from firelock.errors import StorageError, StorageUnavailable
from firelock.storage import Storage
from firelock.storage.defaults import insert_surely
from firelock.values import NewJob

if TYPE_CHECKING:
    import asyncio

__all__ = ["GroupCommit"]

_LARGEST = 500


class GroupCommit:
    """One thread an app, started by the first await; it stores what gathered since its last round trip."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._waiting: list[tuple[NewJob, asyncio.Future[None]]] = []
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._telling: WeakSet[asyncio.AbstractEventLoop] = WeakSet()  # loops that will tell the thread
        self._is_ready = False  # the thread has been told

    async def insert(self, job: NewJob) -> None:
        """The job is stored. A cancelled await may have stored it or not; its id tells.

        Raises:
            StorageError: it is not stored.
        """
        import asyncio  # noqa: PLC0415 - loaded when first used

        if self._pid != os.getpid():  # the thread of before a fork is the parent's
            self._reset()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._condition:
            if self._is_closed:
                message = "This Firelock is closed; make a new one."
                raise StorageError(message)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="firelock-enqueue", daemon=True)
                self._thread.start()
            self._waiting.append((job, future))
            if loop not in self._telling:  # at the end of its turn: who awaits in the same turn is in it
                self._telling.add(loop)
                loop.call_soon(self._tell, loop)
        await future

    def _tell(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._condition:
            self._telling.discard(loop)
            self._is_ready = True
            self._condition.notify()

    def close(self) -> None:
        """What waits is stored and the thread has ended."""
        if self._pid != os.getpid():
            return
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._is_ready:
                    if self._is_closed and not self._waiting:
                        return
                    if self._is_closed:
                        break
                    self._condition.wait()
                batch, self._waiting = self._waiting[:_LARGEST], self._waiting[_LARGEST:]
                self._is_ready = bool(self._waiting)
            if not batch:
                continue
            self._answer(batch, self._store(batch))

    def _store(self, batch: list[tuple[NewJob, asyncio.Future[None]]]) -> list[Exception | None]:
        try:
            insert_surely(self._storage, [job for job, _ in batch])
        except StorageUnavailable as error:  # one by one they would meet the same outage, each for its time
            return [_another(error) for _ in batch]
        except Exception as error:  # noqa: BLE001 - it goes to whoever awaits
            if len(batch) == 1:
                return [error]
            # One bad job, such as a continuation of an unknown parent, must not refuse its neighbours.
            return [answer for entry in batch for answer in self._store([entry])]
        return [None] * len(batch)

    def _answer(
        self, batch: list[tuple[NewJob, asyncio.Future[None]]], errors: list[Exception | None]
    ) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[None], Exception | None]]] = {}
        for (_, future), error in zip(batch, errors, strict=True):
            loops.setdefault(future.get_loop(), []).append((future, error))
        for loop, answers in loops.items():
            try:
                loop.call_soon_threadsafe(_resolve, answers)
            except RuntimeError:  # the loop was closed meanwhile; nobody awaits any more
                continue


def _another(error: StorageUnavailable) -> StorageUnavailable:
    """Return the error once more: each await raises one of its own, with its own traceback."""
    other = StorageUnavailable(*error.args)
    other.is_untouched = error.is_untouched
    other.__cause__ = error
    return other


def _resolve(answers: list[tuple[asyncio.Future[None], Exception | None]]) -> None:
    for future, error in answers:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
