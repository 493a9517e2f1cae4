"""Jobs that are told to end while they run: deleted ones, and those above their timeout."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from firelock.context import JobContext
from firelock.retry import Retry
from firelock.task import TaskVerbs
from firelock.testing.conformance.server.stage import PATIENCE, ServerFixtures, Stage, pause
from firelock.testing.waiting import eventually
from firelock.values import State

__all__ = ["CancellingDuty"]


class _Resting:
    """A task in both forms that runs until it is told to end; `started` and `ended` tell how far it is."""

    def __init__(self) -> None:
        self.started, self.ended = threading.Event(), threading.Event()

    def in_thread(self) -> Callable[..., None]:
        def rests(context: JobContext) -> None:
            self.started.set()
            try:
                for _ in range(int(PATIENCE * 100)):
                    context.raise_if_cancelled()
                    pause()
            finally:
                self.ended.set()

        return rests

    def on_loop(self) -> Callable[..., Any]:
        async def rests(_: JobContext) -> None:
            self.started.set()
            try:
                await asyncio.wait_for(asyncio.get_running_loop().create_future(), PATIENCE)
            finally:
                self.ended.set()

        return rests

    def registered(self, stage: Stage, *, is_async: bool) -> TaskVerbs[..., Any]:
        function = self.on_loop() if is_async else self.in_thread()
        task: TaskVerbs[..., Any] = stage.app.task(name="kit.rests", retry=Retry.never())(function)
        return task


class CancellingDuty(ServerFixtures):
    """A thread is asked to end, a coroutine is cancelled; what they return then does not count."""

    @pytest.mark.parametrize("is_async", [False, True], ids=["thread", "loop"])
    def test_a_job_deleted_while_it_runs_is_told_to_end(self, stage: Stage, is_async: bool) -> None:
        """It stays deleted whatever its task does, and its holder lets it go."""
        resting = _Resting()
        job = resting.registered(stage, is_async=is_async).enqueue()
        stage.serve()
        assert resting.started.wait(PATIENCE)

        job.delete()

        assert resting.ended.wait(PATIENCE)
        eventually(lambda: not stage.record(job).is_stopping)
        assert [State.ENQUEUED, State.DELETED] == stage.states(job)

    @pytest.mark.parametrize("is_async", [False, True], ids=["thread", "loop"])
    def test_a_job_above_its_timeout_is_told_to_end_and_fails(self, stage: Stage, is_async: bool) -> None:
        """Its failure is a TimeoutError that names the seconds."""
        resting = _Resting()
        job = resting.registered(stage, is_async=is_async).using(timeout=0.2).enqueue()

        stage.serve()

        record = stage.ended(job)
        assert State.FAILED == record.state
        assert record.error is not None
        assert ("TimeoutError", "timed out after 0.2 s") == (
            record.error.type.rpartition(".")[2], record.error.message,
        )  # fmt: skip

    def test_a_thread_that_ignores_its_timeout_has_timed_out_all_the_same(self, stage: Stage) -> None:
        """What it returns after its time does not count, and no retry ran beside it."""
        overlaps: list[int] = []
        running: list[int] = []

        def ignores(context: JobContext) -> str:
            overlaps.append(len(running))
            running.append(1)
            while not context.cancelled:
                pause()
            running.pop()
            return "too late"

        task = stage.app.task(name="kit.ignores", retry=Retry.fixed(0, attempts=1))(ignores)
        job = task.using(timeout=0.2).enqueue()

        stage.serve()

        record = stage.ended(job)
        assert (State.FAILED, None) == (record.state, record.result)
        assert [State.ENQUEUED, State.ENQUEUED, State.FAILED] == stage.states(job)
        assert [0, 0] == overlaps
