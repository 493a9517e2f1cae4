"""`Firelock`: the app. It ties tasks, storage, plugins and settings together."""

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
        """No parameter takes it but one that takes anything: type checkers would pass a context there."""


P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


# What `@fire.task(…)` takes beside the name, and the field of a TaskInfo that keeps it.
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
    """An app: its tasks, and the storage its jobs live in.

    Args:
        storage: a URL, a `Storage`, or a SQLAlchemy Engine; `FIRELOCK_STORAGE` where it is left out.
        serializer: the name of the serializer for new jobs; each job remembers its own.
        locks: the URL of a lock provider; the storage's own locks where it is left out.
        plugins: modules, classes or instances with hooks, for this app alone.
        imports: modules that register tasks; a server imports them, a client need not.
        settings: numbers; the environment's where they are left out.

    Opening is lazy: nothing is connected before the first verb that needs it.

    Raises:
        ConfigurationError: no storage is named, or an argument is wrong.
        UnknownScheme: no plugin offers the URL's scheme.
        PluginError: a plugin cannot be loaded.
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
        self.module = sys._getframe(1).f_globals.get("__name__")  # noqa: SLF001 - as namedtuple asks for it
        self.settings = settings or Settings.from_environment()
        self.thresholds = Thresholds()  # of the findings; a plugin may set others
        if self.settings.probe_port:
            for call in on_probe_port:
                call()
        self.plugins = Plugins(plugins)
        if not isinstance(imports, list | tuple) or not all(isinstance(name, str) for name in imports):
            raise ConfigurationError(
                f'imports={imports!r} is no list of module names; write imports=["app.tasks"].'
            )
        self.imports = (*imports,)
        self._signals: dict[str, Signal[Any]] = {}
        opened = self._open_storage(storage)
        self._given = storage
        self._closed: StorageAccess | None = None  # by `close`, to be opened again
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
                'No storage is named. Write Firelock("sqlite:///jobs.db"), or set FIRELOCK_STORAGE; '
                "memory:// keeps jobs in this process only."
            )
        if isinstance(storage, Storage):
            return check_contract(storage)
        if isinstance(storage, str):
            return self.plugins.open_storage(storage)
        return self.plugins.adopt_storage(storage)

    def use_storage(self, storage: str | Storage) -> None:
        """Jobs live in another storage from now on. Call it before any verb.

        The former one is closed if the app has opened it itself; a `Storage` that was passed is its maker's.
        """
        opened = self._open_storage(storage)
        self._client.access.close()  # what was awaited is stored where it was meant to be
        if not isinstance(self._given, Storage):
            self.storage.close()
        self._client.use(StorageAccess.of(opened))
        self._given = storage

    @property
    def storage(self) -> Storage:
        """Where its jobs live."""
        return self._client.storage

    @property
    def client(self) -> Client:
        """The side that creates jobs; a server uses it to fire recurring jobs."""
        return self._client

    @property
    def runtime(self) -> Runtime:
        """The parts that servers and the doctor work with."""
        return Runtime(
            self.storage, self._client.clock, self.registry, self.plugins, self._client, self.settings,
            self.thresholds,
        )  # fmt: skip

    def __repr__(self) -> str:
        """Return the app with its storage's address, without a password."""
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
                `retry` (a Retry or an object with `decide`), `timeout` (of an attempt), `keep` (how long a
                succeeded job stays, with its result; by default as the settings say), `tags` (texts that may
                name parameters: "user:{user_id}"), `aliases` (old names still stored with jobs), `executor`
                ("auto" or "process"), `on_risk` ("continue" or "cancel"), `max_host_losses` (how often a job
                may be running when its server or worker process is lost before it fails), `remote` (a stub
                for code that lives elsewhere), `limits` (of Limit and Turns, 4 at most), `unique` (a Unique
                or Debounce), `start_before` (a timedelta from when the job becomes enqueued, or an aware
                datetime, after which it is deleted unrun).

        Raises:
            TaskError: it is no plain function, no other process could find it, or a limit or unique key names
                what is no parameter.
            DuplicateTask: another function has the name.
            ConfigurationError: an option is wrong, or a limit's name has other numbers elsewhere in the app.
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
        """Declare what workers keep open for jobs: `@fire.resource` above a generator that yields it once.

        Take it as a task's parameter, `async def fetch(url: str, http: Client = http_client)`, last or behind
        a `*`; or ask for it inside a job, `current_job().resource(pool)`. No call gives it, and nothing of it
        is stored. Each worker process of a server, and each process of `executor="process"`, opens it when a
        job first needs it and closes it at its stop: an async generator on the event loop that runs its async
        jobs, others in a thread. All jobs of the worker process share it. Where it cannot be opened the job
        fails with that error, and the next job tries again. Its own parameters may be other resources.

        Args:
            function: a generator function, sync or async, or a function of `contextlib.contextmanager` or
                `asynccontextmanager`. Type checkers see what it yields.

        Raises:
            ConfigurationError: it is no such function.
            TaskError: a parameter of it has no default, or a `def` takes an async resource.
        """
        return declare_resource(function)

    def enqueue_many(self, calls: Iterable[Call[R]]) -> list[Job[R]]:
        """The calls of `task.call(…)` are stored in order: first all checked, then 500 at a time."""
        return self._client.create_many(_calls(calls))

    async def aenqueue_many(self, calls: Iterable[Call[R]]) -> list[Job[R]]:
        """Enqueue many without blocking the event loop."""
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
        beside: str | None = None,
    ) -> Batch:
        """Return a batch, filled in its block: `with fire.batch("import") as batch: batch.add(load, 1)`.

        It is a job without a task, which ends when none of its members can go on. Up to 500 members are
        stored with it in one step at the end of the block; a block that raises stores nothing. Of more the
        first are stored, and run, while the block goes on: one that raises then cancels the batch.

        Args:
            name: for people, 1 to 200 printable characters.
            after: its members start when this job has succeeded, or all of these, or as `on` says; where that
                cannot come any more, the batch is deleted.
            on: what it waits for: succeeded, failed, deleted or finished.
            on_failure: "continue", or "cancel": the first failed member deletes those that have not ended.
            tags: plain texts.
            keep: how long it stays once it has succeeded, with its members and all within inner batches; by
                default as the settings say.
            hold: of more than 500 members: it is cancelled when whoever fills it says nothing for so long.
            within: a transaction of yours in the storage's own database; the batch comes and goes with it.
            beside: a limit's key or a unique key of its members, such as "tenant:7", beside which it lies
                where the storage has partitions. Others need no such word.

        Raises:
            ConfigurationError: an option is wrong.
            JobNotCommitted: a job it is to be after is not stored.
        """
        if beside is None and not after and (job := running_job.get(None)) is not None:
            beside = job.id  # so that it may join the batch
        return new_batch(
            self._client, name, after=after, on=on, on_failure=on_failure, tags=tags, keep=keep, hold=hold,
            within=within, beside=beside,
        )  # fmt: skip

    def signal(self, name: str, type: type[T]) -> Signal[T]:  # noqa: A002 - it is one
        """Return a signal: `approval = fire.signal("approval", Approval)`.

        A job waits for it by `job.receive(approval, timeout=…)`, others send it by `approval.send(job, …)`.

        Args:
            name: 1 to 200 printable characters; each job has one answer of a name.
            type: of what is sent; stored and checked as arguments are.

        Raises:
            ConfigurationError: the name is none, or is that of a signal of another type.
            TaskError: the type is not supported.
        """
        owner = f"The payload of signal {check_name(name)!r}"
        former = self._signals.get(name)
        if former is not None and former.type != type:
            raise ConfigurationError(
                f"Signal {name!r} is one of {shown(former.type)} in this app, and now of {shown(type)}. A "
                "job has one answer of a name: make the signal once and import it, or give this one another."
            )
        codec = self.registry.value_codec(type, owner, self._client.serializer)
        form = partial(self.registry.value_form, type, owner)
        signal = self._signals[name] = Signal(name, type, self._client, codec, form)
        return signal

    def signal_named(self, name: str) -> Signal[Any] | None:
        """Return the signal of a stored name, with a key or without; None where this app has made none."""
        base = name
        while base and base not in self._signals:
            base = base.rpartition(":")[0]
        return attrs.evolve(self._signals[base], name=name) if base else None

    def load_imports(self) -> None:
        """The modules of `imports` are imported, and so their tasks registered.

        Only names that the program itself gave are imported, never one from storage.
        """
        for name in self.imports:
            importlib.import_module(name)

    def declared_limits(self) -> Mapping[str, Limit]:
        """Return the limits that the registered tasks declare, by the name that their numbers belong to."""
        return self.registry.declared_limits()

    def tasks(self) -> list[TaskInfo]:
        """Return the registered tasks."""
        return list(self.registry)

    # ---- tasks by the names that are stored, jobs of them by texts: for a form, a page, a command ----------

    def task_named(self, name: str) -> TaskVerbs[Any, Any]:
        """Return the registered task of a stored name; an alias is such a name as well.

        Raises:
            UnknownTask: no task of the name is registered in this app.
        """
        return task_of(self._client, self.recurring, self._info(name))

    def told_task(self, name: str) -> TaskVerbs[Any, Any]:
        """Return the task of a stored name to enqueue by, also where its code is elsewhere.

        What is not registered here is made of what a server told of it, so that its arguments are checked as
        far as JSON shows their types; from then on it is registered as a remote task.

        Raises:
            UnknownTask: it is neither registered nor told of, or a server of an older release told of it.
        """
        if (known := self.registry.get(name)) is not None:
            return task_of(self._client, self.recurring, known)
        entry = next((one for one in self.catalogue.list() if name in (one.name, *one.aliases)), None)
        if entry is None:
            raise UnknownTask(f"Task {shown(name)} is unknown: no server told of it, and this app lacks it.")
        if entry.parameters is None:
            raise UnknownTask(
                f"What task {entry.name!r} takes is unknown: a server of an older release told of it. Start "
                "one of this release, or name the app that has its code."
            )
        stub = stub_of(entry.signature.partition("(")[0], entry.parameters, entry.defaults)
        aliases = [one for one in entry.aliases if self.registry.get(one) is None]
        info = task_info(
            stub, name=entry.name, options={
                "queue": entry.queue, "priority": entry.priority, "tags": entry.tags, "is_remote": True,
                "aliases": aliases, "limits": entry.limits, "unique": entry.unique,
                "start_before": entry.start_before, "is_told": True,
            },
        )  # fmt: skip
        self.registry.register(info)
        return task_of(self._client, self.recurring, info)

    atold_task = twin(told_task)

    def parameters(self, name: str) -> list[Parameter]:
        """Return the parameters of a registered task as the fields of a form, in order.

        Raises:
            UnknownTask: no task of the name is registered in this app.
            TaskError: an annotation cannot be used.
        """
        return parameters_of(self._binder(name))

    def texts_from_arguments(self, name: str, stored: Mapping[str, JsonValue]) -> dict[str, str]:
        """Return arguments as a job stores them, by name, as the texts of the task's form.

        Left out is what no text stands for, and what is no parameter of the task any more.

        Raises:
            UnknownTask: no task of the name is registered in this app.
            TaskError: an annotation cannot be used.
        """
        return texts_of(self._binder(name), stored)

    def arguments_from_text(self, name: str, values: Mapping[str, str]) -> dict[str, object]:
        """Return a form's texts as typed arguments by name, as `fire.recurring.edit` takes them.

        A parameter without a text keeps its default. An empty text is None for an optional parameter, an
        empty text for one that takes text, and else as if there were none.

        Raises:
            UnknownTask: no task of the name is registered in this app.
            FormError: a text cannot be read, a parameter that is needed has none, or a name is unknown.
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
        """A job of a registered task is stored, its arguments read from a form's texts.

        What `arguments_from_text` returns goes through the checks of every enqueue. `reason` is what its
        history says of its creation, for people.

        Raises:
            UnknownTask: no task of the name is registered in this app.
            FormError: see `arguments_from_text`; it is an ArgumentError that names each wrong field.
            ArgumentError, ConfigurationError, ScheduleError: an enqueue would refuse it as well.
            StorageError: nothing was stored.
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
        """`enqueue_text` without blocking the event loop."""
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
            timeout: seconds to wait for it.
            ttl: seconds it lives without a renewal; it is renewed while held.
            slots: so many hold it at once, 1 to 1,000, each in a slot of its own, `lock.slot`. Every
                process has to say the same number.

        Raises:
            ConfigurationError: an argument is out of its bounds, or the name has another number of slots.
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

        What it gives up against `firelock server`: a job that keeps the interpreter busy longer than the
        session timeout costs the server its session, and a job that kills its process kills this one.

        Args:
            queues: strict priority as listed, or weights as "critical:3,default:1"; every queue by default.
            workers: threads for `def` tasks; five a core where left out.
            async_workers: `async def` jobs at once; 100 where left out.
            name: for people; host:pid where left out.
            probe_port: where `/livez`, `/readyz` and `/metrics` are answered; nowhere where left out.
            probe_host: the address that this port listens at.
            loop: the event loop that runs `async def` jobs, such as the web application's own; it must run
                until the server has stopped: `async with fire.server(loop=asyncio.get_running_loop())`.
                Where left out they run on a loop of their own, in a thread.

        Raises:
            ConfigurationError: this process is one that a server started for a job, or a command of
                `firelock` imports the app at this moment; and as queues and numbers are wrong.
        """
        from firelock.server.embedded import EmbeddedServer  # noqa: PLC0415 - clients need no server

        if self.serves_not is not None:
            raise ConfigurationError(f"fire.server() is refused {self.serves_not}.")
        return EmbeddedServer(
            self, queues=queues, workers=workers, async_workers=async_workers, name=name,
            probe_port=probe_port, probe_host=probe_host, loop=loop,
        )  # fmt: skip

    def diagnose(self, *, knows_tasks: bool | None = None) -> Diagnosis:
        """Return what is wrong with storage, servers, queues and recurring jobs: what `firelock doctor` says.

        It costs a handful of round trips and looks at samples of at most 2,000 jobs a state; a storage that
        does not answer is a finding. `knows_tasks` tells whether this app has all its tasks, so that waiting
        jobs are compared with them; by default it has if it has any.
        """
        from firelock.control.doctor import diagnose  # noqa: PLC0415 - most programs never ask

        knows = any(True for _ in self.registry) if knows_tasks is None else knows_tasks
        return diagnose(self.runtime, knows_tasks=knows)

    adiagnose = twin(diagnose)

    # ---- life --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Threads have ended and connections are closed; what was awaited is stored.

        A later `with` block opens them again, unless the storage was passed as a `Storage`.
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
        """Return the app, closed at the end of the block; one that was closed before is open again."""
        return self._open_again()

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    async def __aenter__(self) -> Self:
        """Return the app, closed at the end of the block; one that was closed before is open again."""
        return self._open_again()

    async def __aexit__(self, *_: object) -> None:
        """Close without blocking the event loop."""
        await self.aclose()


def _calls(calls: Iterable[Call[Any]]) -> list[Call[Any]]:
    given = list(calls)
    for call in given:
        if not isinstance(call, Call):
            raise TaskError(f"fire.enqueue_many takes what task.call(…) returns, not {call!r}.")
    return given


class TaskDecorator(Protocol):
    """What `fire.task(…)` returns when it is given options."""

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
