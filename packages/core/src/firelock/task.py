"""Tasks: registered functions with their options and with typed methods that create jobs."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

import attrs

from firelock.arguments.forms import ValueForm, form_of_value
from firelock.arguments.signature import (
    Binder,
    ValueCodec,
    check_callable,
    codec_of,
    compile_binder,
    make_converter,
    returned_codec,
    takes_context,
)
from firelock.arguments.tags import check_tag_templates
from firelock.context import JobContext, Snooze, running_job
from firelock.errors import DuplicateTask, TaskError
from firelock.limits.keys import check_declared
from firelock.model.aio import twin
from firelock.options import (
    NO_OPTIONS,
    Call,
    CallOptions,
    TaskInfo,
    to_aliases,
)
from firelock.resource import left_out, resources_in
from firelock.retry import Retry

if TYPE_CHECKING:
    from cattrs import Converter

    from firelock.arguments.codec import Codec
    from firelock.arguments.serializer import Serializer
    from firelock.control.recurring import Recurring
    from firelock.jobs.client import Client
    from firelock.jobs.job import Job
    from firelock.limits.limit import Limit, Turns
    from firelock.limits.unique import Debounce, Unique
    from firelock.schedules.cron import Cron, Every
    from firelock.schedules.recurring_job import RecurringJob
    from firelock.settings import Settings

P = ParamSpec("P")
R = TypeVar("R", covariant=True)

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,200}\Z")


def task_info(function: Callable[..., Any], *, name: str | None, options: Mapping[str, Any]) -> TaskInfo:
    """Return the registration of a function.

    Raises:
        TaskError: The target is not a plain function, or has no name by which another process could find it.
        ConfigurationError: An option is invalid.
    """
    check_callable(function)
    is_async = inspect.iscoroutinefunction(function)
    for each in (name, *to_aliases(options.get("aliases", ()))):
        if each is not None and not (isinstance(each, str) and _NAME.match(each)):
            raise TaskError(
                f"Task name must be 1 to 200 letters, digits, '_', '.', ':' or '-', got {each!r}."
            )
    shown = name or function.__qualname__
    info = TaskInfo(
        name or _default_name(function), function, is_async=is_async,
        takes_context=takes_context(function, JobContext, task=shown),
        resources=resources_in(function, owner=f"Task {shown!r}", is_async=is_async), **options,
    )  # fmt: skip
    if info.limits or info.unique is not None:
        info.keys()
    return info


def _default_name(function: Callable[..., Any]) -> str:
    qualname = function.__qualname__
    if "<" in qualname:
        raise TaskError(
            f"Another process cannot find {qualname} because it is a lambda or is defined inside a function. "
            'Move it to a module, or set a name that a server also registers: @fire.task(name="…").'
        )
    module = function.__module__
    module = main_module_name() if module in MAIN_MODULES else module.removesuffix(".__main__")
    return f"{module}.{qualname}"


# The names of the running program's module; multiprocessing uses the second name.
MAIN_MODULES = ("__main__", "__mp_main__")


def main_module_name() -> str:
    """Return the name under which other code imports the program that runs as `__main__`."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else "__main__"


# ---- calls -----------------------------------------------------------------------------------------------

# Methods of other job libraries, and their replacements.
_FOREIGN_VERBS = {
    "apply_async": "enqueue(…), or schedule(when, …) for a later time; using(queue=…) sets options",
    "apply": "task(…), which runs the function immediately in this process",
    "chunks": "enqueue_many([(part,), …])",
    "delay": "enqueue(…)",
    "delay_on_commit": "enqueue(…), which joins the transaction if the jobs are in its database, or "
    "enqueue_on_commit(task, …)",
    "retry": "retry=Retry(…) on the task and raise the error, or return Snooze(seconds)",
    "s": "call(…), or job.then(task, …) to run it after another job",
    "send": "enqueue(…)",
    "send_with_options": "using(queue=…, delay=…).enqueue(…)",
    "si": "call(…), or job.then(task, …) to run it after another job",
    "signature": "call(…), or job.then(task, …) to run it after another job",
}


class TaskVerbs(Generic[P, R]):
    """The methods of a task that create jobs. Their `*args` and `**kwargs` are passed to the function."""

    def __init__(
        self, client: Client, recurring: Recurring, info: TaskInfo, options: CallOptions = NO_OPTIONS
    ) -> None:
        self._client = client
        self._recurring = recurring
        self.info = info
        self.options = options

    @property
    def name(self) -> str:
        """The name under which jobs of this task are stored."""
        return self.info.name

    def __repr__(self) -> str:
        """Return a representation with the name of the task and the options that were set."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.given().items())
        return f"<{type(self).__name__} {self.info.name}{options}>"

    if not TYPE_CHECKING:  # hidden from type checkers, so that they report unknown methods

        def __getattr__(self, name: str) -> NoReturn:
            """Raise an AttributeError that, for a method of another library, names the replacement.

            Raises:
                AttributeError: The task has no such attribute.
            """
            if (instead := _FOREIGN_VERBS.get(name)) is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            raise AttributeError(f"A Firelock task has no method {name!r}; use {instead}.")

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
        meta: Mapping[str, str] | None = None,
        limits: Sequence[Limit | Turns] | None = None,
        unique: Unique | Debounce | Literal[False] | None = None,
        start_before: timedelta | datetime | None = None,
        after: Job[Any] | Sequence[Job[Any]] | None = None,
    ) -> TaskVerbs[P, R]:
        """Return an object of the same type whose calls use these options instead of the task's own.

        Args:
            queue: the queue, instead of the task's queue.
            priority: −100…100; within the queue, jobs with a higher priority run first.
            delay: the delay before the job runs; a timedelta or seconds.
            at: the time at which the job runs; an aware datetime.
            tags: plain strings that are added to the task's own tags.
            on: for continuations and with `after`, how the other job must end: succeeded, failed, deleted or
                finished.
            within: your own transaction in the storage's database; the job is committed or rolled back with
                it.
            timeout: the longest time that a run may take.
            retry: the retry policy, stored with the job.
            meta: short named strings that are stored with the job, at most 2 KiB in total, and available as
                `JobContext.meta`. They override values with the same names from a plugin, or from the parent
                of a continuation.
            limits: the limits, instead of the task's; [] for none. Their settings must match those that a
                task declares.
            unique: the unique key, instead of the task's; False for none.
            start_before: a deadline for the start: a timedelta after the job becomes enqueued, or an aware
                datetime. A job that no server has claimed by then is deleted and does not run.
            after: one or more jobs. The job runs when all of them have succeeded, or ended as `on` specifies.
                If one of them is a member of a batch, the job becomes a member of the same batch.

        Raises:
            ConfigurationError: A value is out of range.
            TaskError: A key contains a name that is not a parameter of the task.
        """
        given = CallOptions(
            queue=queue,
            priority=priority,
            delay=delay,
            at=at,
            tags=tags,
            on=on,
            within=within,
            timeout=timeout,
            retry=retry,
            meta=meta,
            limits=limits,
            unique=unique,
            start_before=start_before,
            after=after,
        )
        options = attrs.evolve(self.options, **given.given())
        if given.has_admission:
            self.info.keys(options)
        return TaskVerbs(self._client, self._recurring, self.info, options)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Return the call without storing it; pass it to `fire.enqueue_many` or `batch.add_many`."""
        return Call(self.info, self.options, args, kwargs)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Store a job, which runs as soon as a worker is free.

        Raises:
            SignatureMismatch: The arguments do not match the function's signature.
            ArgumentError: An argument cannot be stored.
            StorageError: The storage rejected the job or is unavailable, so nothing was stored.
        """
        return self._client.create(Call(self.info, self.options, args, kwargs))

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Call `enqueue` without blocking the event loop; concurrent awaits share one round trip."""
        return await self._client.acreate(Call(self.info, self.options, args, kwargs))

    def schedule(self, when: timedelta | datetime | float, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Store a job that becomes due at an aware datetime, or after a timedelta or seconds.

        If the time is in the past, the job is due immediately.

        Raises:
            ScheduleError: The datetime is naive, or the delay is negative or beyond the year 9999.
        """
        return self._client.create(Call(self.info, self._at(when), args, kwargs))

    async def aschedule(
        self, when: timedelta | datetime | float, /, *args: P.args, **kwargs: P.kwargs
    ) -> Job[R]:
        """Call `schedule` without blocking the event loop."""
        return await self._client.acreate(Call(self.info, self._at(when), args, kwargs))

    def _at(self, when: timedelta | datetime | float) -> CallOptions:
        if isinstance(when, datetime):
            return attrs.evolve(self.options, at=when, delay=None)
        return attrs.evolve(self.options, delay=when, at=None)

    def enqueue_many(self, calls: Iterable[Sequence[object]]) -> list[Job[R]]:
        """Store a job for each tuple of arguments: check all tuples first, then store 500 jobs at a time.

        Each group of 500 is stored atomically.
        """
        return self._client.create_alike(self.info, self.options, calls)

    async def aenqueue_many(self, calls: Iterable[Sequence[object]]) -> list[Job[R]]:
        """Call `enqueue_many` without blocking the event loop."""
        return await self._client.acreate_alike(self.info, self.options, calls)

    def recur(
        self, recurring_id: str, schedule: str | Cron | Every, /, *args: P.args, **kwargs: P.kwargs
    ) -> RecurringJob:
        """Add or update the recurring job with this id, schedule and arguments.

        Only changed fields are written, and a due run is never lost. The definition is stored immediately,
        even if the call is made within a transaction.

        Raises:
            ScheduleError: The cron expression or the time zone is invalid.
        """
        return self._recurring.add_or_update(self.call(*args, **kwargs), recurring_id, schedule)

    arecur = twin(recur)


class Task(TaskVerbs[P, R]):
    """A registered `def`; calling it calls the function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here, without creating a job."""
        result: R = _run_here(self.info, args, kwargs)
        return result


class AsyncTask(TaskVerbs[P, R]):
    """A registered `async def`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Return the function's coroutine."""
        coroutine: Coroutine[Any, Any, R] = _run_here(self.info, args, kwargs)
        return coroutine


class ContextTask(TaskVerbs[P, R]):
    """A registered `def` whose first parameter is a JobContext; calls that create jobs do not pass it."""

    def __call__(self, context: JobContext, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here, without creating a job; `JobContext.fake()` creates a context."""
        result: R = _run_here(self.info, (context, *args), kwargs)
        return result


class AsyncContextTask(TaskVerbs[P, R]):
    """A registered `async def` whose first parameter is a JobContext."""

    def __call__(self, context: JobContext, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Return the function's coroutine."""
        coroutine: Coroutine[Any, Any, R] = _run_here(self.info, (context, *args), kwargs)
        return coroutine


def _run_here(info: TaskInfo, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any
    """Call the function and return its result; omitted resources are taken from the running job.

    Raises:
        LookupError: No job with these resources runs in this context.
    """
    if not info.resources:
        return info.function(*args, **kwargs)
    missing = left_out(info.resources, info.function, args, kwargs)
    job = running_job.get(None) or JobContext.fake()
    if not info.is_async:
        return info.function(*args, **kwargs, **{name: job.resource(each) for name, each in missing.items()})

    async def awaited() -> Any:  # noqa: ANN401 - the function's
        resources = {name: await job.aresource(each) for name, each in missing.items()}
        return await info.function(*args, **kwargs, **resources)

    return awaited()


_KINDS: dict[tuple[bool, bool], type[TaskVerbs[Any, Any]]] = {
    (False, False): Task,
    (False, True): AsyncTask,
    (True, False): ContextTask,
    (True, True): AsyncContextTask,
}


def task_of(client: Client, recurring: Recurring, info: TaskInfo) -> TaskVerbs[Any, Any]:
    """Return the task object for a registration; its class depends on the kind of function."""
    task = _KINDS[info.takes_context, info.is_async](client, recurring, info)
    functools.update_wrapper(cast("Callable[..., object]", task), info.function, updated=())
    return task


class Registry:
    """The tasks that an app can enqueue and that its servers can run."""

    def __init__(self, settings: Settings, configure_converter: Callable[[Converter], None]) -> None:
        self._settings = settings
        self._configure_converter = configure_converter
        self._by_name: dict[str, TaskInfo] = {}
        self._aliases: dict[str, TaskInfo] = {}
        self._binders: dict[str, Binder] = {}
        self._limits: Mapping[str, Limit] = {}
        self._converter: Converter | None = None
        self._returned: WeakKeyDictionary[Callable[..., object], Codec] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def register(self, info: TaskInfo) -> None:
        """Register the task under its name and aliases.

        If the same function is registered again, for example after a reload, the new registration replaces
        the earlier one.

        Raises:
            DuplicateTask: Another function has one of the names.
            ConfigurationError: The task and another task declare the same limit with different values.
        """
        with self._lock:
            for name in (info.name, *info.aliases):
                other = self._by_name.get(name) or self._aliases.get(name)
                if other is not None and other.place != info.place:
                    raise DuplicateTask(
                        f"Task name {name!r} of {info.place} is already used by {other.place}. Rename one "
                        'of the functions, or set another name: @fire.task(name="…").'
                    )
            if info.limits or info.name in self._by_name:
                limits: dict[str, Limit] = {}
                for each in (*(other for other in self._by_name.values() if other.name != info.name), info):
                    if not each.is_published:
                        limits = check_declared(each.limits, limits)
                self._limits = limits
            self._by_name[info.name] = info
            self._aliases.update(dict.fromkeys(info.aliases, info))
            self._binders.pop(info.name, None)

    def declared_limits(self) -> Mapping[str, Limit]:
        """Return the limits that the registered tasks declare, keyed by limit name."""
        return self._limits

    def get(self, name: str) -> TaskInfo | None:
        """Return the task with this stored name or alias; None if no such task is registered."""
        return self._by_name.get(name) or self._aliases.get(name)

    def __iter__(self) -> Iterator[TaskInfo]:
        """Iterate over the tasks in the order in which they were registered."""
        return iter(list(self._by_name.values()))

    def runnable(self) -> list[TaskInfo]:
        """Return the tasks that a server can run: all but remote stubs."""
        return [info for info in self if not info.is_remote]

    def binder(self, info: TaskInfo) -> Binder:
        """Return the task's binder, which is compiled when it is first used.

        Raises:
            TaskError: An annotation cannot be resolved or is not supported.
        """
        binder = self._binders.get(info.name)
        if binder is None:
            settings = self._settings
            binder = compile_binder(
                info.function,
                task=info.name,
                converter=self._converter_once,
                limit=settings.argument_limit,
                warn_at=settings.argument_warning,
                result_limit=settings.result_limit,
                flow_types=(Snooze,),
                context_type=JobContext,
                was_given_context=info.takes_context,
                resources=info.resources,
            )
            if info.tags:
                check_tag_templates(info.tags, binder.parameters)
            self._binders[info.name] = binder
        return binder

    def returned_codec(self, function: Callable[..., object]) -> Codec:
        """Return the codec that stores the return value of a function, which does not need to be a task.

        Raises:
            TaskError: The function's return annotation has no JSON form.
        """
        try:
            codec = self._returned.get(function)
        except TypeError:  # the function is not hashable, or does not support weak references
            return returned_codec(function, self._converter_once)
        if codec is None:
            codec = self._returned[function] = returned_codec(function, self._converter_once)
        return codec

    def value_codec(self, annotation: object, owner: str, serializer: Serializer) -> ValueCodec:
        """Return a codec that stores values of this type like arguments; error messages call them `owner`.

        Raises:
            TaskError: The annotation is not supported.
        """
        return ValueCodec(owner, codec_of(annotation, self._converter_once, owner), serializer)

    def value_form(self, annotation: object, owner: str) -> ValueForm:
        """Return the input form for a value of this type, for example the payload of a signal."""
        return form_of_value(annotation, owner, self._converter_once)

    def _converter_once(self) -> Converter:
        with self._lock:
            if self._converter is None:
                converter = make_converter()
                self._configure_converter(converter)
                self._converter = (
                    converter  # set last, so that a converter that a plugin failed to configure is never used
                )
            return self._converter
