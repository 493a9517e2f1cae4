"""A run of a job, from its claim to its outcome, in a thread, on an event loop or in a job process."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from firelock.context import JobContext, Snooze, running_job
from firelock.errors import (
    ArgumentError,
    FirelockError,
    JobCancelled,
    RateLimited,
    StepError,
    StorageError,
)
from firelock.flows.steps import IN_PLACE, JobSteps
from firelock.flows.streams import StreamFlusher
from firelock.jobs.unread import UnreadPart, unread_part
from firelock.limits.admission import latest_start
from firelock.model import lifecycle
from firelock.model.aio import in_thread
from firelock.model.clock import SECOND, span_micros
from firelock.model.job import ClaimedJob, JobRecord, Transition
from firelock.model.memo import MemoKind
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.model.storage import Feature
from firelock.model.text import message_of, shorten
from firelock.retry import DecisionKind, Retry, RetryDecision, RetryPolicy, describe_error, retry_reason
from firelock.server.failure import describe_failure
from firelock.server.memo_commit import MemoCommit
from firelock.server.open_resources import OpenResources
from firelock.server.related_jobs import RelatedJobs
from firelock.storage import Applied, HeldClaim

if TYPE_CHECKING:
    import asyncio

    from firelock.context import Console
    from firelock.options import TaskInfo
    from firelock.runtime import Runtime

log = logging.getLogger(__name__)
failures = logging.getLogger("firelock.jobs")  # another logger, so that it can be configured separately

_JSON = "json"
_REMEMBERED = 10_000  # maximum number of remembered jobs that were postponed
_UNSURE = 5 * SECOND  # the local estimate of the storage's clock may be behind by this much
_cancelling = threading.Lock()  # one lock for all runs, because few are cancelled; held only briefly


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - a string, as `subprocess` needs
    except OSError:  # the folder was removed
        return None


@attrs.define(eq=False)
class ProcessState:
    """The state of a process before its first job.

    After each job, only changes that would break every job are reverted. Other changes are kept, because they
    may be intended and because other jobs run at the same time.
    """

    _recursion: int = attrs.Factory(sys.getrecursionlimit)
    _pid: int = attrs.Factory(os.getpid)
    folder: str | None = attrs.Factory(_folder)
    environment: dict[str, str] = attrs.Factory(lambda: dict(os.environ))
    path: list[str] = attrs.field()  # the folders in which modules are found

    @path.default
    def _absolute_path(self) -> list[str]:
        return [each or self.folder or "." for each in sys.path]

    def repair(self) -> None:
        """Restore a lowered recursion limit; if this process is a fork that returned from a task, exit."""
        if self._pid != os.getpid():
            os._exit(0)
        if sys.getrecursionlimit() < self._recursion:
            sys.setrecursionlimit(self._recursion)

    def restore(self) -> None:
        """Restore the state and the working directory; only for processes that run one job at a time."""
        self.repair()
        if self.folder is not None:
            os.chdir(self.folder)


class CancelKind(StrEnum):
    """The reason why a running job is cancelled, which determines how its outcome is handled."""

    TIMEOUT = "timed out"
    STOP = "server stopping"
    LOST = "no longer ours"  # deleted or taken from this session; the outcome is not stored


@attrs.define(eq=False)
class Completion:
    """The success that a run wrote within a transaction of its task, which may or may not have committed.

    Only the storage shows whether the transaction has committed, because it belongs to the task or its
    framework.
    """

    transition: Transition
    duration: int  # duration of the run until the success was written, in microseconds
    frees_children: bool  # whether a batch or continuations wait for the job
    written: float = attrs.Factory(time.monotonic)
    is_stored: bool | None = None  # whether the success is stored; None if this is unknown
    is_counted: bool = False  # whether this server has counted the job as ended; each is counted once
    is_due: bool = False  # whether the dispatcher must check whether it is stored, because it is old


@attrs.define(eq=False)
class Run:
    """A run that is in progress."""

    job: ClaimedJob
    holder: ClaimHolder
    context: JobContext
    info: TaskInfo
    args: tuple[Any, ...]  # the arguments, with the context first if the task takes it
    kwargs: dict[str, Any]
    timeout_seconds: float | None
    started_at: int = 0  # start time according to the storage's clock
    started: float = 0.0  # monotonic start time
    loading_since: float = 0.0  # monotonic; since then, the run waits until its job process is ready
    cancelled: CancelKind | None = None
    is_stopped: bool = False  # whether `cancel` was called; the run is ended by force only once
    cancelled_at: float = 0.0  # monotonic time at which `cancel` was called; 0 before that
    is_stuck: bool = False  # whether the run continues after its timeout, and this was logged
    ignores_cancellation: bool = (
        False  # whether it continues after its cancellation and the grace period, so only its process ends it
    )
    stop: Any = None  # ends the run by force; set by executors that can do so
    coroutine: asyncio.Task[Any] | None = None  # the asyncio task that runs it; None in a thread
    completion: Completion | None = None  # set by `complete`; replaced if an earlier one was rolled back
    runner: JobRunner | None = None
    begun: JobSteps | None = None  # steps and waits of the run; None for most jobs

    @property
    def busy_since(self) -> float:
        """The monotonic time at which the run began to occupy its worker; 0 before that."""
        return self.loading_since or self.started

    def cancel(self, kind: CancelKind, reason: str) -> None:
        """Request that the job ends; if its executor can end it by force, do so. The first reason is kept.

        If the task has already received an exception because the job was lost, the job is ended by force only
        after a timeout or when the server stops.
        """
        with _cancelling:  # several threads may notice a deletion at the same time
            is_first = self.cancelled is None
            if self.is_stopped or (kind is CancelKind.LOST and not is_first):
                return
            self.is_stopped, self.cancelled_at = True, time.monotonic()
            if is_first:
                self.cancelled = kind
        if is_first:
            self.context.cancel(reason)
        if (stop := self.stop) is not None:  # read once: the run may end in the meantime
            stop()

    # ---- for the context of the task ---------------------------------------------------------------------

    def complete(self, session: object, result: object) -> None:
        """Store within a session's transaction that the job has succeeded."""
        assert self.runner is not None  # noqa: S101 - its runner has created it
        self.runner.complete(self, session, result)

    @property
    def steps(self) -> JobSteps:
        """The steps and waits of the run, created when they are first used."""
        if self.begun is None:
            assert self.runner is not None  # noqa: S101 - its runner has created it
            self.runner.begin_steps(self)
        assert self.begun is not None  # noqa: S101 - it was created just now
        return self.begun

    @property
    def is_suspending(self) -> bool:
        """Whether the run has reached a wait, so that it ends whatever its task raises or returns."""
        return self.begun is not None and self.begun.wait is not None

    @property
    def is_suspended(self) -> bool:
        """Whether the run has reached a wait and has not timed out."""
        return self.is_suspending and self.cancelled is not CancelKind.TIMEOUT

    @property
    def refusal(self) -> str | None:
        """The reason why the job was cancelled; None if it was not cancelled."""
        return None if self.cancelled is None else self.context.cancel_reason

    @property
    def has_right(self) -> bool:
        """Whether the job certainly still belongs to this server's session."""
        return self.runner is None or self.runner.has_right()

    def lose(self, reason: str, *, is_raised: bool) -> None:
        """End the run, because the job no longer belongs to it.

        Args:
            reason: the reason, as readable text.
            is_raised: whether the caller raises an exception. In the run's own thread or coroutine, this
                exception is sufficient. In any other thread or coroutine, the exception might not reach the
                run, so the run is ended by force.
        """
        if not is_raised and self.completion is not None:
            return  # the job has ended, so writes are refused, but its task may continue
        if not is_raised or not self._is_current():
            self.cancel(CancelKind.LOST, reason)
            return
        with _cancelling:
            if self.cancelled is not None:
                return
            self.cancelled = CancelKind.LOST
        self.context.cancel(reason)

    def _is_current(self) -> bool:
        """Return whether the run's own coroutine calls this; always True for a run in a thread."""
        if self.coroutine is None:
            return True
        import asyncio  # noqa: PLC0415 - loaded by now

        try:
            return asyncio.current_task() is self.coroutine
        except RuntimeError:  # no event loop runs in this thread
            return False


@attrs.define(eq=False)
class EndedRun:
    """A run that has ended, with the transition that must be stored."""

    job: ClaimedJob
    transition: Transition
    duration: int = 0  # duration of the run in microseconds
    completion: Completion | None = None  # set if a transaction of the task may have ended the job
    log_failure: Callable[[], None] | None = None  # logs the failure if the storage accepts the outcome
    blocks: tuple[str, int] | None = None  # the limit key, and the time until which the key is blocked
    was_busy: bool = False  # whether the job's row was locked when the outcome was first sent


def _always() -> bool:
    return True


@attrs.define(eq=False)
class JobRunner:
    """The part of a worker process that runs claimed jobs and returns their outcomes."""

    _runtime: Runtime
    _console: Console
    has_right: Callable[[], bool] = _always  # returns whether jobs may continue; see `SharedMemory.may_start`
    _in_place: int = IN_PLACE
    _is_apart: bool = False  # whether it runs in a job process, with its own connection
    _on_completed: Callable[[Run], None] | None = None  # notifies the server; set only in a job process
    _nothing: dict[str, tuple[str | None, str | None]] = attrs.Factory(dict)
    _waits: dict[str, tuple[int, int, int]] = attrs.Factory(dict)  # postponed jobs: attempt, retries, crashes
    resources: OpenResources = attrs.Factory(OpenResources)
    related: RelatedJobs = attrs.field()
    _lock: threading.Lock = attrs.Factory(threading.Lock)
    _flusher: StreamFlusher | None = None  # set by the first run that has steps
    _memos: MemoCommit | None = None  # set by the first run that has steps

    @related.default
    def _related_jobs(self) -> RelatedJobs:
        return RelatedJobs(self._runtime.storage, self._runtime.client.serializers)

    # ---- before the run ----------------------------------------------------------------------------------

    def prepare(self, job: ClaimedJob, holder: ClaimHolder) -> Run | EndedRun:
        """Return a run that is ready to start, or the outcome if it cannot. Never raises `Exception`."""
        try:
            is_special = not (job.admission_json is None and job.relations_json is None and job.retry is None)
            if is_special and (part := unread_part(job)) is not None:
                return self._unread(job, holder, part)
            may_be_barred = job.admission_json is not None or job.crashes
            if may_be_barred and (ended := self._barred(job, holder)) is not None:
                return ended
            tasks, serializer = self._runtime.tasks, self._runtime.client.serializers.get(job.serializer)
            info = tasks.get(job.task)
            if info is None or info.is_remote or serializer is None:
                is_known = info is not None and not info.is_remote
                wait = lifecycle.unknown_serializer if is_known else lifecycle.unknown_task
                return self._put_off(job, wait(job, holder, at=self._runtime.clock.now()))
            try:
                relations = job.relations
                if relations is not None and (why := self.related.refusal(relations)) is not None:
                    return self._stopped(job, holder, why)
                if relations is None or not relations.inputs:
                    args, kwargs = tasks.binder(info).decode_text(job.arguments, serializer)
                else:
                    args, kwargs = tasks.binder(info).decode(
                        self.related.arguments(job, relations, serializer)
                    )
            except StorageError as error:
                return self._handed_back(job, holder, f"its related jobs could not be read: {error}")
            except Exception as error:  # noqa: BLE001 - a plugin's serializer may raise anything
                return self._unreadable(job, holder, error)
            context = JobContext(
                job, self._console, args=args, kwargs=kwargs, resources=self.resources, server=holder.server
            )
            timeout = info.timeout_seconds if job.timeout_seconds is None else job.timeout_seconds
            run = Run(
                job, holder, context, info, (context, *args) if info.takes_context else args, kwargs, timeout
            )
            run.runner = self
            context.served_by(run)
            return run
        except Exception as error:
            log.exception(
                "Job %s could not be started; trying again later.", job.id, extra={"job_id": job.id}
            )
            return self.unprepared(job, holder, error)

    def unprepared(self, job: ClaimedJob, holder: ClaimHolder, error: Exception) -> EndedRun:
        """Return the outcome of a job that could not start because of an unexpected error; it runs later."""
        at, why = self._runtime.clock.now(), describe_error(error)
        return self._put_off(job, lifecycle.unprepared(job, holder, at=at, why=why))

    def _barred(self, job: ClaimedJob, holder: ClaimHolder) -> EndedRun | None:
        """Return the outcome of a job that must not start, because it is late or has crashed too often."""
        return self._crashed_too_often(job, holder) if job.crashes else self._late(job, holder)

    def _late(self, job: ClaimedJob, holder: ClaimHolder) -> EndedRun | None:
        """Return the outcome of a job whose start deadline has passed; None if the job may start.

        A job that the storage returned as late does not count toward its limits and must not run. The storage
        uses its own clock to decide whether a job is late, so that clock is read if the local estimate is
        close to the deadline.
        """
        admission = job.admission
        if admission is None or job.attempt != 1:
            return None
        before = latest_start(admission, job.enqueued_at)
        now = self._runtime.clock.now()
        if before is None or now + _UNSURE <= before:
            return None
        if now <= before:
            try:
                now = self._runtime.storage.clock()
            except StorageError:
                return self._handed_back(
                    job, holder, "the storage's clock could not be read before its first start"
                )
        if now <= before:
            return None
        expires_at = self._runtime.client.retention.until(State.DELETED, now)
        ended = lifecycle.not_started(job, holder, at=now, before=before, expires_at=expires_at)
        log.info(
            "Job %s is deleted before its first start: %s.", job.id, ended.reason, extra={"job_id": job.id}
        )
        return EndedRun(job, ended)

    def _crashed_too_often(self, job: ClaimedJob, holder: ClaimHolder) -> EndedRun | None:
        """Return the outcome of a job that has crashed too often; None if the job may start.

        When a session ends, crashes are counted but no job fails, so the decision is made here. The history
        is read only if the number of crashes requires a decision.
        """
        info = self._runtime.tasks.get(job.task)
        if self._is_apart or info is None or not _may_be_its_last_crash(job, info):
            return None
        try:
            history = self._runtime.storage.history(job.id)
        except StorageError:
            return self._handed_back(job, holder, "its history could not be read after its crashes")
        crashes = lifecycle.crashes_of(history.entries, job.crashes)
        if crashes.losses >= info.max_host_losses:
            reason = (
                "its server or worker process was lost while it ran; "
                f"losses: {crashes.losses}, max_host_losses: {info.max_host_losses}"
            )
        elif crashes.alone is not None and job.crashes >= lifecycle.CRASH_LIMIT:
            reason = f"{job.crashes} crashes, the last one alone: {crashes.alone}"
        else:
            return None
        at = self._runtime.clock.now()
        error = attrs.evolve(describe_failure(died := ProcessDied(reason)), traceback=None)
        expires_at = self._runtime.client.retention.until(State.FAILED, at)
        transition = lifecycle.failed(
            job, holder, at=at, started_at=None, reason=reason, error=error, expires_at=expires_at
        )
        ended = EndedRun(job, transition)
        self._report(ended, reason, died)
        return ended

    def _handed_back(self, job: ClaimedJob, holder: ClaimHolder, why: str) -> EndedRun:
        at = self._runtime.clock.now()
        return EndedRun(job, lifecycle.handed_back(job, holder, at=at, started_at=None, reason=why))

    def _stopped(self, job: ClaimedJob, holder: ClaimHolder, why: str) -> EndedRun:
        """Return the outcome of a job that must no longer start."""
        at = self._runtime.clock.now()
        expires_at = self._runtime.client.retention.until(State.DELETED, at)
        log.info("Job %s is deleted instead of started: %s.", job.id, why, extra={"job_id": job.id})
        return EndedRun(job, lifecycle.stopped(job, holder, at=at, reason=why, expires_at=expires_at))

    def _put_off(self, job: ClaimedJob, transition: Transition) -> EndedRun:
        """Return the outcome of a job that waits for another server; only its first wait is reported."""
        before = (job.attempt, job.retries, job.crashes)  # a wait does not count as an attempt
        if self._waits.get(job.id) == before:
            transition = attrs.evolve(transition, is_silent=True)
        if len(self._waits) >= _REMEMBERED:
            self._waits.clear()
        self._waits[job.id] = before
        if not transition.is_silent:
            log.warning("Job %s is put off: %s.", job.id, transition.reason, extra={"job_id": job.id})
        return EndedRun(job, transition)

    def _unread(self, job: ClaimedJob, holder: ClaimHolder, part: UnreadPart) -> EndedRun:
        """Return the outcome of a job with a part that this release cannot read."""
        if part.is_damaged:
            error = StorageError(f"{part.stored[:200]!r} is not JSON")
            return self._unreadable(job, holder, error, part.name)
        at = self._runtime.clock.now()
        return self._put_off(job, lifecycle.unread_part(job, holder, at=at, what=part.name))

    def _unreadable(
        self, job: ClaimedJob, holder: ClaimHolder, error: Exception, part: str = "arguments"
    ) -> EndedRun:
        at, info = self._runtime.clock.now(), describe_failure(error)
        expires_at = self._runtime.client.retention.until(State.FAILED, at)
        ended = EndedRun(
            job, lifecycle.undecodable(job, holder, at=at, error=info, expires_at=expires_at, what=part)
        )
        # The error's message is omitted, because it might contain arguments, and more people can read the log
        # than the jobs.
        what = f"its {part.removeprefix('its ')} cannot be read ({info.type}); see its history for the reason"
        self._report(ended, what, ArgumentError(what))
        return ended

    def reads_storage(self, job: ClaimedJob) -> bool:
        """Return whether `prepare` reads the storage, for related jobs or crashes."""
        info = self._runtime.tasks.get(job.task) if job.crashes else None
        if info is not None and _may_be_its_last_crash(job, info):
            return True
        relations = job.relations
        return relations is not None and (bool(relations.inputs) or not self.related.is_cached(relations))

    def start(self, run: Run) -> None:
        """Record the time at which the run starts."""
        run.started_at = self._runtime.clock.now()
        run.started = time.monotonic()

    def store_start(self, run: Run) -> None:
        """Store that the run has started, which the dispatcher normally does after a second.

        This is needed for a suspect, because the job might crash its whole server within that second. The job
        runs even if the storage is unavailable.
        """
        held = HeldClaim(run.job.id, run.job.fence, started_at=run.started_at)
        try:
            self._runtime.storage.reconcile(run.holder.session, [held])
        except StorageError as error:
            log.warning(
                "The start of job %s could not be stored, so it does not count if its server is lost now: %s",
                run.job.id, error,
                extra={"job_id": run.job.id},
            )  # fmt: skip

    @property
    def has_job_context(self) -> bool:
        """Whether a plugin wraps the runs of jobs."""
        return self._runtime.plugins.has_job_context

    # ---- the run -----------------------------------------------------------------------------------------

    def run(self, run: Run) -> EndedRun:
        """Run a `def` task in this thread, and return its outcome."""
        self.start(run)
        token = running_job.set(run.context)
        try:
            if self._runtime.plugins.has_job_context or run.info.resources:
                result = self._run_wrapped(run)
            else:
                result = run.info.function(*run.args, **run.kwargs)
        except BaseException as error:  # noqa: BLE001 - SystemExit and the like end the job, not the worker
            return self._suspended(run) or self.raised(run, error)
        finally:
            running_job.reset(token)
        return self._suspended(run) or self.returned(run, result)

    def _run_wrapped(self, run: Run) -> object:
        with ExitStack() as contexts:
            for context in self._runtime.plugins.job_contexts(run.context, run.info):
                contexts.enter_context(context)  # type: ignore[arg-type]  # checked by the plugin manager
            resources = {name: self.resources.get(each) for name, each in run.info.resources.items()}
            try:
                return run.info.function(*run.args, **run.kwargs, **resources)
            except BaseException:
                if not run.is_suspending:
                    raise
                run.steps.rest()
        return None  # a plugin's context suppresses the task's exception, or the run is suspended

    async def arun(self, run: Run) -> EndedRun:
        """Run an `async def` task on this event loop, and return its outcome."""
        self.start(run)
        token = running_job.set(run.context)
        try:
            if self._runtime.plugins.has_job_context or run.info.resources:
                result = await self._arun_wrapped(run)
            else:
                result = await run.info.function(*run.args, **run.kwargs)
            if run.begun is not None:
                await self._arest(run.begun)
        except BaseException as error:  # noqa: BLE001 - a cancellation ends the job; the loop continues
            await self._acheck_completion(run)
            if run.begun is not None:
                try:
                    await self._arest(run.begun)
                except BaseException as stopped:  # noqa: BLE001 - it was cancelled while its steps ended
                    return self.raised(run, stopped)
            return self._suspended(run) or self.raised(run, error)
        finally:
            running_job.reset(token)
        if run.cancelled is CancelKind.TIMEOUT:
            await self._acheck_completion(run)
        return self._suspended(run) or self.returned(run, result)

    async def _arun_wrapped(self, run: Run) -> object:
        """Return the result of the coroutine; async contexts are entered in its own asyncio task."""
        async with AsyncExitStack() as contexts:
            for context in self._runtime.plugins.job_contexts(run.context, run.info):
                if hasattr(type(context), "__aenter__"):
                    await contexts.enter_async_context(context)  # type: ignore[arg-type]  # was just checked
                else:
                    contexts.enter_context(context)  # type: ignore[arg-type]  # checked by the plugin manager
            resources = {name: await self.resources.aget(each) for name, each in run.info.resources.items()}
            try:
                return await run.info.function(*run.args, **run.kwargs, **resources)
            except BaseException:
                if not run.is_suspending:
                    raise
                await run.steps.arest()
        return None  # a plugin's context suppresses the task's exception, or the run is suspended

    # ---- steps and waits ---------------------------------------------------------------------------------

    def begin_steps(self, run: Run) -> None:
        """Create the steps object of the run; all threads of the run share one object.

        Raises:
            StepError: If no other process could read the stored values.
        """
        storage = self._runtime.storage
        if self._is_apart and Feature.SHARED not in storage.features:
            raise StepError(
                f"Task {run.info.name!r} runs in a separate process, which cannot reach {storage.url}, so "
                "its steps would be lost. Use a storage that processes share, or remove executor."
            )
        with self._lock:
            if run.begun is None:
                flusher = self._flusher = self._flusher or StreamFlusher()
                memos = self._memos = self._memos or MemoCommit(self._runtime.storage)
                run.begun = JobSteps(
                    run.job, run.holder, self._runtime.client, run,
                    memos=memos, flusher=flusher, in_place=self._in_place,
                )  # fmt: skip

    def _suspended(self, run: Run) -> EndedRun | None:
        """Return the outcome of a run that waits, whatever its task has done; None if it does not wait."""
        steps = run.begun
        if steps is None:
            return None
        steps.rest()
        steps.finish()
        wait = steps.wait
        if wait is None or run.cancelled is CancelKind.TIMEOUT:
            return None
        at = self._runtime.clock.now()
        if wait.kind is MemoKind.SLEEP and wait.due_at is not None:
            transition = lifecycle.slept(
                run.job, run.holder, at=at, started_at=run.started_at, waits_for=wait.words,
                reason=wait.reason, due_at=wait.due_at,
            )  # fmt: skip
        else:
            transition = lifecycle.suspended(
                run.job, run.holder, at=at, started_at=run.started_at, waits_for=wait.words,
                reason=wait.reason, parents=wait.parents, due_at=wait.due_at,
            )  # fmt: skip
        return self._ended(run, transition)

    @staticmethod
    async def _arest(steps: JobSteps) -> None:
        await steps.arest()
        await steps.afinish()

    # ---- the end of a run that returned ------------------------------------------------------------------

    def returned(self, run: Run, result: object) -> EndedRun:
        """Return the outcome of a run whose task returned."""
        if run.cancelled is CancelKind.TIMEOUT:  # the task ignored the cancellation after a timeout
            return self.raised(run, _timeout_error(run))
        at = self._runtime.clock.now()
        if type(result) is not Snooze:
            return self._ended(run, self._succeeded(run, at, result))
        wait = span_micros(result.after)
        transition = lifecycle.snoozed(
            run.job, run.holder, at=at, started_at=run.started_at, wait=wait, reason=result.reason
        )
        return self._ended(run, transition)

    def _succeeded(self, run: Run, at: int, result: object) -> Transition:
        text, absent = self._encode_result(run, result)
        keep, own = self._runtime.client.retention.succeeded, run.info.keep_seconds
        if own is not None:
            keep = int(own * SECOND)
        return lifecycle.succeeded(
            run.job, run.holder, at=at, started_at=run.started_at, result=text, result_absent=absent,
            expires_at=None if keep is None else at + keep,
        )  # fmt: skip

    def _encode_result(self, run: Run, result: object) -> tuple[str | None, str | None]:
        """Return the stored form of the result, or the reason why it cannot be stored.

        With JSON, None is encoded only once per task, because most tasks return it.
        """
        is_nothing = result is None and run.job.serializer == _JSON
        if is_nothing and (nothing := self._nothing.get(run.info.name)) is not None:
            return nothing
        encoded: tuple[str | None, str | None]
        try:
            serializer = self._runtime.client.serializers[run.job.serializer]
            encoded = self._runtime.tasks.binder(run.info).encode_result_text(result, serializer), None
        except BaseException as error:  # noqa: BLE001 - the job has succeeded; only the reason is stored
            encoded = None, f"the result was not stored: {error}"
        if is_nothing:
            self._nothing[run.info.name] = encoded
        return encoded

    # ---- an end within the task's own transaction --------------------------------------------------------

    def complete(self, run: Run, within: object, result: object) -> None:
        """Store the success within the task's own transaction; the outcome that is sent later repeats it.

        The server is notified before the transaction can commit, so it never considers the job lost.
        """
        at = self._runtime.clock.now()
        transition = self._succeeded(run, at, result)
        joined = self._runtime.client.transaction(within)
        applied = self._runtime.storage.apply([transition], within=joined)[0]
        if not applied.is_applied:
            raise JobCancelled("the job no longer belongs to this run; its transaction must be rolled back")
        if applied is Applied.ALREADY:  # a second call; the first one was stored
            return
        needs_release = applied is Applied.RELEASE_NEEDED
        run.completion = Completion(transition, max(0, at - run.started_at), needs_release)
        if self._on_completed is not None:
            self._on_completed(run)

    def check_completion(self, run: Run) -> None:
        """Read from the storage whether the run's own transaction has committed, unless this is known.

        If the storage cannot be read, the run is treated as if the transaction had not committed. If the
        transaction did commit, the storage refuses the outcome, and the dispatcher checks the job again.
        """
        completion = run.completion
        if completion is None or completion.is_stored is not None:
            return
        try:
            (record,) = self._runtime.storage.get([run.job.id])
        except StorageError as error:
            completion.is_stored = False
            log.warning(
                "Job %s: cannot read whether its own transaction committed; sending its outcome as usual: %s",
                run.job.id, error,
                extra={"job_id": run.job.id},
            )  # fmt: skip
        else:
            completion.is_stored = has_succeeded(run.job, record)

    async def _acheck_completion(self, run: Run) -> None:
        if run.completion is not None and run.completion.is_stored is None:
            await in_thread(self.check_completion, run)

    def _has_completed(self, run: Run) -> bool:
        self.check_completion(run)
        return run.completion is not None and run.completion.is_stored is True

    def _raised_afterwards(self, run: Run, error: BaseException) -> EndedRun:
        """Return the outcome of a run that failed after its own transaction had committed.

        The job has succeeded, and its attempt has not failed: the job is not retried, and neither
        `retry_decision` nor `attempt_failed` is called. The error is logged, because it is not reported
        anywhere else.
        """
        assert run.completion is not None  # noqa: S101 - the caller has checked
        log.error(
            "Job %s of task %r had already succeeded within its own transaction when its task raised an "
            "exception; it remains succeeded and does not run again: %s",
            run.job.id, run.job.task, describe_error(error),
            exc_info=error if error.__traceback__ is not None else None,
            extra={"job_id": run.job.id, "task": run.job.task, "queue": run.job.queue},
        )  # fmt: skip
        ended = completed_end(run.job, run.completion)
        if isinstance(error, RateLimited):
            ended.blocks = _block_by(error, self._runtime.clock.now())
        return ended

    # ---- the end of a failed run -------------------------------------------------------------------------

    def raised(self, run: Run, error: BaseException) -> EndedRun:
        """Return the outcome of a run whose task raised an exception, was cancelled or timed out.

        The first of these cases that applies determines the outcome: the server has cancelled the run, the
        task's own transaction has ended the job, or the task is rate limited. Any other error is a failure;
        see `_decide`.
        """
        match run.cancelled:
            case CancelKind.STOP | CancelKind.LOST if _is_cancellation(error):
                return self.hand_back(run, run.context.cancel_reason)
            case CancelKind.TIMEOUT:
                error = _timeout_error(run, error)
        if self._has_completed(run):
            return self._raised_afterwards(run, error)
        if isinstance(error, RateLimited):
            return self._rate_limited(run, error)
        at = self._runtime.clock.now()
        decision, author = self._decide(run, error)
        ended = self._ended(run, self._transition_of(run, error, decision, at))
        what = describe_error(error)
        if author and decision.reason and ended.transition.reason == decision.reason:
            what = f"{what}; {author} decided: {shorten(' '.join(decision.reason.split()), 200)}"
        if run.cancelled is CancelKind.LOST or run.is_stuck:  # if the outcome is refused, it has not failed
            ended.log_failure = lambda: self._report(ended, what, error)
        else:
            self._report(ended, what, error)
        return ended

    def _rate_limited(self, run: Run, error: RateLimited) -> EndedRun:
        """Return the outcome of a rate-limited run: the job is snoozed, and the error's key is blocked."""
        at, wait = self._runtime.clock.now(), span_micros(error.retry_after)
        transition = lifecycle.snoozed(
            run.job, run.holder, at=at, started_at=run.started_at, wait=wait, reason=message_of(error)
        )
        ended = self._ended(run, transition)
        ended.blocks = _block_by(error, at)
        if ended.blocks is not None:
            own = [use.key for use in run.job.admission.limits] if run.job.admission else []
            if own and error.key not in own:
                log.warning(
                    "Job %s of task %r blocks limit %r, which is not one of its own limits (%s), so similar "
                    "jobs can still start.",
                    run.job.id, run.job.task, error.key, ", ".join(own),
                    extra={"job_id": run.job.id},
                )  # fmt: skip
        log.info("Job %s is %s.", run.job.id, transition.reason, extra={"job_id": run.job.id})
        return ended

    def _decide(self, run: Run, error: BaseException) -> tuple[RetryDecision, str]:
        """Return the decision about a failure, and who made it, for the log; "" if Firelock did.

        The decision is made by a plugin or, if no plugin decides, by the retry policy of the call or task.

        If the policy returns None, the default policy decides. No policy is called for an error that every
        later attempt would also raise.
        """
        author = ""
        if isinstance(error, StepError) or (run.begun is not None and run.begun.fails_permanently(error)):
            proposed = RetryDecision.fail()
        else:
            policy = _policy(run)
            try:
                answer = policy.decide(run.job, error)
            except Exception:
                log.exception(
                    "The retry policy of task %r raised an exception; failing the job.", run.info.name
                )
                answer = RetryDecision.fail("the retry policy raised an exception")
            if isinstance(answer, RetryDecision):
                proposed, author = answer, "" if isinstance(policy, Retry) else "the retry policy"
            else:
                proposed = Retry().decide(run.job, error)
        if self._runtime.plugins.has_retry_decision:
            found = self._runtime.plugins.retry_decision(run.context, run.info, error, proposed)
            if found is not None and found[1] != proposed:
                return found[1], f"plugin {found[0]!r}"
        return proposed, author

    def _transition_of(self, run: Run, error: BaseException, decision: RetryDecision, at: int) -> Transition:
        """Return the transition of a failed run that follows from the decision."""
        info = describe_failure(error)
        reason = decision.reason or f"{info.type}: {info.message}"[:200]
        wait = span_micros(decision.after) if decision.after is not None else 0
        job, holder, started_at = run.job, run.holder, run.started_at
        if decision.kind is DecisionKind.RETRY:
            reason = decision.reason or retry_reason(job.retries + 1, _attempts(run), error)
            return lifecycle.retried(
                job, holder, at=at, started_at=started_at, wait=wait, reason=reason, error=info
            )
        if decision.kind is DecisionKind.SNOOZE:
            return lifecycle.snoozed(job, holder, at=at, started_at=started_at, wait=wait, reason=reason)
        is_deleted = decision.kind is DecisionKind.DELETE
        end = lifecycle.deleted_by_policy if is_deleted else lifecycle.failed
        expires_at = self._runtime.client.retention.until(State.DELETED if is_deleted else State.FAILED, at)
        return end(
            job, holder, at=at, started_at=started_at, reason=reason, error=info, expires_at=expires_at
        )

    def interrupted(self, run: Run, error: BaseException) -> EndedRun:
        """Return the outcome of a run after an error outside of its task.

        An example is a job process that could not be started. The policy decides about the job, as for any
        failure. If its decision cannot be applied, the job fails.
        """
        if not run.started:
            self.start(run)
        try:
            return self.raised(run, error)
        except BaseException as broken:
            log.exception("The decision about job %s cannot be applied; failing the job.", run.job.id)
            at = self._runtime.clock.now()
            decision = RetryDecision.fail(f"its outcome could not be created: {describe_error(broken)}")
            transition = self._transition_of(run, broken, decision, at)
            ended = EndedRun(run.job, transition, max(0, at - run.started_at), run.completion)
            self._report(ended, describe_error(broken), broken)
            return ended

    def passed_over(self, run: Run, reason: str = "lost before it started") -> EndedRun:
        """Return the outcome of a run dropped before its start; it shows the storage that none is left."""
        return self._handed_back(run.job, run.holder, reason)

    def abandoned(self, run: Run, reason: str) -> EndedRun:
        """Return the outcome of a run for which the server cannot wait any longer.

        If the run has timed out, the outcome is the timeout; otherwise, the job is handed back.
        """
        if run.cancelled is CancelKind.TIMEOUT:
            return self.raised(run, JobCancelled(run.context.cancel_reason))
        return self.hand_back(run, reason)

    def hand_back(self, run: Run, reason: str) -> EndedRun:
        """Return the outcome of a run that is handed back."""
        transition = lifecycle.handed_back(
            run.job, run.holder, at=self._runtime.clock.now(), started_at=run.started_at, reason=reason
        )
        return self._ended(run, transition)

    def crashed(self, run: Run, reason: str) -> EndedRun:
        """Return the outcome of a run whose job process died."""
        if self._has_completed(run):
            return self._raised_afterwards(run, ProcessDied(reason))
        at = self._runtime.clock.now()
        error = attrs.evolve(describe_failure(died := ProcessDied(reason)), traceback=None)
        transition = lifecycle.crashed_alone(
            run.job, run.holder, at=at, started_at=run.started_at, reason=reason, error=error,
            expires_at=self._runtime.client.retention.until(State.FAILED, at),
        )  # fmt: skip
        ended = self._ended(run, transition)
        self._report(ended, reason, died)
        return ended

    # ---- the stored and reported end ---------------------------------------------------------------------

    def _ended(self, run: Run, transition: Transition) -> EndedRun:
        """Return the outcome with this transition, or with the one that a plugin chooses instead."""
        duration = max(0, transition.at - run.started_at)
        if self._runtime.plugins.has_elect_transition:
            fits = partial(_ends_same_run, transition)
            elected = self._runtime.plugins.elect_transition(run.job, attrs.evolve(transition), fits)
            if elected is not None:
                transition = elected if elected.to in _MAY_BE_DUE else attrs.evolve(elected, due_at=None)
        return EndedRun(run.job, transition, duration, run.completion)

    def _report(self, ended: EndedRun, what: str, error: BaseException) -> None:
        """Report a failed attempt to plugins; log it as a warning if the job runs again, else as an error.

        The log line does not contain arguments unless the message of the task's exception or a plugin's
        reason contains them.
        """
        if self._runtime.plugins.has_attempt_failed:
            self._runtime.plugins.attempt_failed(ended.job, error, ended.transition)
        if not self._runtime.settings.log_failures:
            return
        job, transition = ended.job, ended.transition
        verb = "failed" if transition.crashes is None else "crashed"
        is_over = transition.to in {State.FAILED, State.DELETED}
        outcome = f"has failed in attempt {job.attempt}"
        if transition.to is not State.FAILED:
            outcome = f"{verb} in attempt {job.attempt}{_what_follows(transition)}"
        failures.log(
            logging.ERROR if is_over else logging.WARNING,
            "Job %s of task %r %s: %s", job.id, job.task, outcome, what,
            exc_info=error if is_over and error.__traceback__ is not None else None,
            extra={
                "event": f"job_{_EVENTS.get(transition.to, 'retried')}",
                "job_id": job.id, "task": job.task, "queue": job.queue, "attempt": job.attempt,
                "retries": job.retries, "outcome": str(transition.to),
                "error_type": None if transition.error is None else transition.error.type,
                "fingerprint": None if transition.error is None else transition.error.fingerprint,
            },
        )  # fmt: skip


def _may_be_its_last_crash(job: ClaimedJob, info: TaskInfo) -> bool:
    return job.crashes >= min(lifecycle.CRASH_LIMIT, info.max_host_losses)


def _block_by(error: RateLimited, at: int) -> tuple[str, int] | None:
    """Return the key that the error blocks, and until when; None if the error has no key or no delay."""
    wait = span_micros(error.retry_after)
    return (error.key, at + wait) if error.key is not None and wait else None


def completed_end(job: ClaimedJob, completion: Completion) -> EndedRun:
    """Return the outcome that the task's own transaction has stored, however the run continued."""
    return EndedRun(job, completion.transition, completion.duration, completion)


def has_succeeded(job: ClaimedJob, record: JobRecord | None) -> bool:
    """Return whether a run has ended its job by writing its success within its own transaction.

    A record of None means that the job does not exist, which counts as a success: only final jobs are
    removed, and a job that was deleted while it ran is found with its tail long before it expires. A deleted
    job does not count, because after the storage has refused the outcome, it is unknown whether the job had
    succeeded before it was deleted.
    """
    return record is None or (record.state is State.SUCCEEDED and record.fence == job.fence)


_MAY_BE_DUE = (State.SCHEDULED, State.AWAITING)


def _ends_same_run(proposed: Transition, elected: object) -> bool:
    """Return whether the chosen value is a transition that can end the same run as the proposed one."""
    if not isinstance(elected, Transition):
        return False
    to = elected.to
    return (
        elected.job_id == proposed.job_id
        and elected.from_states == proposed.from_states
        and elected.session == proposed.session
        and elected.fence == proposed.fence
        and lifecycle.is_legal(State.PROCESSING, to)
        and (to is not State.SCHEDULED or elected.due_at is not None)
        and (to is not State.AWAITING or elected.waits_for is not None)
    )


_EVENTS = {State.FAILED: "failed", State.DELETED: "deleted", State.SUCCEEDED: "succeeded"}


def _what_follows(transition: Transition) -> str:
    """Return what happens next to a job that did not fail, as the second part of a sentence."""
    match transition.to:
        case State.DELETED:
            return " and is deleted"
        case State.SUCCEEDED:
            return ", but counts as succeeded because of a plugin"
    wait = 0 if transition.due_at is None else transition.due_at - transition.at
    when = f"in {wait / SECOND:.3g} s" if wait > 0 else "immediately"
    if transition.crashes is not None:
        return f", runs again {when}"
    if transition.retries is None:
        return f", runs again {when} without a retry"
    return f", retry {transition.retries} {when}"


class ProcessDied(FirelockError):
    """The error for a job whose process ended before the job did."""


def _timeout_error(run: Run, cause: BaseException | None = None) -> TimeoutError:
    error = TimeoutError(f"timed out after {run.timeout_seconds:g} s")
    if cause is not None and not _is_cancellation(cause):
        error.__cause__ = cause
    elif cause is not None:
        error.__traceback__ = cause.__traceback__
    return error


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, JobCancelled):
        return True
    if isinstance(error, BaseExceptionGroup):  # as raised by a task group
        return all(map(_is_cancellation, error.exceptions))
    asyncio = sys.modules.get("asyncio")  # if it is not loaded, it cannot have raised an error
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def _attempts(run: Run) -> int | None:
    """Return the number of retries that the policy allows; None if it is unknown."""
    try:
        return getattr(_policy(run), "attempts", None)
    except FirelockError:
        return None


def _policy(run: Run) -> RetryPolicy:
    """Return the retry policy of the call, or the task's policy if the call has none."""
    return run.info.retry if run.job.retry is None else Retry.from_json(run.job.retry)
