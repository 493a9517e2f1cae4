"""A server without threads that runs one job at a time on demand, in the same way as a real server."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import attrs

from firelock.app import Firelock
from firelock.context import Console
from firelock.errors import ConfigurationError, JobCancelled, JobFailed, RateLimited
from firelock.limits.limit import Limit
from firelock.model.clock import SECOND
from firelock.model.ids import new_id
from firelock.model.job import ClaimedJob, Settled
from firelock.model.lifecycle import Moved, handed_back
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.server.recurring import fire_due
from firelock.server.related_jobs import RelatedJobs
from firelock.server.run import (
    CancelKind,
    EndedRun,
    JobRunner,
    Run,
    completed_end,
    has_succeeded,
)
from firelock.storage import Applied, ClaimRequest, NewSession
from firelock.testing.private import StillStorage

_NAME = "tester"
_BATCH = 1_000
_ENDLESS = 5_000  # maximum runs of one drain; more are treated as an endless loop
_FOREVER = 1e10  # the session's timeout in seconds, more than any test advances its clock


@attrs.frozen
class Drained:
    """The number of runs, by result."""

    succeeded: int = 0
    failed: int = 0  # failed permanently, because no retry is left
    retried: int = 0  # failed, but the job will be retried or was already retried
    snoozed: int = 0
    deleted: int = 0  # deleted by the retry policy, or because the job did not start in time
    unknown: int = 0  # none of the apps has the task, so the job waits for a server that has it
    refused: int = 0  # deleted or requeued during the run, so the storage refused the result
    suspended: int = 0  # the job waits for a time, a signal or another job, and then continues

    @property
    def total(self) -> int:
        """The number of runs."""
        return sum(attrs.astuple(self))

    def __add__(self, other: Drained) -> Drained:
        """Return the sums of both sets of numbers."""
        return Drained(*map(sum, zip(attrs.astuple(self), attrs.astuple(other), strict=True)))


class _PlannedErrors:
    """The errors that the next runs of a task raise instead of calling its function."""

    def __init__(self) -> None:
        self._by_task: defaultdict[str, list[BaseException | type[BaseException]]] = defaultdict(list)

    def add(self, task: str, error: BaseException | type[BaseException], times: int) -> None:
        self._by_task[task] += [error] * times

    def take(self, task: str) -> BaseException | type[BaseException] | None:
        planned = self._by_task[task]
        return planned.pop(0) if planned else None


class _WatchedRunner(JobRunner):
    """The server's job runner, which also records the errors of tasks and raises planned errors."""

    def __init__(self, app: Firelock, console: Console, planned: _PlannedErrors) -> None:
        super().__init__(app.runtime, console, in_place=0)  # 0 micros: a wait inside the run would never end
        # check related jobs every time (0 s), because the clock does not advance
        self.related = RelatedJobs(app.storage, app.client.serializers, 0.0)
        self._planned = planned
        self.errors: dict[str, BaseException] = {}

    def prepare(self, job: ClaimedJob, holder: ClaimHolder) -> Run | EndedRun:
        run = super().prepare(job, holder)
        if isinstance(run, Run) and (error := self._planned.take(run.info.name)):
            run.info = attrs.evolve(run.info, function=_raises(error, is_async=run.info.is_async))
        return run

    def raised(self, run: Run, error: BaseException) -> EndedRun:
        if not isinstance(error, RateLimited):  # a RateLimited error only delays the job
            self.errors[run.job.id] = error
        return super().raised(run, error)


def _raises(error: BaseException | type[BaseException], *, is_async: bool) -> Callable[..., Any]:
    def raise_it(*_: object, **__: object) -> NoReturn:
        raise error

    async def araise_it(*_: object, **__: object) -> NoReturn:
        raise error

    return araise_it if is_async else raise_it


class ManualServer:
    """The server of a `Tester`, which claims, runs and settles jobs of apps that share a storage."""

    def __init__(self, apps: Sequence[Firelock], storage: StillStorage) -> None:
        self._apps = apps
        self._storage = storage
        self._clock = apps[0].client.clock
        self._console = Console(self._clock.now)
        self.planned = _PlannedErrors()
        self._runners = [_WatchedRunner(app, self._console, self.planned) for app in apps]
        self.running: list[Run] = []
        self._declared: dict[int, Mapping[str, Limit]] = {}  # the stored settings of each app's limits
        self.opens_at: int | None = None  # when a rate limit allows a job that the last claim did not take
        self._holder = self._begin_session()

    def _begin_session(self) -> ClaimHolder:
        session = NewSession(new_id(), _NAME, _NAME, _NAME, 0, self._clock.now(), _FOREVER, 1)
        self._storage.begin_session(session)
        return ClaimHolder(session.id, session.server)

    # ---- due jobs ----------------------------------------------------------------------------------------

    def next_job(self, queues: Sequence[str] | None) -> ClaimedJob | None:
        """Claim and return the job that a server would take next; return None if no job is due."""
        self.bring_due()
        self._write_numbers()
        while True:
            now = self._clock.now()
            claim = self._storage.claim(ClaimRequest(queues, 1, self._holder.session, now))
            if claim.jobs:
                return claim.jobs[0]
            self.opens_at = claim.next_claim_at
            if self.opens_at is None or self.opens_at > now:
                return None

    def claim_only(self, job_id: str) -> ClaimedJob | None:
        """Claim and return this job; return None if it is not enqueued or its limits do not allow it."""
        self._write_numbers()
        return self._storage.claim_only(job_id, self._holder.session, self._clock.now())

    def _write_numbers(self) -> None:
        """Store the settings of the apps' limits, as a server does when it starts."""
        for place, app in enumerate(self._apps):
            declared = app.registry.declared_limits()
            if declared is not self._declared.get(place):
                self._declared[place] = declared
                app.limits.sync()

    def bring_due(self) -> int | None:
        """Enqueue all due jobs; return the next due time."""
        while True:
            fired = fire_due(self._apps[0].client)
            promotion = self._storage.promote(_BATCH)
            if not fired and not promotion.promoted and not self._storage.release(_BATCH):
                return promotion.next_due_at

    def _due(self, queues: Sequence[str] | None, limit: int | None) -> Iterator[ClaimedJob]:
        ran = 0
        while limit is None or ran < limit:
            job = self.next_job(queues)
            if job is None:
                return
            ran += 1
            if limit is None and ran > _ENDLESS:
                self.hand_back(job)
                raise AssertionError(
                    f"{_ENDLESS:,} jobs were run and more are due, next a job of {job.task}. A job might "
                    "enqueue itself in an endless loop. To run a fixed number of jobs, pass limit=…."
                )
            yield job

    # ---- running -----------------------------------------------------------------------------------------

    def drain(self, queues: Sequence[str] | None, limit: int | None, *, raises: bool) -> Drained:
        """Run the due jobs in order until no job is due."""
        drained = Drained()
        for job in self._due(queues, limit):
            outcome, error = self.run(job)
            drained += outcome
            if error is not None and raises:
                raise error
        return drained

    async def adrain(self, queues: Sequence[str] | None, limit: int | None, *, raises: bool) -> Drained:
        """Do the same as `drain`, but run `async def` tasks on the running loop."""
        drained = Drained()
        for job in self._due(queues, limit):
            outcome, error = await self.arun(job)
            drained += outcome
            if error is not None and raises:
                raise error
        return drained

    def run(self, job: ClaimedJob) -> tuple[Drained, BaseException | None]:
        """Run the claimed job and settle it; return its result and the error that it raised."""
        runner, prepared = self._prepare(job)
        ended = prepared if isinstance(prepared, EndedRun) else self._execute(runner, prepared)
        return self._settle(runner, ended)

    async def arun(self, job: ClaimedJob) -> tuple[Drained, BaseException | None]:
        """Do the same as `run`, but run `async def` tasks on the running loop and `def` tasks in a thread."""
        from firelock.model.aio import in_thread

        runner, prepared = self._prepare(job)
        if isinstance(prepared, EndedRun):
            ended = prepared
        elif prepared.info.is_async:
            ended = await self._await(runner, prepared)
            if not self.running:  # otherwise an enclosing job might use these resources too
                await runner.resources.aclose()
        else:
            ended = await in_thread(self._execute, runner, prepared)
        return self._settle(runner, ended)

    def run_unsettled(self, job: ClaimedJob) -> None:
        """Run the claimed job without settling it."""
        runner, prepared = self._prepare(job)
        if isinstance(prepared, Run):
            self._execute(runner, prepared)

    def _prepare(self, job: ClaimedJob) -> tuple[_WatchedRunner, Run | EndedRun]:
        runner = self._runners[self._place_of(job)]
        return runner, runner.prepare(job, self._holder)

    def _place_of(self, job: ClaimedJob) -> int:
        infos = [app.registry.get(job.task) for app in self._apps]
        return next((place for place, info in enumerate(infos) if info and not info.is_remote), 0)

    def _execute(self, runner: JobRunner, run: Run) -> EndedRun:
        if run.info.is_async:
            return self._run_coroutine(runner, run)
        self.running.append(run)
        try:
            return runner.run(run)
        finally:
            self.running.remove(run)

    def _run_coroutine(self, runner: JobRunner, run: Run) -> EndedRun:
        import asyncio

        if not _loop_runs():  # a function, so that its RuntimeError is not the context of a task's error
            return asyncio.run(self._await_alone(runner, run))
        self.hand_back(run.job)
        raise ConfigurationError(
            f"{run.job.task} is an async task, but an event loop is already running in this thread. Use the "
            "async form: await tester.adrain(), await tester.clock.aadvance(…), await task.aenqueue(…)."
        )

    async def _await_alone(self, runner: JobRunner, run: Run) -> EndedRun:
        """Run the job, and close the resources that it opened on this loop, which is closed after the job."""
        try:
            return await self._await(runner, run)
        finally:
            await runner.resources.aclose()

    def close_resources(self) -> None:
        """Close the resources of jobs; async resources were already closed when their job ended."""
        for runner in self._runners:
            runner.resources.close()

    async def _await(self, runner: JobRunner, run: Run) -> EndedRun:
        import asyncio

        attempt: Coroutine[Any, Any, EndedRun] = runner.arun(run)
        loop, task, thread = asyncio.get_running_loop(), asyncio.create_task(attempt), threading.get_ident()

        def stop() -> None:
            if threading.get_ident() == thread:
                task.cancel()
            else:  # the thread that stores emitted output calls this function
                loop.call_soon_threadsafe(task.cancel)

        run.stop, run.coroutine = stop, task
        self.running.append(run)
        try:
            await asyncio.wait([task])
        finally:  # the caller might be cancelled; the job's own cancellation is in its result
            run.stop = None
            task.cancel()
            self.running.remove(run)
        return task.result()

    def hand_back(self, job: ClaimedJob) -> None:
        """Enqueue the claimed job again as if it had never been claimed."""
        back = handed_back(job, self._holder, at=self._clock.now(), started_at=None, reason="not run")
        self._storage.apply([back])

    def time_out(self) -> None:
        """Cancel the runs that have exceeded their timeout according to the manual clock."""
        now = self._clock.now()
        for run in self.running:
            seconds = run.timeout_seconds
            if seconds is not None and now - run.started_at > seconds * SECOND:
                run.cancel(CancelKind.TIMEOUT, f"timed out after {seconds:g} s")

    # ---- settling ----------------------------------------------------------------------------------------

    def _settle(self, runner: _WatchedRunner, ended: EndedRun) -> tuple[Drained, BaseException | None]:
        self._console.flush(self._storage)
        if ended.blocks is not None:
            key, until = ended.blocks
            self._storage.spend(key, until=until)
        (applied,) = self._storage.apply([ended.transition])
        completion = ended.completion
        if completion is not None and self._has_completed(ended, applied):
            ended = completed_end(ended.job, completion)
            applied = Applied.RELEASE_NEEDED if completion.frees_children else Applied.ALREADY
        # The job whose result was refused might be the last running member of a cancelled batch.
        while applied in {Applied.RELEASE_NEEDED, Applied.REFUSED} and self._storage.release(_BATCH):
            continue
        error = runner.errors.pop(ended.job.id, None)
        if error is not None and not _ends_the_job(error):
            raise error
        if not applied.is_applied:
            return Drained(refused=1), error
        plugins = self._apps[self._runners.index(runner)].plugins
        if plugins.has_jobs_settled:
            plugins.jobs_settled([Settled(ended.job, ended.transition, ended.duration)])
        return _outcome(ended), error or _undecodable(ended)

    def _has_completed(self, ended: EndedRun, applied: Applied) -> bool:
        """Return whether the task's own transaction completed the job, given the response to its result."""
        if applied.is_applied:
            return applied is Applied.ALREADY and ended.transition.to is State.SUCCEEDED
        (record,) = self._storage.get([ended.job.id])
        return has_succeeded(ended.job, record)

    def lose(self, running: Sequence[str]) -> None:
        """End the session as if its server had died, and begin a new one."""
        self._storage.end_session(self._holder.session, running, reason=Moved.SESSION_LOST.value)
        self._holder = self._begin_session()


def _loop_runs() -> bool:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _ends_the_job(error: BaseException) -> bool:
    """Return whether the error ends only the job, unlike Ctrl-C or pytest's skip and fail."""
    is_cancellation = isinstance(error, JobCancelled) or type(error).__name__ == "CancelledError"
    return is_cancellation or isinstance(error, Exception | SystemExit)


def _undecodable(ended: EndedRun) -> JobFailed | None:
    """Return the error of a job that could not be started."""
    if ended.transition.to is not State.FAILED:
        return None
    return JobFailed(f"Job {ended.job.id} ({ended.job.task}) failed: {ended.transition.reason}")


def _outcome(ended: EndedRun) -> Drained:
    transition = ended.transition
    match transition.to:
        case State.SUCCEEDED:
            return Drained(succeeded=1)
        case State.FAILED:
            return Drained(failed=1)
        case State.DELETED:
            return Drained(deleted=1)
        case _ if transition.retries is not None:
            return Drained(retried=1)
        case _ if transition.waits_for is not None:
            return Drained(suspended=1)
        case _ if transition.started_at is not None:
            return Drained(snoozed=1)
        case _:
            return Drained(unknown=1)
