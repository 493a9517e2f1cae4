"""A storage that fails while a server works: what ended is kept, and nothing is done twice."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from firelock.testing.conformance.server.stage import PATIENCE, ServerFixtures, Stage
from firelock.testing.faults import FaultyStorage
from firelock.testing.waiting import eventually
from firelock.values import State

__all__ = ["OutageDuty"]


class OutageDuty(ServerFixtures):
    """A lost reply is harmless, and an outage costs time alone."""

    @pytest.fixture
    def faulty(self, stage: Stage) -> FaultyStorage:
        """Return a handle of the store that can be told to fail."""
        return FaultyStorage.around(stage.open_handle())

    def test_a_claim_whose_reply_was_lost_is_found_again(self, stage: Stage, faulty: FaultyStorage) -> None:
        """The storage gave the job out and nobody got it: the server hands it back and runs it."""
        runs: Counter[int] = Counter()

        def notes(number: int) -> None:
            runs[number] += 1

        task = stage.app.task(name="kit.notes")(notes)
        jobs = task.enqueue_many([(number,) for number in range(5)])
        faulty.fail_next("claim", after_effect=True)

        stage.serve(stage.another_app(faulty))

        records = [stage.ended(job) for job in jobs]
        assert {(State.SUCCEEDED, 1, 0)} == {(one.state, one.attempt, one.crashes) for one in records}
        assert {1} == set(runs.values())

    def test_an_end_whose_reply_was_lost_is_not_written_twice(
        self, stage: Stage, faulty: FaultyStorage
    ) -> None:
        """The server sends it again and learns that it is in the storage already."""
        started, gate = threading.Event(), threading.Event()

        def waits() -> None:
            started.set()
            gate.wait(PATIENCE)

        task = stage.app.task(name="kit.waits")(waits)
        job = task.enqueue()
        stage.serve(stage.another_app(faulty), workers=1)
        assert started.wait(PATIENCE)

        faulty.fail_next("exchange", after_effect=True)
        faulty.fail_next("apply", after_effect=True)
        gate.set()

        assert State.SUCCEEDED == stage.ended(job).state
        assert State.SUCCEEDED == stage.ended(task.enqueue()).state
        assert [State.ENQUEUED, State.SUCCEEDED] == stage.states(job)

    def test_what_ends_while_the_storage_is_away_is_written_when_it_is_back(
        self, stage: Stage, faulty: FaultyStorage
    ) -> None:
        """The end is kept, the job is not run again, and the server goes on."""
        started, gate, runs = threading.Event(), threading.Event(), list[str]()

        def waits() -> str:
            runs.append("run")
            started.set()
            gate.wait(PATIENCE)
            return "kept"

        task = stage.app.task(name="kit.waits")(waits)
        job = task.enqueue()
        stage.serve(stage.another_app(faulty), workers=1)
        assert started.wait(PATIENCE)

        with faulty.away():
            gate.set()
            eventually(lambda: faulty.refusals >= 5)
            assert State.PROCESSING == stage.record(job).state

        assert "kept" == job.result(timeout=PATIENCE)
        assert ["run"] == runs
        assert "kept" == task.enqueue().result(timeout=PATIENCE)
