"""How attempts end, and what stays of them."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta

import pytest

from firelock.context import JobContext, Snooze
from firelock.errors import ResultUnavailable
from firelock.retry import Retry
from firelock.testing.conformance.server.stage import ServerFixtures, Stage
from firelock.values import NewJob, State

__all__ = ["EndingDuty"]


class EndingDuty(ServerFixtures):
    """Success, failure, retry, snooze: each is written once, with all that belongs to it."""

    @pytest.mark.parametrize("is_async", [False, True], ids=["thread", "loop"])
    def test_retries_run_to_the_end_and_the_history_tells_each(self, stage: Stage, is_async: bool) -> None:
        """Two retries make three runs; then the job is failed, with an entry and a traceback for each."""

        def fails() -> None:
            raise ValueError("boom")

        async def afails() -> None:
            raise ValueError("boom")

        retry = Retry.fixed(0, attempts=2)
        task = stage.app.task(name="kit.fails", retry=retry)(afails if is_async else fails)
        job = task.enqueue()

        stage.serve()

        assert State.FAILED == stage.ended(job).state
        history = job.history()
        assert [State.ENQUEUED, State.ENQUEUED, State.ENQUEUED, State.FAILED] == stage.states(job)
        assert [None, 1, 2, 3] == [entry.attempt for entry in history]
        assert "retry 2 of 2: ValueError: boom" == history[2].reason
        assert all(entry.server and entry.started_at for entry in history[1:])
        errors = job.errors()
        assert [1, 2, 3] == [one.attempt for one in errors]
        assert all("boom" in str(one.error.traceback) for one in errors)

    def test_a_snoozed_job_runs_again_and_its_attempt_does_not_count(self, stage: Stage) -> None:
        """A task that returns Snooze is scheduled; the run after that is the first attempt still."""
        runs: list[int] = []

        def waits(context: JobContext) -> Snooze | str:
            runs.append(context.attempt)
            return Snooze(timedelta(milliseconds=50), "not yet") if len(runs) == 1 else "done"

        job = stage.app.task(name="kit.waits")(waits).enqueue()

        stage.serve()

        record = stage.ended(job)
        assert [1, 1] == runs
        assert (State.SUCCEEDED, 1, 0) == (record.state, record.attempt, record.retries)
        assert [State.ENQUEUED, State.SCHEDULED, State.ENQUEUED, State.SUCCEEDED] == stage.states(job)
        assert "not yet" == job.history()[1].reason

    def test_a_result_is_what_the_task_returned(self, stage: Stage) -> None:
        """A value and None come back as they were returned."""

        def returns(value: int | None) -> int | None:
            return value

        task = stage.app.task(name="kit.returns")(returns)
        some, none = task.enqueue(42), task.enqueue(None)

        stage.serve()

        assert 42 == some.result(timeout=10)
        assert none.result(timeout=10) is None

    def test_a_result_that_cannot_be_stored_leaves_its_reason(self, stage: Stage) -> None:
        """The job has succeeded; there is no result, and the record says why."""

        def returns() -> object:
            return threading.Lock()

        job = stage.app.task(name="kit.returns")(returns).enqueue()

        stage.serve()

        record = stage.ended(job)
        assert (State.SUCCEEDED, None) == (record.state, record.result)
        assert "was not stored" in str(record.result_absent)
        with pytest.raises(ResultUnavailable):
            job.result(timeout=10)

    def test_undecodable_arguments_fail_at_once_and_keep_their_text(self, stage: Stage) -> None:
        """Nobody can run what cannot be read: no retry, no loss, and no harm to the next job."""

        def reads(number: int) -> int:
            return number

        task = stage.app.task(name="kit.reads")(reads)
        storage = stage.app.storage
        broken = NewJob(
            storage.new_ids(1)[0],
            task.name,
            '{"number": ',
            "json",
            "default",
            0,
            State.ENQUEUED,
            storage.clock(),
        )
        storage.insert([broken])
        job = task.enqueue(7)

        stage.serve()

        assert 7 == job.result(timeout=10)
        record = stage.ended(broken.id)
        assert (State.FAILED, 0, '{"number": ') == (record.state, record.retries, record.arguments)
        assert "arguments cannot be read" in str(record.reason)

    def test_an_unknown_task_waits_for_a_server_that_knows_it(self, stage: Stage) -> None:
        """It is neither failed nor counted as an attempt, and its reason names the task."""

        def known() -> None: ...

        def elsewhere() -> None: ...

        stage.app.task(name="kit.known")(known)
        client = stage.another_app()
        job = client.task(name="kit.elsewhere")(elsewhere).enqueue()

        stage.serve()

        record = stage.when(job, lambda record: record.state is State.SCHEDULED)
        assert (0, 0) == (record.attempt, record.retries)
        assert "'kit.elsewhere' is not registered" in str(record.reason)
        assert record.due_at is not None
        assert record.due_at > stage.app.storage.clock()

    def test_a_job_of_a_missing_serializer_waits_for_a_server_that_has_it(self, stage: Stage) -> None:
        """It is neither failed nor counted as an attempt, its arguments stay, and its history says why."""

        def reads(number: int) -> int:
            return number

        task = stage.app.task(name="kit.reads")(reads)
        storage = stage.app.storage
        sealed = NewJob(
            storage.new_ids(1)[0],
            task.name,
            "sealed",
            "kit-sealing",
            "default",
            0,
            State.ENQUEUED,
            storage.clock(),
        )
        storage.insert([sealed])

        stage.serve()

        record = stage.when(sealed.id, lambda record: record.state is State.SCHEDULED)
        assert (0, 0, "sealed") == (record.attempt, record.retries, record.arguments)
        assert "serializer 'kit-sealing' is not installed" in str(record.reason)
        assert record.due_at is not None
        assert record.due_at > storage.clock()
        assert [State.ENQUEUED, State.SCHEDULED] == stage.states(sealed.id)

    def test_what_a_job_said_is_there_when_it_has_ended(self, stage: Stage) -> None:
        """Whoever sees the job's end sees its log and its progress too."""

        def speaks(context: JobContext) -> None:
            context.log("half way")
            context.progress(1, 2, "half")

        job = stage.app.task(name="kit.speaks")(speaks).enqueue()

        stage.serve()
        stage.ended(job)

        assert ["half way"] == [line.text for line in job.log()]
        progress = job.progress()
        assert progress is not None
        assert (1, 2, "half") == (progress.done, progress.total, progress.message)

    def test_tasks_of_both_kinds_run_side_by_side_once_each(self, stage: Stage) -> None:
        """A mixed load of `def` and `async def` tasks is run once a job."""
        runs: Counter[tuple[str, int]] = Counter()

        def plain(number: int) -> None:
            runs["plain", number] += 1

        async def coroutine(number: int) -> None:
            runs["coroutine", number] += 1

        tasks = [stage.app.task(name=f"kit.{task.__name__}")(task) for task in (plain, coroutine)]
        jobs = [task.enqueue(number) for number in range(25) for task in tasks]

        stage.serve()

        assert {State.SUCCEEDED} == {stage.ended(job).state for job in jobs}
        assert {1} == set(runs.values())
        assert 50 == len(runs)

    def test_a_running_job_enqueues_others(self, stage: Stage) -> None:
        """What a task enqueues runs as if anybody had enqueued it."""

        def inner(number: int) -> int:
            return number + 1

        inner_task = stage.app.task(name="kit.inner")(inner)

        def outer(number: int) -> str:
            return inner_task.enqueue(number).id

        job = stage.app.task(name="kit.outer")(outer).enqueue(1)

        stage.serve()

        assert 2 == stage.app.jobs.get(job.result(timeout=10)).result(timeout=10)
