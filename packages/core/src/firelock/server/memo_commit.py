"""What runs remember shares round trips: memos that come while some are sent go with the next ones.

Whoever finds nobody sending sends what waits, and leaves what came meanwhile to the first who waits. Memos of
coroutines gather for a turn of their event loop before that.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import attrs

from firelock.aio import in_thread
from firelock.errors import StorageUnavailable
from firelock.storage_access import another

if TYPE_CHECKING:
    import asyncio
    from typing import TypeAlias

    from firelock.storage import Storage
    from firelock.values import NewMemo, Remembered

    _Waiting: TypeAlias = tuple[NewMemo, asyncio.Future[Remembered]]

_AT_ONCE = 100  # of those who ask


@attrs.define(eq=False)
class _Asked:
    memos: Sequence[NewMemo]
    turn: (
        threading.Event | None
    )  # set: there is an answer, or it is its turn to send; None for who sends at once
    answer: list[Remembered] | Exception | None = None


class MemoCommit:
    """The memos of a child's runs, whichever thread or event loop they run in."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._waiting: list[_Asked] = []
        self._is_sending = False
        self._of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopMemos] = WeakKeyDictionary()

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    def put(self, memo: NewMemo) -> Remembered:
        """The memo is remembered; return what became of it.

        Raises:
            StorageUnavailable: whether it is remembered is not known; putting it again is harmless.
            StorageError: it is not.
        """
        return self.put_all([memo])[0]

    async def aput(self, memo: NewMemo) -> Remembered:
        """`put` without blocking the event loop: with all that are put in the same turn of it."""
        import asyncio  # noqa: PLC0415 - loaded by now

        loop = asyncio.get_running_loop()
        memos = self._of_loops.get(loop)
        if memos is None:
            memos = self._of_loops[loop] = _LoopMemos(self)
        return await memos.put(memo)

    def put_all(self, memos: Sequence[NewMemo]) -> list[Remembered]:
        """`put` of several."""
        with self._lock:
            asked = _Asked(memos, threading.Event() if self._is_sending else None)
            self._waiting.append(asked)
            self._is_sending = True
        if asked.turn is not None:
            asked.turn.wait()
        if asked.answer is None:
            self._send(asked)
        answer = asked.answer
        if isinstance(answer, list):
            return answer
        assert answer is not None  # noqa: S101 - whoever sends is answered, or has raised
        raise another(answer) if isinstance(answer, StorageUnavailable) else answer

    def _send(self, own: _Asked) -> None:
        """All who wait are answered, and who came meanwhile is told to send."""
        with self._lock:
            asked, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
        try:
            self._answer(asked)
        finally:
            with self._lock:  # who has no answer, as something interrupted this thread, waits on
                self._waiting[:0] = [one for one in asked if one.answer is None and one is not own]
                self._is_sending = bool(self._waiting)
                told = [*asked, *self._waiting[:1]]
            for one in told:
                if one.turn is not None:
                    one.turn.set()

    def _answer(self, asked: Sequence[_Asked]) -> None:
        try:
            answers = iter(self._storage.remember([memo for one in asked for memo in one.memos]))
        except Exception as error:  # noqa: BLE001 - it goes to whoever asked
            if len(asked) == 1 or isinstance(error, StorageUnavailable):
                for one in asked:
                    one.answer = error
                return
            for one in asked:  # one bad memo must not refuse its neighbours
                self._answer([one])
            return
        for one in asked:
            one.answer = [next(answers) for _ in one.memos]


class _LoopMemos:
    """The memos of one event loop: those of one turn, and those that come while one is sent."""

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
            self._sending = loop.create_task(self._send())  # begins when this turn is over
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
        except Exception as error:  # noqa: BLE001 - it goes to whoever awaits
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
