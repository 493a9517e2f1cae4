"""Tasks: registered functions with their options, and the typed methods that create jobs of them."""

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
        TaskError: it is not a plain function, or has no name by which another process could find it.
        ConfigurationError: an option is wrong.
    """
    check_callable(function)
    is_async = inspect.iscoroutinefunction(function)
    for each in (name, *to_aliases(options.get("aliases", ()))):
        if each is not None and not (isinstance(each, str) and _NAME.match(each)):
            raise TaskError(
                f"Task name {each!r} is refused; use 1 to 200 of letters, digits, '_', '.', ':', '-'."
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
            f"{qualname} is defined inside a function, or is a lambda: another process cannot find it. Move "
            'it to a module, or give it a name that a server registers as well: @fire.task(name="…").'
        )
    module = function.__module__
    module = main_module_name() if module in MAIN_MODULES else module.removesuffix(".__main__")
    return f"{module}.{qualname}"


# The module of the running program; multiprocessing uses the second name for it.
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

# Methods of other job libraries, and what to write instead.
_FOREIGN_VERBS = {
    "apply_async": "enqueue(…), or schedule(when, …) for a later time; using(queue=…) sets options",
    "apply": "task(…), which runs the function here and now",
    "chunks": "enqueue_many([(part,), …])",
    "delay": "enqueue(…)",
    "delay_on_commit": "enqueue(…), which joins the transaction if the jobs are in its database, or "
    "enqueue_on_commit(task, …)",
    "retry": "retry=Retry(…) at the task and raise the error, or return Snooze(seconds)",
    "s": "call(…), or job.then(task, …) to run it after another job",
    "send": "enqueue(…)",
    "send_with_options": "using(queue=…, delay=…).enqueue(…)",
    "si": "call(…), or job.then(task, …) to run it after another job",
    "signature": "call(…), or job.then(task, …) to run it after another job",
}


class TaskVerbs(Generic[P, R]):
    """The methods of a task that create jobs. Their variable arguments are always those of the function."""

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
        """Return the name of the task and the options that were given."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.given().items())
        return f"<{type(self).__name__} {self.info.name}{options}>"

    if not TYPE_CHECKING:  # type checkers know which methods exist

        def __getattr__(self, name: str) -> NoReturn:
            """Raise an AttributeError that names the method to use instead of one from another library.

            Raises:
                AttributeError: a task has no such attribute.
            """
            if (instead := _FOREIGN_VERBS.get(name)) is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            raise AttributeError(f"A task of Firelock has no {name!r}; use {instead}.")

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
        """Return the task with other options for the calls made through it; the typed arguments stay.

        Args:
            queue: the queue, instead of the task's queue.
            priority: −100…100; within the queue, jobs with a higher priority run first.
            delay: the delay before the job runs; a timedelta or seconds.
            at: the time at which the job runs; an aware datetime.
            tags: plain strings that are added to the task's own tags.
            on: for continuations and with `after`: succeeded, failed, deleted or finished.
            within: your own transaction in the storage's database; the job is committed or rolled back with
                it.
            timeout: the longest time that an attempt may run.
            retry: the retry policy, stored with the job.
            meta: short strings by name that are stored with the job, 2 KiB in all: `JobContext.meta`. Each
                overrides the value of the same name from a plugin, or from the parent of a continuation.
            limits: the limits, instead of the task's; [] for none. Their values are those that a task
                declares.
            unique: the unique key, instead of the task's; False for none.
            start_before: a deadline for the start: a timedelta after the job becomes enqueued, or an aware
                datetime. A job that no server has claimed by then is deleted and does not run.
            after: the job runs when this job, or all of these jobs, have succeeded, or as `on` specifies. If
                `after` is a member of a batch, the job becomes a member of the same batch.

        Raises:
            ConfigurationError: a value is out of range.
            TaskError: a key contains a name that is not a parameter of the task.
        """
        given = CallOptions(
            queue, priority, delay, at, tags, on, within, timeout, retry, meta, limits, unique, start_before,
            after,
        )  # fmt: skip
        options = attrs.evolve(self.options, **given.given())
        if given.has_admission:
            self.info.keys(options)
        return TaskVerbs(self._client, self._recurring, self.info, options)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Return the call, to be stored with others by `fire.enqueue_many` or `batch.add_many`."""
        return Call(self.info, self.options, args, kwargs)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Store a job, which runs as soon as a worker is free.

        Raises:
            SignatureMismatch: the arguments do not fit the function.
            ArgumentError: an argument cannot be stored.
            StorageError: nothing was stored.
        """
        return self._client.create(Call(self.info, self.options, args, kwargs))

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Call `enqueue` without blocking the event loop; concurrent awaits share one round trip."""
        return await self._client.acreate(Call(self.info, self.options, args, kwargs))

    def schedule(self, when: timedelta | datetime | float, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Store a job that becomes due at an aware datetime, or after a timedelta or seconds.

        A time in the past is due immediately.

        Raises:
            ScheduleError: the datetime is naive, or the delay is negative or beyond the year 9999.
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
        """Store a job for each tuple of arguments: all are checked first, then stored 500 at a time.

        Each group of 500 is atomic.
        """
        return self._client.create_alike(self.info, self.options, calls)

    async def aenqueue_many(self, calls: Iterable[Sequence[object]]) -> list[Job[R]]:
        """Call `enqueue_many` without blocking the event loop."""
        return await self._client.acreate_alike(self.info, self.options, calls)

    def recur(
        self, recurring_id: str, schedule: str | Cron | Every, /, *args: P.args, **kwargs: P.kwargs
    ) -> RecurringJob:
        """Add or update the recurring job of this id, with this schedule and these arguments.

        Only changed fields are written, and a due run is never lost. The definition is stored immediately,
        regardless of a transaction around the call.

        Raises:
            ScheduleError: the cron expression or the time zone is wrong.
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
    """A registered `def` whose first parameter is a JobContext, which calls that create jobs do not pass."""

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
    """Return what the function returns; omitted resources are those of the job that makes the call.

    Raises:
        LookupError: no job with these resources runs here.
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
    """Return the task object of a registration; its class depends on how the function is called."""
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
        """Register the task by its name and aliases.

        If the same function is registered again, for example after a reload, it replaces the earlier
        registration.

        Raises:
            DuplicateTask: another function has one of the names.
            ConfigurationError: it declares a limit with other values than another task does.
        """
        with self._lock:
            for name in (info.name, *info.aliases):
                other = self._by_name.get(name) or self._aliases.get(name)
                if other is not None and other.place != info.place:
                    raise DuplicateTask(
                        f"Task name {name!r} is taken: by {other.place} and now by {info.place}. Rename one, "
                        'or pin a name: @fire.task(name="…").'
                    )
            if info.limits or info.name in self._by_name:
                limits: dict[str, Limit] = {}
                for each in (*(other for other in self._by_name.values() if other.name != info.name), info):
                    if not each.is_told:
                        limits = check_declared(each.limits, limits)
                self._limits = limits
            self._by_name[info.name] = info
            self._aliases.update(dict.fromkeys(info.aliases, info))
            self._binders.pop(info.name, None)

    def declared_limits(self) -> Mapping[str, Limit]:
        """Return one limit for each limit name whose values the registered tasks declare."""
        return self._limits

    def get(self, name: str) -> TaskInfo | None:
        """Return the task of a stored name or alias; None if it is unknown."""
        return self._by_name.get(name) or self._aliases.get(name)

    def __iter__(self) -> Iterator[TaskInfo]:
        """Iterate over the tasks in the order in which they were registered."""
        return iter(list(self._by_name.values()))

    def runnable(self) -> list[TaskInfo]:
        """Return the tasks that a server can run: all but remote stubs."""
        return [info for info in self if not info.is_remote]

    def binder(self, info: TaskInfo) -> Binder:
        """Return the task's binder, which is compiled at its first use.

        Raises:
            TaskError: an annotation cannot be resolved or is not supported.
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
            TaskError: its return annotation has no JSON form.
        """
        try:
            codec = self._returned.get(function)
        except TypeError:  # no weak reference to it is possible, or it is not hashable
            return returned_codec(function, self._converter_once)
        if codec is None:
            codec = self._returned[function] = returned_codec(function, self._converter_once)
        return codec

    def value_codec(self, annotation: object, owner: str, serializer: Serializer) -> ValueCodec:
        """Return a codec that stores values of an annotation like arguments; `owner` is their name in errors.

        Raises:
            TaskError: the annotation is not supported.
        """
        return ValueCodec(owner, codec_of(annotation, self._converter_once, owner), serializer)

    def value_form(self, annotation: object, owner: str) -> ValueForm:
        """Return the form for a value of an annotation, for example the payload of a signal."""
        return form_of_value(annotation, owner, self._converter_once)

    def _converter_once(self) -> Converter:
        with self._lock:
            if self._converter is None:
                converter = make_converter()
                self._configure_converter(converter)
                self._converter = converter  # set last: never use one that a plugin failed to configure
            return self._converter
