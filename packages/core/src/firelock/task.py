"""Tasks: registered functions with their options, and the typed verbs that make jobs of them."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, cast

import attrs

from firelock.arguments.signature import check_callable, takes_context
from firelock.context import JobContext
from firelock.errors import TaskError
from firelock.options import (
    NO_OPTIONS,
    CallOptions,
    check_priority,
    check_queue,
    check_retry,
    to_aliases,
    to_choice,
    to_tags,
    to_timeout_seconds,
)
from firelock.retry import Retry, RetryPolicy
from firelock.threads import in_thread

if TYPE_CHECKING:
    from firelock.client import Client
    from firelock.cron import Cron, Every
    from firelock.definitions import RecurringJob
    from firelock.handle import Job

__all__ = [
    "AsyncContextTask",
    "AsyncTask",
    "Call",
    "ContextTask",
    "Executor",
    "Task",
    "TaskInfo",
    "TaskVerbs",
]

P = ParamSpec("P")
R = TypeVar("R", covariant=True)

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,200}\Z")


class Executor(StrEnum):
    """Where a task's jobs run."""

    AUTO = "auto"  # `def` in a thread, `async def` on the child's event loop
    PROCESS = "process"  # in a process of its own: for CPU-bound work and work that must be killable


class OnRisk(StrEnum):
    """What a running job does when its server can no longer be sure that the job is its own."""

    CONTINUE = "continue"
    CANCEL = "cancel"


def _to_executor(value: Executor | str) -> Executor:
    return to_choice(Executor, "executor", value)


def _to_on_risk(value: OnRisk | str) -> OnRisk:
    return to_choice(OnRisk, "on_risk", value)


@attrs.frozen
class TaskInfo:
    """A task as it was registered."""

    name: str
    function: Callable[..., Any]
    queue: str = attrs.field(default="default", converter=check_queue)
    priority: int = attrs.field(default=0, converter=check_priority)
    retry: RetryPolicy = attrs.field(factory=Retry, converter=check_retry)
    timeout_seconds: float | None = attrs.field(default=None, converter=to_timeout_seconds)
    tags: tuple[str, ...] = attrs.field(default=(), converter=to_tags)  # may hold {parameter}
    aliases: tuple[str, ...] = attrs.field(default=(), converter=to_aliases)
    executor: Executor = attrs.field(default=Executor.AUTO, converter=_to_executor)
    on_risk: OnRisk = attrs.field(default=OnRisk.CONTINUE, converter=_to_on_risk)
    is_remote: bool = False  # a stub: it enqueues, it is never run here
    is_async: bool = False
    takes_context: bool = False

    @property
    def place(self) -> str:
        """Return file and line of the function, for messages."""
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(self.function)


def task_info(function: Callable[..., Any], *, name: str | None, options: Mapping[str, Any]) -> TaskInfo:
    """Return a function's registration.

    Raises:
        TaskError: it is no plain function, or has no name that another process could know it by.
        ConfigurationError: an option is wrong.
    """
    check_callable(function)
    is_async = inspect.iscoroutinefunction(function)
    for each in (name, *to_aliases(options.get("aliases", ()))):
        if each is not None and not (isinstance(each, str) and _NAME.match(each)):
            message = f"Task name {each!r} is refused; use 1 to 200 of letters, digits, '_', '.', ':', '-'."
            raise TaskError(message)
    return TaskInfo(
        name or _default_name(function), function, is_async=is_async,
        takes_context=takes_context(function, JobContext, task=name or function.__qualname__), **options,
    )  # fmt: skip


def _default_name(function: Callable[..., Any]) -> str:
    qualname = function.__qualname__
    if "<" in qualname:
        message = (
            f"{qualname} is defined inside a function, or is a lambda: another process cannot find it. Move "
            'it to a module, or give it a name that a server registers as well: @fire.task(name="…").'
        )
        raise TaskError(message)
    module = function.__module__
    module = main_module_name() if module in MAIN_MODULES else module.removesuffix(".__main__")
    return f"{module}.{qualname}"


# The module of the program that runs; the second is the word of multiprocessing for it.
MAIN_MODULES = ("__main__", "__mp_main__")


def main_module_name() -> str:
    """Return the name under which others import the program that runs as `__main__`."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else "__main__"


# ---- calls -----------------------------------------------------------------------------------------------


@attrs.frozen
class Call:
    """A task with its arguments and options, for `fire.enqueue_many`."""

    info: TaskInfo
    options: CallOptions
    args: tuple[object, ...]
    kwargs: Mapping[str, object]


class TaskVerbs(Generic[P, R]):
    """Everything that makes jobs of a task. The arguments behind a verb are always the function's own."""

    def __init__(self, client: Client, info: TaskInfo, options: CallOptions = NO_OPTIONS) -> None:
        self._client = client
        self.info = info
        self.options = options

    @property
    def name(self) -> str:
        """The name under which jobs of this task are stored."""
        return self.info.name

    def __repr__(self) -> str:
        """Return the task's name and, where given, its options."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.given().items())
        return f"<{type(self).__name__} {self.info.name}{options}>"

    def using(
        self,
        *,
        queue: str | None = None,
        priority: int | None = None,
        delay: timedelta | float | None = None,
        at: datetime | None = None,
        tags: Sequence[str] | None = None,
        on: Literal["succeeded", "failed", "deleted", "finished"] | None = None,
        within: object | None = None,
        timeout: timedelta | float | None = None,
        retry: Retry | None = None,
    ) -> TaskVerbs[P, R]:
        """Return the task with other options for the calls made through it; the same typed arguments.

        Args:
            queue: instead of the task's.
            priority: −100…100, higher first within the queue.
            delay: run this much later; a timedelta or seconds.
            at: run at this aware datetime.
            tags: added to the task's own; plain texts.
            on: for continuations: succeeded, failed, deleted or finished.
            within: a transaction of yours in the storage's own database; the job comes and goes with it.
            timeout: the longest an attempt may run.
            retry: stored with the job.

        Raises:
            ConfigurationError: a value is out of its bounds.
        """
        given = CallOptions(queue, priority, delay, at, tags, on, within, timeout, retry)
        return TaskVerbs(self._client, self.info, attrs.evolve(self.options, **given.given()))

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call:
        """Return the call, to be stored with others by `fire.enqueue_many`."""
        return Call(self.info, self.options, args, kwargs)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """A job is stored, to be run as soon as a worker is free.

        Raises:
            SignatureMismatch: the arguments do not fit the function.
            ArgumentError: an argument cannot be stored.
            StorageError: nothing was stored.
        """
        return self._client.create(self.info, self.options, args, kwargs)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Enqueue without blocking the event loop; concurrent awaits share one round trip."""
        return await self._client.acreate(self.info, self.options, args, kwargs)

    def schedule(self, when: timedelta | datetime | float, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """A job is stored that becomes due at an aware datetime, or after a timedelta or seconds.

        An instant in the past is due at once.

        Raises:
            ScheduleError: the datetime is naive, the delay negative or beyond the year 9999.
        """
        return self._client.create(self.info, self._at(when), args, kwargs)

    async def aschedule(
        self, when: timedelta | datetime | float, /, *args: P.args, **kwargs: P.kwargs
    ) -> Job[R]:
        """Schedule without blocking the event loop."""
        return await self._client.acreate(self.info, self._at(when), args, kwargs)

    def _at(self, when: timedelta | datetime | float) -> CallOptions:
        if isinstance(when, datetime):
            return attrs.evolve(self.options, at=when, delay=None)
        return attrs.evolve(self.options, delay=when, at=None)

    def enqueue_many(self, calls: Iterable[Sequence[object]]) -> list[Job[R]]:
        """A job is stored for each tuple of arguments: all checked first, then 500 at a time, each atomic."""
        return self._client.create_alike(self.info, self.options, calls)

    async def aenqueue_many(self, calls: Iterable[Sequence[object]]) -> list[Job[R]]:
        """Enqueue many without blocking the event loop."""
        return await in_thread(self.enqueue_many, calls)

    def recur(
        self, recurring_id: str, schedule: str | Cron | Every, /, *args: P.args, **kwargs: P.kwargs
    ) -> RecurringJob:
        """A recurring job of this id exists with this schedule and these arguments: added or updated.

        Only what changed is written, and a run that is due is never lost.

        Raises:
            ScheduleError: the cron text or zone is wrong.
        """
        return self._client.recur(self.call(*args, **kwargs), recurring_id, schedule)

    async def arecur(
        self, recurring_id: str, schedule: str | Cron | Every, /, *args: P.args, **kwargs: P.kwargs
    ) -> RecurringJob:
        """Add or update without blocking the event loop."""
        return await in_thread(self.recur, recurring_id, schedule, *args, **kwargs)


class Task(TaskVerbs[P, R]):
    """A registered `def`; calling it is calling the function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now."""
        result: R = self.info.function(*args, **kwargs)
        return result


class AsyncTask(TaskVerbs[P, R]):
    """A registered `async def`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Return the function's coroutine."""
        coroutine: Coroutine[Any, Any, R] = self.info.function(*args, **kwargs)
        return coroutine


class ContextTask(TaskVerbs[P, R]):
    """A registered `def` whose first parameter is a JobContext; the verbs leave it out."""

    def __call__(self, context: JobContext, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now; `JobContext.fake()` makes a context."""
        result: R = self.info.function(context, *args, **kwargs)
        return result


class AsyncContextTask(TaskVerbs[P, R]):
    """A registered `async def` whose first parameter is a JobContext."""

    def __call__(self, context: JobContext, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Return the function's coroutine."""
        coroutine: Coroutine[Any, Any, R] = self.info.function(context, *args, **kwargs)
        return coroutine


_KINDS: dict[tuple[bool, bool], type[TaskVerbs[Any, Any]]] = {
    (False, False): Task,
    (False, True): AsyncTask,
    (True, False): ContextTask,
    (True, True): AsyncContextTask,
}


def task_of(client: Client, info: TaskInfo) -> TaskVerbs[Any, Any]:
    """Return the task object of a registration, of the class that fits how it is called."""
    task = _KINDS[info.takes_context, info.is_async](client, info)
    functools.update_wrapper(cast("Callable[..., object]", task), info.function, updated=())
    return task
