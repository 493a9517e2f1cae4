"""Shared round trips that store memos: memos that arrive during one round trip are sent in the next.

If no other thread is sending, a thread sends all waiting memos. A thread that has waited for a long time
sends its own memo concurrently, because another memo may be the cause of the delay. Memos of coroutines are
first collected for one turn of their event loop.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import attrs

from firelock.errors import StorageUnavailable
from firelock.jobs.group_commit import another
from firelock.model.aio import in_thread

if TYPE_CHECKING:
    import asyncio
    from typing import TypeAlias

    from firelock.model.memo import NewMemo, Remembered
    from firelock.storage import Storage

    _Waiting: TypeAlias = tuple[NewMemo, asyncio.Future[Remembered]]

_MEMOS, _BYTES = 100, 1_000_000  # maximums per round trip; a single request may be larger
SENDER_WAIT = 0.05  # seconds after which a waiting thread sends concurrently with others


@attrs.define(eq=False)
class _Request:
    memos: Sequence[NewMemo]
    is_notified: threading.Event = attrs.Factory(threading.Event)  # set if it has a result or may be sent now
    answer: list[Remembered] | Exception | None = None
    is_alone: bool = False  # whether its shared round trip timed out, perhaps because of another memo

    @property
    def size(self) -> int:
        """The approximate size in bytes."""
        return sum(len(one.memo.value or "") for one in self.memos)


class MemoCommit:
    """The memos of a worker process's runs, in all threads and event loops.

    Args:
        storage: the storage of the memos.
        sender_wait: seconds for which a thread waits for another thread to send its memo.
    """

    def __init__(self, storage: Storage, sender_wait: float = SENDER_WAIT) -> None:
        self._storage = storage
        self._sender_wait = sender_wait
        self._lock = threading.Lock()
        self._waiting: list[_Request] = []
        self._senders = 0
        self._of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopMemos] = WeakKeyDictionary()

    @property
    def waiting(self) -> int:
        """The number of requests that wait to be sent."""
        return len(self._waiting)

    def put(self, memo: NewMemo) -> Remembered:
        """Store the memo and return the result.

        Raises:
            StorageUnavailable: If it is unknown whether the memo is stored; storing it again is harmless.
            StorageError: If the memo is not stored.
        """
        return self.put_all([memo])[0]

    async def aput(self, memo: NewMemo) -> Remembered:
        """Call `put` without blocking the event loop, together with all memos of the same turn."""
        import asyncio  # noqa: PLC0415 - loaded by now

        loop = asyncio.get_running_loop()
        memos = self._of_loops.get(loop)
        if memos is None:
            memos = self._of_loops[loop] = _LoopMemos(self)
        return await memos.put(memo)

    def put_all(self, memos: Sequence[NewMemo]) -> list[Remembered]:
        """Store several memos; see `put`."""
        request = _Request(memos)
        with self._lock:
            self._waiting.append(request)
        try:
            self._await_answer(request)
        finally:
            with self._lock:
                if request in self._waiting:  # this thread was interrupted
                    self._waiting.remove(request)
        answer = request.answer
        if isinstance(answer, list):
            return answer
        if answer is None:
            return self._storage.remember(memos)
        raise another(answer) if isinstance(answer, StorageUnavailable) else answer

    def _await_answer(self, request: _Request) -> None:
        """Wait until the request has a result or must be sent alone."""
        may_wait = True
        while request.answer is None and not request.is_alone:
            if some := self._taken(request, may_wait=may_wait):
                self._send(some, request)
            else:
                may_wait = request.is_notified.wait(self._sender_wait)
                request.is_notified.clear()

    def _taken(self, request: _Request, *, may_wait: bool) -> list[_Request]:
        """Return the requests that the calling thread must send now, including its own; often empty."""
        with self._lock:
            if request not in self._waiting or (may_wait and self._senders):
                return []
            some, memos, size = {request}, len(request.memos), request.size
            for one in self._waiting:
                if one is not request:
                    memos, size = memos + len(one.memos), size + one.size
                    if memos > _MEMOS or size > _BYTES:
                        break
                    some.add(one)
            taken = [one for one in self._waiting if one in some]
            self._waiting = [one for one in self._waiting if one not in some]
            self._senders += 1
            return taken

    def _send(self, some: Sequence[_Request], own: _Request) -> None:
        """Send the requests; then wake a thread whose request arrived in the meantime, to send the next."""
        try:
            self._answer(some)
        finally:
            with self._lock:
                self._senders -= 1  # after an interruption, requests without a result wait again
                left = [one for one in some if one.answer is None and not one.is_alone and one is not own]
                self._waiting[:0] = left
                notified = [*some, *self._waiting[:1]]
            for one in notified:
                one.is_notified.set()

    def _answer(self, some: Sequence[_Request]) -> None:
        try:
            answers = iter(self._storage.remember([memo for one in some for memo in one.memos]))
        except StorageUnavailable as error:
            for one in some:
                one.is_alone = error.has_waited and len(some) > 1
                one.answer = None if one.is_alone else error
        except Exception as error:  # noqa: BLE001 - it is raised to the requesting thread
            if len(some) == 1:
                some[0].answer = error
                return
            for one in some:  # one at a time, because a bad memo must not cause an error for the others
                self._answer([one])
        else:
            for one in some:
                one.answer = [next(answers) for _ in one.memos]


class _LoopMemos:
    """The memos of an event loop that arrived in the same turn, or while other memos were sent."""

    def __init__(self, commit: MemoCommit) -> None:
        self._commit = commit
        self._waiting: list[_Waiting] = []
        self._sending: object = None

    async def put(self, memo: NewMemo) -> Remembered:
        import asyncio  # noqa: PLC0415 - loaded by now

        loop = asyncio.get_running_loop()
        future: asyncio.Future[Remembered] = loop.create_future()
        self._waiting.append((memo, future))
        if self._sending is None:
            self._sending = loop.create_task(self._send())  # starts after the current turn
        return await future

    async def _send(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._answer(batch)
        finally:
            self._sending = None

    async def _answer(self, batch: list[_Waiting]) -> None:
        try:
            answers: list[Any] = await in_thread(self._commit.put_all, [memo for memo, _ in batch])
        except Exception as error:  # noqa: BLE001 - it is raised to the awaiting coroutines
            if len(batch) > 1 and not isinstance(error, StorageUnavailable):
                for entry in batch:
                    await self._answer([entry])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
