"""The requirements for a server: each job ends once and correctly, even if the server or storage fails."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import attrs
import pytest

from firelock.context import JobContext, Snooze
from firelock.errors import ResultUnavailable
from firelock.jobs.job import Job
from firelock.model.job import NewJob
from firelock.model.lifecycle import Moved
from firelock.model.state import State
from firelock.retry import Retry
from firelock.schedules.cron import Every
from firelock.storage import ClaimRequest, Feature
from firelock.task import TaskVerbs
from firelock.testing.conformance.kit import requires
from firelock.testing.conformance.server.own_process import GATE, HOLD, RUNNING, hold
from firelock.testing.conformance.server.stage import TURN_SECONDS, ServerFixtures, Stage, pause
from firelock.testing.conformance.storage.newer import ADDED, UNKNOWN
from firelock.testing.faults import FaultyStorage
from firelock.testing.movable_clock import movable
from firelock.testing.waiting import eventually


def _stored(stage: Stage, task: str, arguments: str, serializer: str) -> str:
    """Return the id of a job that another client has stored."""
    storage = stage.app.storage
    job = NewJob(
        storage.new_ids(1)[0], task, arguments, serializer, "default", 0, State.ENQUEUED, storage.clock()
    )
    storage.insert([job])
    return job.id


def _newer(stage: Stage, task: str, **parts: str) -> str:
    """Return the id of a job that a newer release has stored."""
    storage = stage.app.storage
    made = NewJob(storage.new_ids(1)[0], task, "{}", "json", "default", 0, State.ENQUEUED, storage.clock())
    storage.insert([attrs.evolve(made, **parts)])  # type: ignore[arg-type]  # fields of the job
    return made.id


class EndingTests(ServerFixtures):
    """The results of jobs: each success, failure, retry and snooze is stored once and completely."""

    @pytest.mark.parametrize("is_async", [False, True], ids=["thread", "coroutine"])
    def test_history_shows_each_run_of_a_retried_job(self, stage: Stage, is_async: bool) -> None:
        """A job with two retries runs three times and then fails.

        Its history has an entry for each run, and its errors have a traceback for each run.
        """

        def fails() -> None:
            raise ValueError("boom")

        async def afails() -> None:
            raise ValueError("boom")

        retry = Retry.fixed(0, attempts=2)
        task = stage.task(afails if is_async else fails, retry=retry)
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

    def test_snoozed_job_runs_again_without_counting_an_attempt(self, stage: Stage) -> None:
        """A job whose task returns Snooze is scheduled, and its next run is still the first attempt."""
        runs: list[int] = []

        def waits(context: JobContext) -> Snooze | str:
            runs.append(context.attempt)
            return Snooze(timedelta(milliseconds=50), "not yet") if len(runs) == 1 else "done"

        job = stage.task(waits).enqueue()

        stage.serve()

        record = stage.ended(job)
        assert [1, 1] == runs
        assert (State.SUCCEEDED, 1, 0) == (record.state, record.attempt, record.retries)
        assert [State.ENQUEUED, State.SCHEDULED, State.ENQUEUED, State.SUCCEEDED] == stage.states(job)
        assert "not yet" == job.history()[1].reason

    def test_result_is_the_return_value_of_the_task(self, stage: Stage) -> None:
        """The result of a job is the value that its task returned, even if it is None."""

        def returns(value: int | None) -> int | None:
            return value

        task = stage.task(returns)
        some, none = task.enqueue(42), task.enqueue(None)

        stage.serve()

        assert 42 == some.result(timeout=10)
        assert none.result(timeout=10) is None

    def test_job_whose_result_cannot_be_stored_states_the_reason(self, stage: Stage) -> None:
        """A job whose result cannot be stored succeeds without a result, and its record states the reason."""

        def returns() -> object:
            return threading.Lock()

        job = stage.task(returns).enqueue()

        stage.serve()

        record = stage.ended(job)
        assert (State.SUCCEEDED, None) == (record.state, record.result)
        assert "was not stored" in str(record.result_absent)
        with pytest.raises(ResultUnavailable):
            job.result(timeout=10)

    def test_job_with_undecodable_arguments_fails_without_a_retry(self, stage: Stage) -> None:
        """A job with undecodable arguments fails without a retry and keeps them; the next job runs."""

        def reads(number: int) -> int:
            return number

        task = stage.task(reads)
        broken = _stored(stage, task.name, '{"number": ', "json")
        job = task.enqueue(7)

        stage.serve()

        assert 7 == job.result(timeout=10)
        record = stage.ended(broken)
        assert (State.FAILED, 0, '{"number": ') == (record.state, record.retries, record.arguments)
        assert "arguments cannot be read" in str(record.reason)

    @pytest.mark.parametrize(
        ("task", "serializer", "why"),
        [
            ("kit.elsewhere", "json", "'kit.elsewhere' is not registered"),
            ("kit.reads", "kit-sealing", "serializer 'kit-sealing' is not installed"),
        ],
        ids=["task", "serializer"],
    )
    def test_job_with_unknown_task_or_serializer_waits_for_another_server(
        self, stage: Stage, task: str, serializer: str, why: str
    ) -> None:
        """A job whose task or serializer this server does not have waits for another server.

        It neither fails nor counts an attempt, and its history states the reason.
        """

        def reads(number: int) -> int:
            return number

        stage.task(reads)
        job = _stored(stage, task, "[7]", serializer)

        stage.serve()

        record = stage.when(job, lambda record: record.state is State.SCHEDULED)
        assert (0, 0, "[7]") == (record.attempt, record.retries, record.arguments)
        assert why in str(record.reason)
        assert record.due_at is not None
        assert record.due_at > stage.app.storage.clock()
        assert [State.ENQUEUED, State.SCHEDULED] == stage.states(job)

    @pytest.mark.parametrize("is_async", [False, True], ids=["thread", "coroutine"])
    def test_job_of_a_newer_release_does_not_stop_other_jobs(self, stage: Stage, is_async: bool) -> None:
        """During a rolling deployment, jobs with added fields run, and jobs with unknown parts wait.

        They wait for a newer server, and each of them states the reason.
        The other jobs of the same claim run.
        """

        def works() -> None:
            """Succeed."""

        async def aworks() -> None:
            """Succeed."""

        task = stage.task(aworks if is_async else works)
        with stage.app.batch("nightly") as batch:
            member = batch.add(task)
        relations = [*json.loads(member.record().relations_json or ""), ADDED]
        retry = json.loads(Retry(attempts=5).to_json()) | {"added": ADDED}
        added = [_newer(stage, task.name, relations_json=json.dumps(relations))]
        added.append(_newer(stage, task.name, retry=json.dumps(retry)))
        unknown = {name: _newer(stage, task.name, **part) for name, part in UNKNOWN.items()}
        plain = task.enqueue_many([()] * 20)

        stage.serve()

        known: list[Job[Any] | str] = [*plain, member, *added, batch.id]
        assert {State.SUCCEEDED} == {stage.ended(one).state for one in known}
        for name, job_id in unknown.items():
            record = stage.when(job_id, lambda record: record.state is State.SCHEDULED)
            assert "cannot be read on server" in str(record.reason), name
            assert (0, 0) == (record.attempt, record.retries), name
            assert [State.ENQUEUED, State.SCHEDULED] == stage.states(job_id), name

    @pytest.mark.parametrize("is_async", [False, True], ids=["thread", "coroutine"])
    @pytest.mark.parametrize("part", ["relations_json", "admission_json", "retry"])
    def test_damaged_job_fails_without_affecting_other_jobs(
        self, stage: Stage, part: str, is_async: bool
    ) -> None:
        """A job with a part that is not JSON fails without a run, because no release can read the part.

        The other jobs of the same claim run.
        """

        def works() -> None:
            """Succeed."""

        async def aworks() -> None:
            """Succeed."""

        task = stage.task(aworks if is_async else works)
        damaged = _newer(stage, task.name, **{part: "not JSON"})
        plain = task.enqueue_many([()] * 5)

        stage.serve()

        assert {State.SUCCEEDED} == {stage.ended(one).state for one in plain}
        record = stage.ended(damaged)
        assert (State.FAILED, None, "not JSON") == (record.state, record.started_at, getattr(record, part))
        assert "cannot be read" in str(record.reason)

    def test_log_and_progress_are_stored_when_a_job_has_ended(self, stage: Stage) -> None:
        """When a job is stored as ended, its log and its progress are stored too."""

        def logs(context: JobContext) -> None:
            context.log("half way")
            context.progress(1, 2, "half")

        job = stage.task(logs).enqueue()

        stage.serve()
        stage.ended(job)

        assert ["half way"] == [line.text for line in job.log()]
        progress = job.progress()
        assert progress is not None
        assert (1, 2, "half") == (progress.done, progress.total, progress.message)

    def test_jobs_of_sync_and_async_tasks_run_once_each(self, stage: Stage) -> None:
        """In a mixed load of `def` and `async def` tasks, each job runs once."""
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

    def test_running_job_can_enqueue_other_jobs(self, stage: Stage) -> None:
        """A job that a running task enqueues runs like any other job."""

        def inner(number: int) -> int:
            return number + 1

        inner_task = stage.task(inner)

        def outer(number: int) -> str:
            return inner_task.enqueue(number).id

        job = stage.task(outer).enqueue(1)

        stage.serve()

        assert 2 == stage.app.jobs.get(job.result(timeout=10)).result(timeout=10)


_SUCCEEDED, _FAILED, _DELETED = State.SUCCEEDED, State.FAILED, State.DELETED


class ContinuingTests(ServerFixtures):
    """Continuations: a child runs if its parent ends as required; otherwise it is deleted or waits."""

    def _parent(self, stage: Stage, *, fails: bool) -> Job[None]:
        def ends(fails: bool) -> None:
            if fails:
                raise ValueError("boom")

        return stage.task(ends, retry=Retry.never()).enqueue(fails)

    def _child(self, stage: Stage, parent: Job[None], on: str) -> Job[None]:
        def follows() -> None: ...

        return parent.then(stage.task(follows).using(on=on))  # type: ignore[arg-type]  # one of the four

    @pytest.mark.parametrize(
        ("on", "end", "expected"),
        [
            ("succeeded", _SUCCEEDED, _SUCCEEDED),
            ("succeeded", _DELETED, _DELETED),
            ("failed", _FAILED, _SUCCEEDED),
            ("failed", _SUCCEEDED, _DELETED),
            ("failed", _DELETED, _DELETED),
            ("deleted", _DELETED, _SUCCEEDED),
            ("deleted", _SUCCEEDED, _DELETED),
            ("finished", _SUCCEEDED, _SUCCEEDED),
            ("finished", _FAILED, _SUCCEEDED),
            ("finished", _DELETED, _SUCCEEDED),
        ],
    )
    def test_child_runs_only_after_the_expected_end_of_its_parent(
        self, stage: Stage, on: str, end: State, expected: State
    ) -> None:
        """A child that waits for this final state of its parent runs; one that waits for another is deleted.

        The history of the child states the final state of the parent.
        """
        parent = self._parent(stage, fails=end is State.FAILED)
        child = self._child(stage, parent, on)
        if end is State.DELETED:
            parent.delete()

        stage.serve(stage.another_app(sweep=60))

        assert end == stage.ended(parent).state
        assert expected == stage.ended(child).state
        assert f"parent {end}" == child.history()[1].reason
        assert 3 - (expected is State.DELETED) == len(child.history())

    @pytest.mark.parametrize("on", ["succeeded", "deleted"])
    def test_child_of_a_failed_parent_waits_and_states_why(self, stage: Stage, on: str) -> None:
        """A child of a failed parent keeps waiting and states why: the parent may be requeued."""
        parent = self._parent(stage, fails=True)
        child = self._child(stage, parent, on)

        stage.serve(stage.another_app(sweep=60))
        stage.ended(parent)

        record = stage.when(child, lambda record: "parent failed" in str(record.reason))
        assert State.AWAITING == record.state

    def test_child_created_after_its_parents_end_runs_immediately(self, stage: Stage) -> None:
        """A continuation that is created after its parent has ended runs immediately."""
        parent = self._parent(stage, fails=False)
        stage.serve()
        stage.ended(parent)

        child = self._child(stage, parent, "succeeded")

        assert State.SUCCEEDED == stage.ended(child).state


class _Resting:
    """A task, as `def` and as `async def`, that runs until it is cancelled; the events show its progress."""

    def __init__(self) -> None:
        self.started, self.ended = threading.Event(), threading.Event()

    def in_thread(self) -> Callable[..., None]:
        def rests(context: JobContext) -> None:
            self.started.set()
            try:
                for _ in range(int(TURN_SECONDS * 100)):
                    context.raise_if_cancelled()
                    pause()
            finally:
                self.ended.set()

        return rests

    def on_loop(self) -> Callable[..., Any]:
        async def rests(_: JobContext) -> None:
            self.started.set()
            try:
                await asyncio.wait_for(asyncio.get_running_loop().create_future(), TURN_SECONDS)
            finally:
                self.ended.set()

        return rests

    def registered(self, stage: Stage, *, is_async: bool) -> TaskVerbs[..., Any]:
        function = self.on_loop() if is_async else self.in_thread()
        task: TaskVerbs[..., Any] = stage.task(function, retry=Retry.never())
        return task


class CancellingTests(ServerFixtures):
    """Cancelled jobs: a thread is requested to end, and a coroutine is cancelled.

    A result that the task returns after that is discarded.
    """

    @pytest.mark.parametrize("is_async", [False, True], ids=["thread", "coroutine"])
    def test_job_deleted_while_it_runs_is_cancelled(self, stage: Stage, is_async: bool) -> None:
        """A job that is deleted while it runs is cancelled.

        It stays deleted whatever its task does, and its holder releases it.
        """
        resting = _Resting()
        job = resting.registered(stage, is_async=is_async).enqueue()
        stage.serve()
        assert resting.started.wait(TURN_SECONDS)

        job.delete()

        assert resting.ended.wait(TURN_SECONDS)
        eventually(lambda: not stage.record(job).is_stopping)
        assert [State.ENQUEUED, State.DELETED] == stage.states(job)

    @pytest.mark.parametrize("emit", [JobContext.aemit, JobContext.emit], ids=["aemit", "emit"])
    def test_deleted_coroutine_that_streams_is_cancelled(
        self, stage: Stage, emit: Callable[..., Any]
    ) -> None:
        """A deleted coroutine that streams is cancelled.

        This is caused by the notification of the deletion, or by a refused write to its stream.
        """
        started, deleted, cancelled = threading.Event(), threading.Event(), threading.Event()

        async def streams(context: JobContext) -> None:
            started.set()
            try:
                while not deleted.is_set():
                    await asyncio.sleep(0.01)
                if (awaitable := emit(context, "word")) is not None:
                    await awaitable
                await asyncio.wait_for(asyncio.get_running_loop().create_future(), TURN_SECONDS)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        job = stage.task(streams, retry=Retry.never()).enqueue()
        stage.serve()
        assert started.wait(TURN_SECONDS)

        job.delete()
        deleted.set()

        assert cancelled.wait(TURN_SECONDS / 2)
        eventually(lambda: not stage.record(job).is_stopping)
        assert [State.ENQUEUED, State.DELETED] == stage.states(job)

    @pytest.mark.parametrize("is_async", [False, True], ids=["thread", "coroutine"])
    def test_job_above_its_timeout_is_cancelled_and_fails(self, stage: Stage, is_async: bool) -> None:
        """A job that exceeds its timeout is cancelled, and fails with an error that states the timeout."""
        resting = _Resting()
        job = resting.registered(stage, is_async=is_async).using(timeout=0.2).enqueue()

        stage.serve()

        record = stage.ended(job)
        assert State.FAILED == record.state
        assert record.error is not None
        assert ("TimeoutError", "timed out after 0.2 s") == (
            record.error.type.rpartition(".")[2], record.error.message,
        )  # fmt: skip

    def test_job_whose_thread_ignores_its_timeout_fails(self, stage: Stage) -> None:
        """A job whose thread ignores its timeout still counts as timed out.

        A result that is returned after the timeout is discarded, and no retry overlaps with the late run.
        """
        overlaps: list[int] = []
        running: list[int] = []

        def ignores(context: JobContext) -> str:
            overlaps.append(len(running))
            running.append(1)
            while not context.cancelled:
                pause()
            running.pop()
            return "too late"

        task = stage.task(ignores, retry=Retry.fixed(0, attempts=1))
        job = task.using(timeout=0.2).enqueue()

        stage.serve()

        record = stage.ended(job)
        assert (State.FAILED, None) == (record.state, record.result)
        assert [State.ENQUEUED, State.ENQUEUED, State.FAILED] == stage.states(job)
        assert [0, 0] == overlaps


class StoppingBatchesTests(ServerFixtures):
    """Stopping batches: a batch ends when its last stopping member ends, not at a later sweep."""

    SELDOM = 300.0
    """Seconds between two sweeps, the maximum that a server accepts; no test here waits for the second."""

    @pytest.mark.parametrize("is_async", [False, True], ids=["thread", "coroutine"])
    @pytest.mark.parametrize("how", ["cancelled", "failed"])
    def test_stopping_batch_ends_with_its_last_running_member(
        self, stage: Stage, how: str, is_async: bool
    ) -> None:
        """When its last running member ends, a cancelled batch is deleted, and a fail-fast batch fails.

        Then its clean-up job runs.
        """
        resting, failing = _Resting(), threading.Event()

        def fails() -> None:
            assert failing.wait(TURN_SECONDS)
            raise ValueError("boom")

        rests = resting.registered(stage, is_async=is_async)
        task = stage.task(fails, retry=Retry.never())
        cleans = stage.task(_nothing)
        with stage.app.batch("import", on_failure="cancel") as batch:
            member = batch.add(rests)
            if how == "failed":
                batch.add(task)
        end = State.DELETED if how == "cancelled" else State.FAILED
        cleanup = batch.then(cleans.using(on="deleted" if how == "cancelled" else "failed"))
        stage.serve(stage.another_app(sweep=self.SELDOM), workers=2)
        assert resting.started.wait(TURN_SECONDS)

        if how == "cancelled":
            batch.delete()
        failing.set()

        assert end is stage.ended(batch).state
        assert State.SUCCEEDED is stage.ended(cleanup).state
        assert State.DELETED is stage.record(member).state

    def test_stopping_batch_ends_with_the_server_of_its_last_running_member(self, stage: Stage) -> None:
        """A thread that ignores its cancellation does not keep a batch open after its server has stopped."""
        started, gate = threading.Event(), threading.Event()

        def ignores() -> None:
            started.set()
            assert gate.wait(TURN_SECONDS)

        with stage.app.batch("import") as batch:
            batch.add(stage.task(ignores))
        server = stage.serve(stage.another_app(sweep=self.SELDOM), workers=1)
        assert started.wait(TURN_SECONDS)
        batch.delete()
        before = stage.record(batch).state

        server.stop(grace=0)
        after = stage.record(batch).state
        gate.set()

        assert (State.AWAITING, State.DELETED) == (before, after)

    def test_stopping_batch_ends_when_a_lost_claim_is_handed_back(self, stage: Stage) -> None:
        """A deleted member whose claim was lost with the reply is handed back, which ends its batch."""
        elsewhere = stage.app.task(name="kit.elsewhere", queue="elsewhere")(_nothing)
        with stage.app.batch("import") as batch:
            batch.add(elsewhere)
        stage.serve(stage.another_app(sweep=self.SELDOM), workers=1, queues=["default"])
        storage = stage.app.storage
        eventually(lambda: any(one.is_alive for one in storage.list_sessions()))
        (session,) = [one.session.id for one in storage.list_sessions() if one.is_alive]

        storage.claim(ClaimRequest(["elsewhere"], 1, session, storage.clock()))
        batch.delete()

        assert State.DELETED is stage.ended(batch).state


def _nothing() -> None: ...


_JOBS_PER_QUEUE = 40


class OrderingTests(ServerFixtures):
    """Order: priority within a queue, and order, weights and pauses among queues."""

    def _noted(self, stage: Stage) -> tuple[TaskVerbs[..., Any], list[str]]:
        """Return a task, and the list to which it adds the name with which it is called."""
        names: list[str] = []

        def notes(name: str) -> None:
            names.append(name)

        return stage.task(notes), names

    def test_jobs_run_by_priority_then_by_age(self, stage: Stage) -> None:
        """Within a queue, jobs run by priority, and jobs of the same priority run by age."""
        notes, names = self._noted(stage)
        jobs = [
            notes.using(priority=priority).enqueue(f"{priority} {place}")
            for place in range(2)
            for priority in (0, -5, 5)
        ]

        stage.serve(workers=1)
        for job in jobs:
            stage.ended(job)

        assert ["5 0", "5 1", "0 0", "0 1", "-5 0", "-5 1"] == names

    def test_later_queue_waits_until_the_previous_one_is_empty(self, stage: Stage) -> None:
        """Queues in a list are served strictly in this order, regardless of the priorities of their jobs."""
        notes, names = self._noted(stage)
        jobs = [notes.using(queue="second", priority=100).enqueue("second") for _ in range(5)]
        jobs += [notes.using(queue="first").enqueue("first") for _ in range(5)]

        stage.serve(queues=["first", "second"], workers=1)
        for job in jobs:
            stage.ended(job)

        assert ["first"] * 5 + ["second"] * 5 == names

    def test_queue_with_more_weight_is_served_more_often(self, stage: Stage) -> None:
        """Of two full queues, the one with more weight is served more often.

        The other queue is served in the meantime.
        """
        notes, names = self._noted(stage)
        calls = [(queue,) for queue in ("light", "heavy")]
        jobs = [
            job
            for (queue,) in calls
            for job in notes.using(queue=queue).enqueue_many([(queue,)] * _JOBS_PER_QUEUE)
        ]

        stage.serve(queues="heavy:3,light:1", workers=1)
        for job in jobs:
            stage.ended(job)

        first_half = names[:_JOBS_PER_QUEUE]
        assert 0 < first_half.count("light") < first_half.count("heavy")

    def test_server_takes_no_job_from_an_unnamed_queue(self, stage: Stage) -> None:
        """A server does not claim jobs from a queue that is not in its list of queues."""
        notes, names = self._noted(stage)
        other = notes.using(queue="other").enqueue("other")
        job = notes.enqueue("default")

        stage.serve(queues=["default"])
        stage.ended(job)

        assert State.ENQUEUED == stage.record(other).state
        assert ["default"] == names

    def test_jobs_of_a_paused_queue_wait_until_it_is_resumed(self, stage: Stage) -> None:
        """Jobs of a paused queue wait while other jobs run, and run when the queue is resumed."""
        notes, names = self._noted(stage)
        stage.app.queues.pause("slow", note="a test")
        waiting = notes.using(queue="slow", priority=100).enqueue("slow")
        stage.serve()
        stage.ended(notes.enqueue("fast"))
        assert State.ENQUEUED == stage.record(waiting).state

        stage.app.queues.resume("slow")

        assert State.SUCCEEDED == stage.ended(waiting).state
        assert ["fast", "slow"] == names


class TimingTests(ServerFixtures):
    """Time: a job runs once at its due time, regardless of the number of servers."""

    def test_scheduled_job_starts_at_its_due_time(self, stage: Stage) -> None:
        """A scheduled job starts at its due time: not before it, and without waiting for the next sweep.

        The next sweep is a minute away.
        """

        def runs() -> None: ...

        stage.task(runs)
        app = stage.another_app(sweep=60)
        task = app.task(name="kit.runs")(runs)
        stage.serve(app)

        job = task.schedule(0.5)

        record = stage.ended(job)
        assert record.nominal_at is not None
        assert record.started_at is not None
        assert record.nominal_at <= record.started_at
        assert [State.SCHEDULED, State.ENQUEUED, State.SUCCEEDED] == stage.states(job)

    def test_two_servers_create_one_job_per_recurring_due_time(self, stage: Stage) -> None:
        """With two servers, each due time of a recurring job creates one job, which runs once."""
        due_times: list[datetime] = []

        def ticks(context: JobContext) -> None:
            due_times.append(context.due_at)

        task = stage.task(ticks)
        task.recur("tick", Every(timedelta(seconds=1)))

        stage.serve(stage.another_app())
        stage.serve(stage.another_app())
        eventually(lambda: len(set(due_times)) >= 3)
        stage.app.recurring.remove("tick")

        jobs = list(stage.app.jobs.iterate(recurring="tick"))
        eventually(lambda: all(stage.record(job).state is State.SUCCEEDED for job in jobs))
        assert len(set(due_times)) == len(due_times)
        assert len(due_times) == len(jobs)


_MANY = 40


class StoppingTests(ServerFixtures):
    """Orderly stops: no attempt is used, and no job that ends within the grace period is repeated."""

    @pytest.mark.parametrize("is_async", [False, True], ids=["thread", "coroutine"])
    def test_stop_without_grace_hands_back_a_running_job(self, stage: Stage, is_async: bool) -> None:
        """A job that is running when its server stops without grace is handed back.

        It is enqueued again, its attempt does not count, and it runs to completion on the next server.
        """
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

        job = stage.task(arests if is_async else rests).enqueue()
        server = stage.serve()
        assert started.wait(TURN_SECONDS)

        server.stop(grace=0)

        record = stage.record(job)
        assert (State.ENQUEUED, 0, 0, 0) == (record.state, record.attempt, record.retries, record.crashes)
        assert "server stopping" == record.reason
        stage.serve(stage.another_app())
        assert (State.SUCCEEDED, 1) == ((ended := stage.ended(job)).state, ended.attempt)
        assert [1, 1] == runs

    def test_graceful_stop_repeats_no_job(self, stage: Stage) -> None:
        """Each of many short jobs runs once, either before or after a graceful stop."""
        runs: Counter[int] = Counter()

        def notes(number: int) -> None:
            runs[number] += 1
            pause(0.005)

        task = stage.task(notes)
        jobs = task.enqueue_many([(number,) for number in range(_MANY)])
        first = stage.serve(workers=2)
        eventually(lambda: len(runs) >= _MANY // 8)

        first.stop(grace=TURN_SECONDS)
        before = len(runs)
        stage.serve(stage.another_app())

        records = [stage.ended(job) for job in jobs]
        assert before < _MANY
        assert {State.SUCCEEDED} == {record.state for record in records}
        assert {1} == {record.attempt for record in records}
        assert ({1}, _MANY) == (set(runs.values()), len(runs))

    def test_session_of_a_stopped_server_has_ended(self, stage: Stage) -> None:
        """The session of a stopped server has ended, so no job has to wait for a timeout."""

        def runs() -> None: ...

        job = stage.task(runs).enqueue()
        server = stage.serve(name="short-lived")
        stage.ended(job)
        assert ["short-lived"] == [one.name for one in stage.app.servers.list() if one.is_alive]

        server.stop()

        assert [] == [one.name for one in stage.app.servers.list() if one.is_alive]


# Seconds within which interpreters start, even on a busy machine; only a failing test waits this long.
_STARTING = 120.0


class Start(Protocol):
    """A function that starts a server process with these settings."""

    def __call__(self, **settings: float) -> subprocess.Popen[bytes]:
        """Return the supervisor's process."""
        ...


class CrashingTests(ServerFixtures):
    """Crashes: a job survives the loss of its server, and only one of its runs counts."""

    def test_late_end_of_a_lost_run_is_refused(self, stage: Stage) -> None:
        """A server whose session has ended cannot settle a job that another server now runs."""
        gates, runs = {"first": threading.Event(), "second": threading.Event()}, list[str]()

        def twice() -> str:
            name = "second" if runs else "first"
            runs.append(name)
            gates[name].wait(TURN_SECONDS)
            return name

        job = stage.task(twice).enqueue()
        zombie = stage.serve(workers=1)
        session = str(stage.when(job, lambda record: bool(runs) and record.session is not None).session)

        taken = stage.app.storage.end_session(session, [job.id], reason="lost")
        stage.serve(stage.another_app(), workers=1)
        eventually(lambda: len(runs) == 2)
        gates["first"].set()
        zombie.stop(grace=TURN_SECONDS)

        assert [job.id] == taken.crashed
        assert State.PROCESSING == stage.record(job).state
        gates["second"].set()
        record = stage.ended(job)
        assert (State.SUCCEEDED, '"second"', 1) == (record.state, record.result, record.crashes)
        assert [State.ENQUEUED, State.ENQUEUED, State.SUCCEEDED] == stage.states(job)

    def test_server_continues_with_a_new_session_after_losing_one(self, stage: Stage) -> None:
        """A server whose session was lost cancels the jobs that it ran, and claims with a new session."""
        started, notified, runs = threading.Event(), list[bool](), list[int]()

        def rests(context: JobContext) -> None:
            runs.append(context.fence)
            if len(runs) == 1:
                started.set()
                eventually(lambda: context.cancelled)
                notified.append(True)
                context.raise_if_cancelled()

        job = stage.task(rests).enqueue()
        stage.serve(workers=2)
        assert started.wait(TURN_SECONDS)
        session = str(stage.record(job).session)

        stage.app.storage.end_session(session, [job.id], reason="lost")

        assert State.SUCCEEDED == stage.ended(job).state
        eventually(lambda: notified)
        assert runs == sorted(set(runs))
        assert session != stage.record(job).session

    def test_server_hands_back_a_claim_that_it_does_not_hold(self, stage: Stage) -> None:
        """A server hands back a job that its session has claimed, but that the server does not hold.

        After a failover, a storage may show a job as processing in a session that settled the job long
        before.

        If this fails: the job stays processing as long as the server is alive, and no server runs it.
        """
        job = stage.app.task(name="kit.elsewhere", queue="elsewhere")(lambda: None).enqueue()
        stage.serve(workers=1, queues=["default"])
        eventually(lambda: any(one.is_alive for one in stage.app.storage.list_sessions()))
        (session,) = [one.session.id for one in stage.app.storage.list_sessions() if one.is_alive]

        claimed = stage.app.storage.claim(ClaimRequest(["elsewhere"], 1, session, stage.app.storage.clock()))

        assert [job.id] == [one.id for one in claimed.jobs]
        record = stage.when(job, lambda record: record.state is State.ENQUEUED)
        assert (0, 0) == (record.attempt, record.crashes)

    # ---- processes ---------------------------------------------------------------------------------------

    @pytest.fixture
    def start_server(self, stage: Stage, tmp_path: Path) -> Iterator[Start]:
        """Yield a function that starts a server in separate processes, which end with the test."""
        processes: list[subprocess.Popen[bytes]] = []

        def start(**settings: float) -> subprocess.Popen[bytes]:
            url = stage.app.storage.connect_url
            with (tmp_path / f"server-{len(processes)}.log").open("wb") as log:
                process = subprocess.Popen(  # noqa: S603 - the current interpreter and a module of the kit
                    [sys.executable, "-m", "firelock.testing.conformance.server.own_process", url],
                    env=_environment(settings), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip
            processes.append(process)
            return process

        yield start
        for process in processes:
            process.kill()
            process.wait(TURN_SECONDS)

    def _held(self, stage: Stage, gate: str) -> Job[None]:
        return stage.app.task(name=HOLD)(hold).enqueue(gate)

    @requires(Feature.SHARED)
    def test_jobs_of_a_killed_worker_process_return_before_session_expiry(
        self, stage: Stage, start_server: Start
    ) -> None:
        """The jobs of a killed worker process return without waiting for its session to expire.

        Its supervisor detects that it has died. The job runs again, and its history states what killed the
        previous run.
        """
        job = self._held(stage, "child")
        start_server(session_timeout=600, heartbeat=1, sweep=300, poll=0.2)
        eventually(lambda: _times_started(job) == 1, within=_STARTING)
        (server,) = [one for one in stage.app.servers.list() if one.is_alive]

        os.kill(server.sessions[0].session.pid, signal.SIGKILL)

        eventually(lambda: _times_started(job) == 2, within=_STARTING)
        stage.app.storage.put_record(GATE, "child", "{}")
        record = stage.ended(job)
        assert (State.SUCCEEDED, 1, 1) == (record.state, record.attempt, record.crashes)
        assert "SIGKILL" in str(job.history()[1].reason)

    @requires(Feature.SHARED)
    def test_jobs_of_a_killed_server_return_after_session_expiry(
        self, stage: Stage, start_server: Start
    ) -> None:
        """The jobs of a killed server return when another server finds that its session has expired.

        No process is left that could detect the death. The second server's own session is long: on a busy
        machine a short one could expire too, which would count as a crash of the job.
        """
        job = self._held(stage, "server")
        soon = {"heartbeat": 0.5, "sweep": 0.2, "poll": 0.2}
        doomed = start_server(session_timeout=3, **soon)
        eventually(lambda: _times_started(job) >= 1, within=_STARTING)

        doomed.kill()
        start_server(session_timeout=600, **soon)

        eventually(lambda: _times_started(job) >= 2, within=_STARTING)
        stage.app.storage.put_record(GATE, "server", "{}")
        record = stage.ended(job)
        assert State.SUCCEEDED == record.state
        assert Moved.SESSION_LOST in [entry.reason for entry in job.history()]

    @requires(Feature.SHARED)
    def test_server_process_lets_running_jobs_end_after_sigterm(
        self, stage: Stage, start_server: Start
    ) -> None:
        """After SIGTERM a server lets its running jobs end, starts no other job, and exits with code 0.

        A job that is enqueued in the meantime may still run: the session reports that it is stopping a moment
        before the worker process receives the request to stop.
        """
        job = self._held(stage, "stop")
        server = start_server(grace=60, heartbeat=0.5)
        eventually(lambda: _times_started(job) == 1, within=_STARTING)

        server.send_signal(signal.SIGTERM)
        eventually(
            lambda: [one.sessions[0].renewal.state for one in stage.app.servers.list()] == ["stopping"]
        )
        later = self._held(stage, "stop")
        stage.app.storage.put_record(GATE, "stop", "{}")

        assert 0 == server.wait(_STARTING)
        record = stage.record(job)
        assert (State.SUCCEEDED, 1, 0) == (record.state, record.attempt, record.crashes)
        waiting = stage.record(later)
        assert (waiting.state, waiting.attempt) in {(State.ENQUEUED, 0), (State.SUCCEEDED, 1)}
        assert 0 == waiting.crashes


def _environment(settings: Mapping[str, float]) -> dict[str, str]:
    chosen = {f"FIRELOCK_{name.upper()}": str(value) for name, value in settings.items()}
    return {**os.environ, **chosen}


def _times_started(job: Job[None]) -> int:
    return [line.text for line in job.log()].count(RUNNING)


class OutageTests(ServerFixtures):
    """Outages: a lost reply has no effect, and an outage only delays jobs."""

    @pytest.fixture
    def faulty(self, stage: Stage) -> FaultyStorage:
        """Return a handle of the store that can be made to fail."""
        return FaultyStorage.around(stage.open_handle())

    def test_claim_with_a_lost_reply_is_handed_back(self, stage: Stage, faulty: FaultyStorage) -> None:
        """A job whose claim was stored, but whose reply was lost, is handed back by the server and runs."""
        runs: Counter[int] = Counter()

        def notes(number: int) -> None:
            runs[number] += 1

        task = stage.task(notes)
        jobs = task.enqueue_many([(number,) for number in range(5)])
        faulty.fail_next("claim", after_effect=True)

        stage.serve(stage.another_app(faulty))

        records = [stage.ended(job) for job in jobs]
        assert {(State.SUCCEEDED, 1, 0)} == {(one.state, one.attempt, one.crashes) for one in records}
        assert {1} == set(runs.values())

    def test_end_with_a_lost_reply_is_stored_once(self, stage: Stage, faulty: FaultyStorage) -> None:
        """A result whose reply was lost is sent again, and the storage reports that it is already stored."""
        started, gate = threading.Event(), threading.Event()

        def waits() -> None:
            started.set()
            gate.wait(TURN_SECONDS)

        task = stage.task(waits)
        job = task.enqueue()
        stage.serve(stage.another_app(faulty), workers=1)
        assert started.wait(TURN_SECONDS)

        faulty.fail_next("exchange", after_effect=True)
        faulty.fail_next("apply", after_effect=True)
        gate.set()

        assert State.SUCCEEDED == stage.ended(job).state
        assert State.SUCCEEDED == stage.ended(task.enqueue()).state
        assert [State.ENQUEUED, State.SUCCEEDED] == stage.states(job)

    def test_end_during_an_outage_is_stored_afterwards(self, stage: Stage, faulty: FaultyStorage) -> None:
        """The result of a job that ends during an outage is stored when the storage is reachable again.

        The job does not run again, and the server continues.
        """
        started, gate, runs = threading.Event(), threading.Event(), list[str]()

        def waits() -> str:
            runs.append("run")
            started.set()
            gate.wait(TURN_SECONDS)
            return "kept"

        task = stage.task(waits)
        job = task.enqueue()
        stage.serve(stage.another_app(faulty), workers=1)
        assert started.wait(TURN_SECONDS)

        with faulty.away():
            gate.set()
            eventually(lambda: faulty.refusals >= 5)
            assert State.PROCESSING == stage.record(job).state

        assert "kept" == job.result(timeout=TURN_SECONDS)
        assert ["run"] == runs
        assert "kept" == task.enqueue().result(timeout=TURN_SECONDS)


_LIFE = 1.5  # seconds for which a lock lasts without a renewal
_MICROS = 1_000_000
_HOUR = 3_600 * _MICROS


class LockingTests(ServerFixtures):
    """Locks: a lock is renewed while it is held, and a holder that lost its lock is notified."""

    def test_lock_is_renewed_while_it_is_held(self, stage: Stage) -> None:
        """A job can hold a lock for longer than the lock lasts without a renewal."""
        held, gate = threading.Event(), threading.Event()

        def holds() -> bool:
            with stage.app.lock("kit", ttl=_LIFE) as lock:
                held.set()
                gate.wait(TURN_SECONDS)
                return lock.lost

        job = stage.task(holds, retry=Retry.never()).enqueue()
        stage.serve()
        assert held.wait(TURN_SECONDS)
        storage = stage.app.storage
        passed = storage.clock() + int(1.5 * _LIFE * _MICROS)
        eventually(lambda: storage.clock() > passed)

        stolen = storage.acquire_lock("kit", "another", _LIFE)
        gate.set()

        assert stolen is None
        assert job.result(timeout=TURN_SECONDS) is False
        assert storage.acquire_lock("kit", "another", _LIFE) is not None

    def test_job_that_lost_its_lock_fails(self, stage: Stage) -> None:
        """A job can detect that it has lost its lock, and leaving the lock raises LockLost.

        The token of the new holder is larger.
        """
        held, fences = threading.Event(), list[int]()

        def holds() -> None:
            with stage.app.lock("kit", ttl=_LIFE) as lock:
                fences.append(lock.fence)
                held.set()
                eventually(lambda: lock.lost)

        job = stage.task(holds, retry=Retry.never()).enqueue()
        stage.serve()
        assert held.wait(TURN_SECONDS)
        later = stage.open_handle()
        movable(later).clock_offset += _HOUR

        stolen = later.acquire_lock("kit", "another", _LIFE)

        record = stage.ended(job)
        assert (State.FAILED, "LockLost") == (
            record.state,
            record.error and record.error.type.rpartition(".")[2],
        )
        assert stolen is not None
        assert stolen > fences[0]
