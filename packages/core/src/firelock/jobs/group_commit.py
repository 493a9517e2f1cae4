"""Store in one round trip the jobs that coroutines enqueue at the same time; see `GroupCommit`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

from firelock.errors import DuplicateJob, StorageError, StorageUnavailable
from firelock.model.answers import Duplicate, Inserted
from firelock.model.job import NewJob
from firelock.storage import Storage

if TYPE_CHECKING:
    import asyncio
    from typing import TypeAlias

    _Answer: TypeAlias = bool | Duplicate | Exception
    _Waiting: TypeAlias = tuple[NewJob, asyncio.Future[bool | Duplicate]]
    _Answered: TypeAlias = tuple[asyncio.Future[bool | Duplicate], _Answer]


_LARGEST = 500
_T = TypeVar("_T")


def _is_unique(job: NewJob) -> bool:
    admission = job.admission
    return admission is not None and admission.unique is not None


class GroupCommit:
    """The thread of an app that stores awaited jobs; the first await starts it.

    Each round trip stores the jobs that have arrived since the previous round trip.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._waiting: list[_Waiting] = []
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._notifying: WeakSet[asyncio.AbstractEventLoop] = WeakSet()  # loops that will notify the thread
        self._is_ready = False  # whether the thread was notified

    async def insert(self, job: NewJob) -> bool | Duplicate:
        """Store the job and return the result.

        If the await is cancelled, the job might be stored nevertheless; look it up by its id.

        Raises:
            DuplicateJob: If another job has the job's unique key, and the key is set to refuse duplicates.
            StorageError: If the job was not stored.
        """
        import asyncio  # noqa: PLC0415 - loaded when first used

        if self._pid != os.getpid():  # after a fork, the thread exists only in the parent
            self._reset()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool | Duplicate] = loop.create_future()
        with self._condition:
            if self._is_closed:
                raise StorageError("This Firelock is closed; create a new one.")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="firelock-enqueue", daemon=True)
                self._thread.start()
            self._waiting.append((job, future))
            if loop not in self._notifying:  # notify after this loop iteration, to store its jobs together
                self._notifying.add(loop)
                loop.call_soon(self._notify, loop)
        return await future

    def _notify(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._condition:
            self._notifying.discard(loop)
            self._is_ready = True
            self._condition.notify()

    def close(self) -> None:
        """Store the waiting jobs, then stop the thread."""
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

    def _store(self, entries: list[_Waiting]) -> list[_Answer]:
        try:
            return list(insert_surely(self._storage, [job for job, _ in entries]).is_new)
        except DuplicateJob as error:
            if len(entries) == 1:
                return [error]
            # One job with a unique key was refused: store the jobs with unique keys one by one, the others
            # together.
            others = [entry for entry in entries if not _is_unique(entry[0])]
            answers = iter(self._store(others) if others else ())
            return [self._store([entry])[0] if _is_unique(entry[0]) else next(answers) for entry in entries]
        except StorageUnavailable as error:  # otherwise each job would wait for the same outage
            return [another(error) for _ in entries]
        except Exception as error:  # noqa: BLE001 - passed to the awaiting coroutine
            if len(entries) == 1:
                return [error]
            # One bad job, such as a continuation of an unknown parent, must not prevent the others from being
            # stored.
            return [answer for entry in entries for answer in self._store([entry])]

    def _answer(self, entries: list[_Waiting], answers: list[_Answer]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[_Answered]] = {}
        for (_, future), answer in zip(entries, answers, strict=True):
            loops.setdefault(future.get_loop(), []).append((future, answer))
        for loop, answered in loops.items():
            try:
                loop.call_soon_threadsafe(_resolve, answered)
            except RuntimeError:  # the loop has been closed, so nothing awaits the result
                continue


def another(error: StorageUnavailable) -> StorageUnavailable:
    """Return a copy of the error, because each await raises its own error with its own traceback."""
    other = StorageUnavailable(*error.args)
    other.is_untouched, other.has_waited = error.is_untouched, error.has_waited
    other.longest_pause = error.longest_pause
    other.__cause__ = error
    return other


def _resolve(answered: list[_Answered]) -> None:
    for future, answer in answered:
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)


def insert_surely(storage: Storage, jobs: Sequence[NewJob]) -> Inserted:
    """Store the jobs; if the storage was unavailable, try once more, because `insert` is idempotent by id.

    Raises:
        StorageUnavailable: If both tries failed, or the first try already took the maximum time. The jobs
            might be stored nevertheless, unless `is_untouched` is set.
    """
    try:
        return storage.insert(jobs)
    except StorageUnavailable as error:
        return _repeated(lambda: storage.insert(jobs), error)


def repeat_once(call: Callable[[], _T]) -> _T:
    """Return the result of an idempotent call, which is sent again if the storage was unavailable.

    Raises:
        StorageUnavailable: If both tries failed, or the first one already waited for the maximum time.
    """
    try:
        return call()
    except StorageUnavailable as error:
        return _repeated(call, error)


def _repeated(call: Callable[[], _T], first: StorageUnavailable) -> _T:
    is_lasting = first.is_untouched and first.longest_pause > StorageUnavailable.longest_pause
    if first.has_waited or is_lasting:
        raise first
    try:
        return call()
    except StorageUnavailable as error:
        error.is_untouched &= first.is_untouched  # the first try may have been stored
        raise


@contextmanager
def part_of_call(*, is_first: bool) -> Iterator[None]:
    """Wrap the code that stores one part of a call.

    If a later part fails, its error must not claim that nothing was stored.
    """
    try:
        yield
    except StorageUnavailable as error:
        error.is_untouched &= is_first
        raise
