"""`Firelock`: the app. It connects tasks, storage, plugins and settings."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, overload

import attrs

from firelock.arguments.forms import Parameter, parameters_of, texts_of, typed_arguments
from firelock.arguments.outline import stub_of
from firelock.context import running_job
from firelock.control.audit import Audit
from firelock.control.batches import Batches
from firelock.control.catalogue import Catalogue
from firelock.control.jobs import Jobs
from firelock.control.limits import Limits, declared_limits
from firelock.control.operations import Operations
from firelock.control.queues import Queues
from firelock.control.recurring import Recurring
from firelock.control.servers import Servers
from firelock.errors import ConfigurationError, TaskError, UnknownTask
from firelock.flows.batch import Batch, OnFailureText, OnText, new_batch
from firelock.flows.signals import Signal, check_name
from firelock.jobs.client import Client
from firelock.jobs.enqueue_context import WrappedClient
from firelock.jobs.job import Job
from firelock.jobs.storage_access import StorageAccess
from firelock.model.aio import twin
from firelock.model.report import Thresholds
from firelock.model.text import shown
from firelock.options import Call, CallOptions, TaskInfo, unknown_option
from firelock.plugins.loader import Plugins, check_contract, on_probe_port
from firelock.resource import declare_resource
from firelock.runtime import Runtime, ServedApp
from firelock.settings import Settings
from firelock.storage import Storage
from firelock.storage.locks import Lock, LockKeeper, LockProvider
from firelock.task import (
    AsyncContextTask,
    AsyncTask,
    ContextTask,
    Registry,
    Task,
    TaskVerbs,
    task_info,
    task_of,
)

if TYPE_CHECKING:
    import asyncio
    from typing import final

    from firelock.arguments.serializer import JsonValue
    from firelock.arguments.signature import Binder
    from firelock.context import JobContext, Snooze
    from firelock.control.doctor import Diagnosis
    from firelock.limits.limit import Limit, Turns
    from firelock.limits.unique import Debounce, Unique
    from firelock.retry import RetryPolicy
    from firelock.server.embedded import EmbeddedServer

    @final
    class _Anything:
        """A type that is compatible only with a parameter that accepts any value, such as `Any`.

        Without it, type checkers would treat such a first parameter as the context.
        """


P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


# The options of `@fire.task(…)` other than the name, and the field of a TaskInfo that stores each of them.
_TASK_OPTIONS = {
    **{
        name: name
        for name in (
            "queue",
            "priority",
            "retry",
            "tags",
            "aliases",
            "executor",
            "on_risk",
            "max_host_losses",
            "limits",
            "unique",
            "start_before",
        )
    },
    "timeout": "timeout_seconds",
    "keep": "keep_seconds",
    "remote": "is_remote",
}


class Firelock(ServedApp):
    """An app, with its tasks and the storage of its jobs.

    Args:
        storage: a URL, a `Storage`, or a SQLAlchemy Engine; by default the value of `FIRELOCK_STORAGE`.
        serializer: the name of the serializer for new jobs; the name is stored with each job.
        locks: the URL of a lock provider; by default the storage's own locks.
        plugins: modules, classes or instances with hooks, for this app only.
        imports: modules that register tasks; a server imports them, but a client does not need them.
        settings: the settings of the app; by default, they are read from the environment.

    The app connects to the storage when a call first needs a connection.

    Raises:
        ConfigurationError: No storage was specified, or an argument is invalid.
        UnknownScheme: No plugin provides the URL's scheme.
        PluginError: A plugin cannot be loaded.
    """

    def __init__(
        self,
        storage: str | Storage | object | None = None,
        *,
        serializer: str = "json",
        locks: str | None = None,
        plugins: Sequence[object] = (),
        imports: Sequence[str] = (),
        settings: Settings | None = None,
    ) -> None:
        self.module = sys._getframe(1).f_globals.get("__name__")  # noqa: SLF001 - as namedtuple does
        self.settings = settings or Settings.from_environment()
        self.thresholds = Thresholds()  # used by `firelock doctor`; a plugin may change them
        if self.settings.probe_port:
            for call in on_probe_port:
                call()
        self.plugins = Plugins(plugins)
        if not isinstance(imports, list | tuple) or not all(isinstance(name, str) for name in imports):
            raise ConfigurationError(
                f'imports must be a list of module names, such as ["app.tasks"], got {imports!r}.'
            )
        self.imports = (*imports,)
        self._signals: dict[str, Signal[Any]] = {}
        opened = self._open_storage(storage)
        self._given = storage
        self._closed: StorageAccess | None = None  # the access that `close` has closed; it can be reopened
        self.registry = Registry(self.settings, self.plugins.configure_converter)
        self._locks: LockProvider | None = self.plugins.open_locks(locks) if locks else None
        self._keeper = LockKeeper()
        kind = WrappedClient if self.plugins.has_enqueue_context else Client
        self._client = kind(opened, self.registry, self.plugins, serializer, self.settings.retention)
        self.jobs = Jobs(self._client)
        self.batches = Batches(self._client)
        self.queues = Queues(self._client)
        self.servers = Servers(self._client)
        self.audit = Audit(self._client)
        self.catalogue = Catalogue(self._client)
        self.operations = Operations(self._client, self.lock)
        self.limits: Limits = Limits(self._client, lambda: declared_limits(self.registry))
        self.recurring: Recurring = Recurring(self._client, self._register)
        self.plugins.configure_app(self)

    def _open_storage(self, storage: str | Storage | object | None) -> Storage:
        if storage is None:
            storage = os.environ.get("FIRELOCK_STORAGE")
        if storage is None or storage == "":
            raise ConfigurationError(
                'No storage is specified. Use Firelock("sqlite:///jobs.db"), or set FIRELOCK_STORAGE; '
                "memory:// keeps jobs in this process only."
            )
        if isinstance(storage, Storage):
            return check_contract(storage)
        if isinstance(storage, str):
            return self.plugins.open_storage(storage)
        return self.plugins.adopt_storage(storage)

    def use_storage(self, storage: str | Storage) -> None:
        """Store jobs in another storage from now on. Call this before any other call that uses the storage.

        The app closes the previous storage if it opened that storage itself. A `Storage` that was passed to
        the app must be closed by the code that created it.
        """
        opened = self._open_storage(storage)
        self._client.access.close()  # stores the jobs of pending async calls in the previous storage
        if not isinstance(self._given, Storage):
            self.storage.close()
        self._client.use(StorageAccess.of(opened))
        self._given = storage

    @property
    def storage(self) -> Storage:
        """The storage of the jobs."""
        return self._client.storage

    @property
    def client(self) -> Client:
        """The client that creates jobs, including those that servers create for recurring jobs."""
        return self._client

    @property
    def runtime(self) -> Runtime:
        """The parts that servers and the doctor use."""
        return Runtime(
            self.storage, self._client.clock, self.registry, self.plugins, self._client, self.settings,
            self.thresholds,
        )  # fmt: skip

    def __repr__(self) -> str:
        """Return a representation with the storage's URL, without a password."""
        return f"<Firelock {self.storage.url}>"

    # ---- tasks -------------------------------------------------------------------------------------------

    @overload
    def task(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[_Anything, P], Coroutine[Any, Any, R | Snooze]], /
    ) -> AsyncTask[..., R]: ...
    @overload
    def task(self, function: Callable[Concatenate[_Anything, P], R | Snooze], /) -> Task[..., R]: ...
    @overload
    def task(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[JobContext, P], Coroutine[Any, Any, R | Snooze]], /
    ) -> AsyncContextTask[P, R]: ...
    @overload
    def task(self, function: Callable[Concatenate[JobContext, P], R | Snooze], /) -> ContextTask[P, R]: ...
    @overload
    def task(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R | Snooze]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R | Snooze], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        *,
        name: str | None = None,
        queue: str = "default",
        priority: int = 0,
        retry: RetryPolicy | None = None,
        timeout: timedelta | float | None = None,
        keep: timedelta | float | None = None,
        tags: Sequence[str] = (),
        aliases: Sequence[str] = (),
        executor: str = "auto",
        on_risk: str = "continue",
        max_host_losses: int = 10,
        remote: bool = False,
        limits: Sequence[Limit | Turns] = (),
        unique: Unique | Debounce | None = None,
        start_before: timedelta | datetime | None = None,
    ) -> TaskDecorator: ...
    def task(  # type: ignore[misc]  # mypy does not match keyword-only parameters with these
        self,
        function: Callable[..., Any] | None = None,
        /,
        **options: Any,
    ) -> Any:
        """Register a function as a task: `@fire.task` or `@fire.task(queue="mail", retry=Retry(attempts=3))`.

        Args:
            function: a plain `def` or `async def`.
            options: `name` (as stored; `module.qualname` by default), `queue`, `priority` (-100 to 100),
                `retry` (a Retry or an object with `decide`), `timeout` (of a run), `keep` (how long a
                succeeded job is kept, with its result; by default as in the settings), `tags` (strings that
                may contain parameter names: "user:{user_id}"), `aliases` (old names that are still stored
                with jobs), `executor` ("auto" or "process"), `on_risk` ("continue" or "cancel"),
                `max_host_losses` (how often a job can lose its server or worker process while it runs; after
                the last loss, it fails), `remote` (a stub for code in another program), `limits` (Limit and
                Turns objects, at most 4), `unique` (a Unique or Debounce), `start_before` (a deadline for the
                start: a timedelta after the job becomes enqueued, or an aware datetime; a job that has not
                started by then is deleted).

        Raises:
            TaskError: The target is not a plain function, another process could not find it, or a limit or
                unique key contains a name that is not a parameter.
            DuplicateTask: Another function has the same name.
            ConfigurationError: An option is invalid, or a limit of the same name is declared with other
                values elsewhere in the app.
        """
        if function is not None:
            return self._register(function, **options)
        return lambda target: self._register(target, **options)

    def _register(
        self, function: Callable[..., Any], *, name: str | None = None, **options: object
    ) -> TaskVerbs[Any, Any]:
        for option in options:
            if option not in _TASK_OPTIONS:
                raise unknown_option(option, ("name", *_TASK_OPTIONS))
        if options.get("retry", ...) is None:
            del options["retry"]
        fields = {_TASK_OPTIONS[option]: value for option, value in options.items()}
        info = task_info(function, name=name, options=fields)
        self.registry.register(info)
        return task_of(self._client, self.recurring, info)

    @overload
    def resource(self, function: Callable[..., AsyncIterator[T]], /) -> T: ...
    @overload
    def resource(self, function: Callable[..., Iterator[T]], /) -> T: ...
    @overload
    def resource(self, function: Callable[..., AbstractAsyncContextManager[T, bool | None]], /) -> T: ...
    @overload
    def resource(self, function: Callable[..., AbstractContextManager[T, bool | None]], /) -> T: ...
    def resource(self, function: Callable[..., object], /) -> object:
        """Declare a resource that workers keep open for jobs: `@fire.resource` above a generator function.

        The generator must yield the resource once. Make the resource the default value of a task's parameter,
        last or after a `*`: `async def fetch(url: str, http: Client = http_client)`. Alternatively, get it
        inside a job: `current_job().resource(pool)`. Calls do not pass the resource, and it is never stored.

        Each worker process of a server, and each process of `executor="process"`, opens the resource when a
        job first needs it, and closes it when the process stops. An async generator runs on the event loop of
        the async jobs, any other generator in a thread. All jobs of the process share the resource. If it
        cannot be opened, the job fails with that error, and the next job tries again. The generator's own
        parameters can have other resources as defaults.

        Args:
            function: a generator function, sync or async, or a function decorated with
                `contextlib.contextmanager` or `asynccontextmanager`. Type checkers use the type of the
                yielded value.

        Raises:
            ConfigurationError: The function is of another kind.
            TaskError: A parameter of the function has no default, or a `def` uses an async resource.
        """
        return declare_resource(function)

    def enqueue_many(self, calls: Iterable[Call[R]]) -> list[Job[R]]:
        """Store the calls from `task.call(…)` in order: check all of them first, then store 500 at a time."""
        return self._client.create_many(_calls(calls))

    async def aenqueue_many(self, calls: Iterable[Call[R]]) -> list[Job[R]]:
        """Call `enqueue_many` without blocking the event loop."""
        return await self._client.acreate_many(_calls(calls))

    # ---- batches and signals -----------------------------------------------------------------------------

    def batch(
        self,
        name: str,
        *,
        after: Job[Any] | Sequence[Job[Any]] = (),
        on: OnText = "succeeded",
        on_failure: OnFailureText = "continue",
        tags: Sequence[str] = (),
        keep: timedelta | None = None,
        hold: timedelta = timedelta(hours=1),
        within: object | None = None,
        colocate_with: str | None = None,
    ) -> Batch:
        """Return a batch to fill in a block: `with fire.batch("import") as batch: batch.add(load, 1)`.

        A batch is a job without a task. It ends when none of its members can continue. Up to 500 members are
        stored together with the batch, atomically when the block ends; if it raises, nothing is stored.
        If there are more members, the first ones are stored, and run, before the block ends. If the block
        then raises, the batch is cancelled.

        Args:
            name: a display name, 1 to 200 printable characters.
            after: one or more jobs that the members wait for. The members start when all of these jobs have
                succeeded, or ended as `on` specifies. If that is no longer possible, the batch is deleted.
            on: how these jobs must end: succeeded, failed, deleted or finished.
            on_failure: "continue" or "cancel". With "cancel", the first failure of a member deletes the
                members that have not ended.
            tags: plain strings.
            keep: how long the batch is kept after it has succeeded, with its members and everything in inner
                batches; by default as in the settings.
            hold: a timeout for batches of more than 500 members. The batch is cancelled if the code that
                fills it is inactive for this long.
            within: your own transaction in the storage's database; the batch is committed or rolled back with
                it.
            colocate_with: a limit key or unique key of its members, such as "tenant:7". On a storage with
                partitions, the batch is stored in the partition of this key. Other storages do not need it.

        Raises:
            ConfigurationError: An option is invalid.
            JobNotCommitted: A job in `after` is not stored.
        """
        if colocate_with is None and not after and (job := running_job.get(None)) is not None:
            colocate_with = job.id  # the job can join the batch only if both are in the same partition
        return new_batch(
            self._client, name, after=after, on=on, on_failure=on_failure, tags=tags, keep=keep, hold=hold,
            within=within, colocate_with=colocate_with,
        )  # fmt: skip

    def signal(self, name: str, type: type[T]) -> Signal[T]:  # noqa: A002 - it is a type
        """Return a signal: `approval = fire.signal("approval", Approval)`.

        A job waits for the signal with `job.receive(approval, timeout=…)`; other code sends it with
        `approval.send(job, …)`.

        Args:
            name: 1 to 200 printable characters; each job stores one payload per name.
            type: the type of the payload, which is stored and checked like an argument.

        Raises:
            ConfigurationError: The name is invalid, or a signal of this name has another type.
            TaskError: The type is not supported.
        """
        owner = f"The payload of signal {check_name(name)!r}"
        former = self._signals.get(name)
        if former is not None and former.type != type:
            raise ConfigurationError(
                f"Signal {name!r} already has the type {shown(former.type)} in this app, got {shown(type)}. "
                "A job stores one payload per signal name: create the signal once and import it, or use "
                "another name."
            )
        codec = self.registry.value_codec(type, owner, self._client.serializer)
        form = partial(self.registry.value_form, type, owner)
        signal = self._signals[name] = Signal(name, type, self._client, codec, form)
        return signal

    def signal_named(self, name: str) -> Signal[Any] | None:
        """Return the signal with this stored name, which may contain a key; None if it was not created."""
        base = name
        while base and base not in self._signals:
            base = base.rpartition(":")[0]
        return attrs.evolve(self._signals[base], name=name) if base else None

    def load_imports(self) -> None:
        """Import the modules of `imports`, which registers their tasks.

        The module names come only from the program itself, never from the storage.
        """
        for name in self.imports:
            importlib.import_module(name)

    def declared_limits(self) -> Mapping[str, Limit]:
        """Return the limits that the registered tasks declare, keyed by limit name."""
        return self.registry.declared_limits()

    def tasks(self) -> list[TaskInfo]:
        """Return the registered tasks."""
        return list(self.registry)

    # ---- tasks by stored name, and arguments as strings: for forms, pages and commands ---------------------

    def task_named(self, name: str) -> TaskVerbs[Any, Any]:
        """Return the registered task with this stored name, which can be an alias.

        Raises:
            UnknownTask: No task with this name is registered in this app.
        """
        return task_of(self._client, self.recurring, self._info(name))

    def published_task(self, name: str) -> TaskVerbs[Any, Any]:
        """Return the task with this stored name, for enqueueing, even if its code is in another program.

        If the task is not registered in this app, this method builds a stub from the description that a
        server has published, and registers it as a remote task. The stub checks the type of an argument only
        if its JSON form shows this type.

        Raises:
            UnknownTask: The task is neither registered nor published, or it was published by a server of an
                older release.
        """
        if (known := self.registry.get(name)) is not None:
            return task_of(self._client, self.recurring, known)
        entry = next((one for one in self.catalogue.list() if name in (one.name, *one.aliases)), None)
        if entry is None:
            raise UnknownTask(
                f"Task {shown(name)} is not registered in this app, and no server has published it. Start a "
                "server that runs this task, or use the app that defines it."
            )
        if entry.parameters is None:
            raise UnknownTask(
                f"The parameters of task {entry.name!r} are unknown: it was published by a server of an "
                "older release. Start a server of this release, or use the app that defines the task."
            )
        stub = stub_of(entry.signature.partition("(")[0], entry.parameters, entry.defaults)
        aliases = [one for one in entry.aliases if self.registry.get(one) is None]
        info = task_info(
            stub, name=entry.name, options={
                "queue": entry.queue, "priority": entry.priority, "tags": entry.tags, "is_remote": True,
                "aliases": aliases, "limits": entry.limits, "unique": entry.unique,
                "start_before": entry.start_before, "is_published": True,
            },
        )  # fmt: skip
        self.registry.register(info)
        return task_of(self._client, self.recurring, info)

    apublished_task = twin(published_task)

    def parameters(self, name: str) -> list[Parameter]:
        """Return the parameters of a registered task as the fields of a form, in order.

        Raises:
            UnknownTask: No task with this name is registered in this app.
            TaskError: An annotation cannot be used.
        """
        return parameters_of(self._binder(name))

    def texts_from_arguments(self, name: str, stored: Mapping[str, JsonValue]) -> dict[str, str]:
        """Convert the stored arguments of a job, by name, to the strings of the task's form.

        The result omits values that have no string form, and names that are no longer parameters of the task.

        Raises:
            UnknownTask: No task with this name is registered in this app.
            TaskError: An annotation cannot be used.
        """
        return texts_of(self._binder(name), stored)

    def arguments_from_text(self, name: str, values: Mapping[str, str]) -> dict[str, object]:
        """Convert the strings of a form to typed arguments by name, as `fire.recurring.edit` accepts them.

        A parameter without a string keeps its default. An empty string is None for an optional parameter, and
        an empty string for a parameter that accepts strings. For any other parameter, an empty string is
        ignored.

        Raises:
            UnknownTask: No task with this name is registered in this app.
            FormError: A string cannot be converted, a required parameter has no string, or a name is unknown.
        """
        return typed_arguments(self._binder(name), values)

    def enqueue_text(
        self,
        name: str,
        values: Mapping[str, str],
        *,
        queue: str | None = None,
        priority: int | None = None,
        delay: timedelta | float | None = None,
        tags: Sequence[str] | None = None,
        meta: Mapping[str, str] | None = None,
        reason: str | None = None,
    ) -> Job[Any]:
        """Store a job of a registered task, with arguments from the strings of a form.

        The strings are converted as in `arguments_from_text`, and the arguments are checked as in every call
        that enqueues a job. `reason` appears in the job's history as the reason for its creation.

        Raises:
            UnknownTask: No task with this name is registered in this app.
            FormError: A string is invalid, as in `arguments_from_text`. The error is an ArgumentError that
                names each invalid field.
            ArgumentError, ConfigurationError, ScheduleError: Any other call that enqueues this job would
            raise the same error.
            StorageError: The job was not stored.
        """
        options = CallOptions(queue, priority, delay, tags=tags, meta=meta)
        return self._client.create(self._text_call(name, values, options), reason)

    async def aenqueue_text(
        self,
        name: str,
        values: Mapping[str, str],
        *,
        queue: str | None = None,
        priority: int | None = None,
        delay: timedelta | float | None = None,
        tags: Sequence[str] | None = None,
        meta: Mapping[str, str] | None = None,
        reason: str | None = None,
    ) -> Job[Any]:
        """Call `enqueue_text` without blocking the event loop."""
        options = CallOptions(queue, priority, delay, tags=tags, meta=meta)
        return await self._client.acreate(self._text_call(name, values, options), reason)

    def _text_call(self, name: str, values: Mapping[str, str], options: CallOptions) -> Call[Any]:
        info, binder = self._info(name), self._binder(name)
        args, kwargs = binder.signature.named_call(typed_arguments(binder, values))
        return Call(info, options, args, kwargs)

    def _binder(self, name: str) -> Binder:
        return self.registry.binder(self._info(name))

    def _info(self, name: str) -> TaskInfo:
        info = self.registry.get(name)
        if info is None:
            known = ", ".join(sorted(each.name for each in self.registry)[:20]) or "none"
            raise UnknownTask(f"Task {shown(name)} is not registered in this app. Registered: {known}.")
        return info

    # ---- locks and servers -------------------------------------------------------------------------------

    def lock(self, name: str, *, timeout: float = 5, ttl: float = 30, slots: int | None = None) -> Lock:
        """Return a distributed lock: `with fire.lock("invoice:7", timeout=5) as lock: …`.

        Args:
            name: 1 to 200 printable characters.
            timeout: seconds to wait for the lock.
            ttl: seconds after which the lock expires unless it is renewed; a held lock is renewed
                automatically.
            slots: the number of holders at the same time, 1 to 1,000. Each holder has a slot, `lock.slot`.
                Every process must pass the same number.

        Raises:
            ConfigurationError: An argument is out of range, or the lock of this name has another number of
                slots.
        """
        return Lock(
            self._locks or self.storage, self._keeper, name, timeout=timeout, ttl=ttl, slots=slots
        )  # fmt: skip

    def alock(self, name: str, *, timeout: float = 5, ttl: float = 30, slots: int | None = None) -> Lock:
        """Return a distributed lock for `async with`."""
        return self.lock(name, timeout=timeout, ttl=ttl, slots=slots)

    def server(
        self,
        *,
        queues: Sequence[str] | str | None = None,
        workers: int | None = None,
        async_workers: int | None = None,
        name: str | None = None,
        probe_port: int | None = None,
        probe_host: str = "127.0.0.1",
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> EmbeddedServer:
        """Return a server inside this process: `with fire.server(): …`, or `.start()`, `.stop()`, `.run()`.

        Compared with `firelock server`, an embedded server has two drawbacks: a job that blocks the
        interpreter for longer than the session timeout costs the server its session, and a job that kills its
        process kills this process.

        Args:
            queues: strict priority in the given order, or weights such as "critical:3,default:1"; all queues
                by default.
            workers: threads for `def` tasks; five per core by default.
            async_workers: `async def` jobs that run at the same time; 100 by default.
            name: the display name of the server; host:pid by default.
            probe_port: the port that serves `/livez`, `/readyz` and `/metrics`; none by default.
            probe_host: the address on which this port listens.
            loop: the event loop that runs `async def` jobs, for example that of the web application. It must
                run until the server has stopped: `async with fire.server(loop=asyncio.get_running_loop())`.
                By default, `async def` jobs run on a separate loop in a thread.

        Raises:
            ConfigurationError: A queue or number is invalid, a server started this process to run a job, or a
                command of `firelock` is importing the app.
        """
        from firelock.server.embedded import EmbeddedServer  # noqa: PLC0415 - clients do not need a server

        if self.no_server_reason is not None:
            raise ConfigurationError(f"fire.server() cannot start a server {self.no_server_reason}.")
        return EmbeddedServer(
            self, queues=queues, workers=workers, async_workers=async_workers, name=name,
            probe_port=probe_port, probe_host=probe_host, loop=loop,
        )  # fmt: skip

    def diagnose(self, *, knows_tasks: bool | None = None) -> Diagnosis:
        """Find problems with the storage, servers, queues and recurring jobs, as `firelock doctor` does.

        The check costs a handful of round trips and reads samples of at most 2,000 jobs per state. An
        unavailable storage is reported as a finding. Pass `knows_tasks=True` if this app has registered all
        its tasks; the check then also finds waiting jobs whose task is not registered. By default, this is
        assumed if any task is registered. Commands in the advice contain the app's name if a module contains
        the app.
        """
        from firelock.control.doctor import diagnose, with_app_name  # noqa: PLC0415 - rarely called
        from firelock.server.embedded import locate_app  # noqa: PLC0415

        knows = any(True for _ in self.registry) if knows_tasks is None else knows_tasks
        diagnosis = diagnose(self.runtime, knows_tasks=knows)
        name = locate_app(self)
        return diagnosis if name is None else with_app_name(diagnosis, name)

    adiagnose = twin(diagnose)

    # ---- life cycle --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Store the jobs of pending async calls, end the threads and close the connections.

        A later `with` block opens the app again, unless its storage was passed as a `Storage`.
        """
        self._closed = self._client.access
        self._client.access.close()
        self.storage.close()

    aclose = twin(close)

    def _open_again(self) -> Self:
        if self._closed is self._client.access and not isinstance(self._given, Storage):
            self._client.use(StorageAccess.of(self._open_storage(self._given)))
        return self

    def __enter__(self) -> Self:
        """Return the app, which is closed at the end of the block; a closed app is opened again."""
        return self._open_again()

    def __exit__(self, *_: object) -> None:
        """Close the app."""
        self.close()

    async def __aenter__(self) -> Self:
        """Return the app, which is closed at the end of the block; a closed app is opened again."""
        return self._open_again()

    async def __aexit__(self, *_: object) -> None:
        """Close the app without blocking the event loop."""
        await self.aclose()


def _calls(calls: Iterable[Call[Any]]) -> list[Call[Any]]:
    given = list(calls)
    for call in given:
        if not isinstance(call, Call):
            raise TaskError(f"fire.enqueue_many() accepts only calls from task.call(…), got {call!r}.")
    return given


class TaskDecorator(Protocol):
    """The decorator that `fire.task(…)` returns if it is called with options."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[_Anything, P], Coroutine[Any, Any, R | Snooze]], /
    ) -> AsyncTask[..., R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[_Anything, P], R | Snooze], /) -> Task[..., R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[JobContext, P], Coroutine[Any, Any, R | Snooze]], /
    ) -> AsyncContextTask[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[JobContext, P], R | Snooze], /
    ) -> ContextTask[P, R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R | Snooze]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R | Snooze], /) -> Task[P, R]: ...
