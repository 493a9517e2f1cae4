"""How a server stops: what ends in time is kept, the rest is handed back, and nothing runs twice."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import pytest

from firelock.context import JobContext
from firelock.testing.conformance.server.stage import PATIENCE, ServerFixtures, Stage, pause
from firelock.testing.waiting import eventually
from firelock.values import State

__all__ = ["StoppingDuty"]

_MANY = 40


class StoppingDuty(ServerFixtures):
    """An orderly stop burns no attempt and repeats nothing that ends within the grace time."""

    @pytest.mark.parametrize("is_async", [False, True], ids=["thread", "loop"])
    def test_without_grace_a_running_job_is_handed_back(self, stage: Stage, is_async: bool) -> None:
        """It is enqueued with its attempt given back, and runs to its end on the next server."""
        started, runs = threading.Event(), list[int]()

        def rests(context: JobContext) -> None:
            runs.append(context.attempt)
            started.set()
            while len(runs) == 1:
                context.raise_if_cancelled()
                pause()

        async def arests(context: JobContext) -> None:
            runs.append(context.attempt)
            started.set()
            if len(runs) == 1:
                await asyncio.get_running_loop().create_future()

        job = stage.app.task(name="kit.rests")(arests if is_async else rests).enqueue()
        server = stage.serve()
        assert started.wait(PATIENCE)

        server.stop(grace=0)

        record = stage.record(job)
        assert (State.ENQUEUED, 0, 0, 0) == (record.state, record.attempt, record.retries, record.crashes)
        assert "server stopping" == record.reason
        stage.serve(stage.another_app())
        assert (State.SUCCEEDED, 1) == ((ended := stage.ended(job)).state, ended.attempt)
        assert [1, 1] == runs

    def test_a_graceful_stop_repeats_nothing(self, stage: Stage) -> None:
        """Each of many short jobs runs once, some before the stop and the others after it."""
        runs: Counter[int] = Counter()

        def notes(number: int) -> None:
            runs[number] += 1
            pause(0.005)

        task = stage.app.task(name="kit.notes")(notes)
        jobs = task.enqueue_many([(number,) for number in range(_MANY)])
        first = stage.serve(workers=2)
        eventually(lambda: len(runs) >= _MANY // 8)

        first.stop(grace=PATIENCE)
        before = len(runs)
        stage.serve(stage.another_app())

        records = [stage.ended(job) for job in jobs]
        assert before < _MANY
        assert {State.SUCCEEDED} == {record.state for record in records}
        assert {1} == {record.attempt for record in records}
        assert ({1}, _MANY) == (set(runs.values()), len(runs))

    def test_a_stopped_server_holds_nothing_and_is_seen_as_gone(self, stage: Stage) -> None:
        """Its session is over, so nobody has to wait for a timeout."""

        def runs() -> None: ...

        job = stage.app.task(name="kit.runs")(runs).enqueue()
        server = stage.serve(name="short-lived")
        stage.ended(job)
        assert ["short-lived"] == [one.name for one in stage.app.servers.list() if one.is_alive]

        server.stop()

        assert [] == [one.name for one in stage.app.servers.list() if one.is_alive]
