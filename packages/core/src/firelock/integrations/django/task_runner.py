"""The code that a server runs for a Django task: the task's function, Django's signals, and retries."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import attrs
from asgiref.sync import sync_to_async

from firelock.context import JobContext, Snooze, current_job
from firelock.errors import FirelockError, JobCancelled, JobSuspended
from firelock.integrations.django.task_api import (
    InvalidTask,
    Task,
    TaskContext,
    TaskResultStatus,
    normalize_json,
    task_finished,
    task_started,
)
from firelock.integrations.django.task_options import FIELDS, TaskOptions, own_options
from firelock.integrations.django.task_results import (
    FirelockTaskResult,
    as_called,
    error_of_exception,
    read_result,
    shown_instant,
    shown_micros,
    task_as_enqueued,
)
from firelock.model.aio import in_thread
from firelock.options import Executor
from firelock.retry import DecisionKind, RetryDecision, retry_reason

if TYPE_CHECKING:
    from django.dispatch import Signal

    from firelock import Firelock
    from firelock.model.job import ClaimedJob
    from firelock.task import TaskVerbs

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class AttemptUnderWay:
    """One attempt in Django's format, and the decision that was made when it failed."""

    job: JobContext
    result: FirelockTaskResult
    error: BaseException | None = None
    decision: RetryDecision | None = None


_under_way: ContextVar[AttemptUnderWay] = ContextVar("firelock_django_attempt")


@attrs.define(eq=False)
class TaskRunner:
    """The function and the retry policy of a Firelock task that runs a Django task."""

    app: Firelock
    task: Task
    alias: str  # the alias of the backend for which the task was declared
    sender: type  # the class of this backend, for signals
    options_in: Callable[[str], TaskOptions]  # the options in a queue
    verbs: TaskVerbs[..., Any] = attrs.field(init=False)
    positional: tuple[str, ...] = attrs.field(init=False)  # the parameters that can be positional

    @classmethod
    def of(cls, function: Callable[..., Any]) -> TaskRunner | None:
        """Return the runner that created this function; None for any other function."""
        runner = getattr(function, "firelock_runner", None)
        return runner if isinstance(runner, cls) else None

    def register(self) -> None:
        """Register the task with the app under its path.

        Raises:
            FirelockError: If other processes could not find the task, its name is already in use, or its tags
                name an unknown parameter.
        """
        task, options = self.task, self.options_in(self.task.queue_name)
        function = self._arun if inspect.iscoroutinefunction(task.func) else self._run
        self.verbs = self.app.task(
            name=task.module_path,
            queue=task.queue_name,
            priority=int(task.priority),
            retry=self,
            timeout=options.timeout,
            keep=options.keep,
            tags=options.tags or (),
            executor=options.executor or Executor.AUTO,
            limits=options.limits or (),
            unique=options.unique or None,
            start_before=options.start_before,
        )(self._as_function(function))
        self.positional = self.app.registry.binder(self.verbs.info).signature.positional

    def _as_function(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function with the task's parameters, without annotations, as arguments are plain JSON."""
        if inspect.iscoroutinefunction(method):

            async def function(*args: object, **kwargs: object) -> object:
                return await method(args, kwargs)

        else:

            def function(*args: object, **kwargs: object) -> object:  # type: ignore[misc]  # either of two
                return method(args, kwargs)

        wrapped = functools.wraps(self.task.func)(function)
        parameters = list(inspect.signature(self.task.func).parameters.values())[self.task.takes_context :]
        wrapped.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [each.replace(annotation=each.empty) for each in parameters]
        )
        wrapped.__annotations__ = {}
        wrapped.firelock_runner = self  # type: ignore[attr-defined]
        return wrapped

    def check_alike(self, task: Task) -> None:
        """Check that the task was declared with the same options as this runner's task.

        Raises:
            InvalidTask: If the options differ, because it would be unclear which of them apply to a job.
        """
        given, declared = own_options(task), own_options(self.task)
        if given == declared:
            return
        for name, now, before in zip(FIELDS, given, declared, strict=True):
            if now not in (before, None):
                raise InvalidTask(
                    f"{task.module_path} was declared with {name}={before!r} before and with {name}={now!r} "
                    "now, but a function can be only one task; use a second function for other options."
                )

    # ---- running -----------------------------------------------------------------------------------------

    def _run(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
        attempt = self._begin(current_job())
        task_started.send_robust(self.sender, task_result=attempt.result)
        try:
            returned = self.task.func(*self._given(attempt, args), **kwargs)
            if is_over := _is_over(attempt.job, returned):
                returned = self._succeeded(attempt, returned)
        except BaseException as error:
            if _is_failure(attempt.job, error) and self._failed(attempt, error):
                task_finished.send_robust(self.sender, task_result=attempt.result)
            raise
        if is_over:
            task_finished.send_robust(self.sender, task_result=attempt.result)
        return returned

    async def _arun(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
        job = current_job()
        attempt = self._begin(job) if job.attempt == 1 else await in_thread(self._begin, job)
        _under_way.set(attempt)
        await self._asend(task_started, attempt.result)
        try:
            returned = await self.task.func(*self._given(attempt, args), **kwargs)
            if is_over := _is_over(job, returned):
                returned = self._succeeded(attempt, returned)
        except BaseException as error:
            if _is_failure(job, error) and self._failed(attempt, error):
                await self._asend(task_finished, attempt.result)
            raise
        if is_over:
            await self._asend(task_finished, attempt.result)
        return returned

    async def _asend(self, signal: Signal, result: FirelockTaskResult) -> None:
        """Send the signal in Django's thread for sync code, where receivers can use the database.

        The exception that is being handled is available there too.
        """
        await sync_to_async(signal.send_robust)(self.sender, task_result=result)

    def _given(self, attempt: AttemptUnderWay, args: tuple[object, ...]) -> tuple[object, ...]:
        return (TaskContext(task_result=attempt.result), *args) if self.task.takes_context else args

    def _begin(self, job: JobContext) -> AttemptUnderWay:
        """Return the attempt that begins now; this reads the results of earlier attempts."""
        result = None
        if job.attempt > 1:
            try:
                record = self.app.jobs.get(job.id).record()
                result = read_result(self.app, record, self.task, self.alias)
            except FirelockError as error:
                log.warning("Job %s runs without the results of its earlier attempts: %s", job.id, error)
        if result is None:
            result = self._first_result(job)
        now = shown_micros(self.app.client.clock.now())
        if result.started_at is None or job.attempt == 1:
            object.__setattr__(result, "started_at", now)
        object.__setattr__(result, "last_attempted_at", now)
        object.__setattr__(result, "status", TaskResultStatus.RUNNING)
        attempt = AttemptUnderWay(job, result)
        _under_way.set(attempt)
        return attempt

    def _first_result(self, job: JobContext) -> FirelockTaskResult:
        is_delayed = job.due_at != job.created_at
        task = task_as_enqueued(
            self.task,
            backend=self.alias,
            queue_name=job.queue,
            priority=job.priority,
            run_after=shown_instant(job.due_at) if is_delayed else None,
        )
        args, kwargs = as_called(self.positional, job.args, job.kwargs, job.meta)
        return FirelockTaskResult(
            task=task,
            id=job.id,
            status=TaskResultStatus.RUNNING,
            enqueued_at=shown_instant(job.created_at),
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[job.server] * job.attempt,
        )

    # ---- ends --------------------------------------------------------------------------------------------

    def _succeeded(self, attempt: AttemptUnderWay, returned: object) -> object:
        """Return the value as JSON.

        If the value is not JSON, the job fails without a retry, because its work is done.
        """
        try:
            value = normalize_json(returned)
        except (TypeError, ValueError) as error:
            attempt.error = error
            attempt.decision = RetryDecision.fail("its returned value cannot be stored; not retried")
            raise
        self._finish(attempt, TaskResultStatus.SUCCESSFUL)
        object.__setattr__(attempt.result, "_return_value", value)
        return value

    def _finish(self, attempt: AttemptUnderWay, status: TaskResultStatus) -> None:
        object.__setattr__(attempt.result, "status", status)
        object.__setattr__(attempt.result, "finished_at", shown_micros(self.app.client.clock.now()))

    def _failed(self, attempt: AttemptUnderWay, error: BaseException) -> bool:
        """Add the failure to the result and decide how the job continues; return whether it has ended."""
        attempt.result.errors.append(error_of_exception(error))
        self._finish(attempt, TaskResultStatus.FAILED)
        if attempt.error is not error or attempt.decision is None:
            attempt.error, attempt.decision = error, self._decided(attempt, error)
        if attempt.decision.kind in {DecisionKind.FAIL, DecisionKind.DELETE}:
            return True
        object.__setattr__(attempt.result, "status", TaskResultStatus.READY)
        object.__setattr__(attempt.result, "finished_at", None)
        return False

    def _decided(self, attempt: AttemptUnderWay, error: BaseException) -> RetryDecision:
        job, options = attempt.job, self.options_in(attempt.job.queue)
        retries = options.attempts - 1
        try:
            backoff = options.backoff_function()
            if backoff is None or job.retries >= retries:
                return options.retry.decide(job, error)
            wait = backoff(error, attempt.result)
            if wait is None:
                return RetryDecision.fail("its backoff returned None; not retried")
            return RetryDecision.retry(wait, reason=retry_reason(job.retries + 1, retries, error))
        except Exception as broken:
            log.exception("The backoff of task %r raised an error; the job fails.", self.task.module_path)
            return RetryDecision.fail(f"its backoff raised {type(broken).__name__}")

    # ---- retry policy ------------------------------------------------------------------------------------

    @property
    def attempts(self) -> int:
        """The maximum number of retries after the first attempt."""
        return self.options_in(self.task.queue_name).attempts - 1

    def decide(self, job: ClaimedJob, error: BaseException, /) -> RetryDecision:
        """Return the decision about the failed attempt.

        If the attempt ended outside of the function, for example by its timeout, its signal is sent here.
        """
        attempt = _under_way.get(None)
        if attempt is None or (attempt.job.id, attempt.job.attempt) != (job.id, job.attempt):
            attempt = self._begin(current_job())
        is_new = attempt.error is not error or attempt.decision is None
        if is_new and self._failed(attempt, error):
            self._send_from_here(task_finished, attempt.result)
        assert attempt.decision is not None  # noqa: S101 - _failed has decided
        return attempt.decision

    def _send_from_here(self, signal: Signal, result: FirelockTaskResult) -> None:
        """Send the signal.

        If an event loop is running in this thread, another thread sends the signal, because receivers cannot
        use the database on the loop.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            signal.send_robust(self.sender, task_result=result)
            return
        send = threading.Thread(
            target=signal.send_robust, args=(self.sender,), kwargs={"task_result": result}
        )
        send.start()
        send.join()


def _is_over(job: JobContext, returned: object) -> bool:
    """Return whether a job whose function returned has ended, and will not run again."""
    return type(returned) is not Snooze and not job.suspended


def _is_failure(job: JobContext, error: BaseException) -> bool:
    """Return whether an error is the task's own failure.

    Waits and requests to stop are not failures, because the server handles them. In a suspended run, no
    exception is a failure, because the task might have wrapped the exception that suspended it.
    """
    not_failures = (JobCancelled, JobSuspended, asyncio.CancelledError, GeneratorExit)
    return not isinstance(error, not_failures) and not job.suspended
