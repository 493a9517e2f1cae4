"""The app and its tasks with Celery's interface, as jobs of Firelock."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import logging
import os
import random
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast
from zoneinfo import ZoneInfo

import attrs

from firelock import (
    ConfigurationError,
    Firelock,
    RetryDecision,
    Snooze,
    UnknownScheme,
    current_job,
    hookimpl,
)
from firelock.compat.celery.async_result import PROGRESS, AsyncResult, CurrentApp, TaskRequest, running
from firelock.compat.celery.beat import to_schedule
from firelock.compat.celery.canvas import (
    EXPIRES,
    NEVER,
    WITH_RESULT,
    WITH_RESULT_APART,
    CelerySignature,
    links,
)
from firelock.compat.celery.config import CeleryConfig
from firelock.compat.celery.errors import (
    Ignore,
    MaxRetriesExceededError,
    NotMapped,
    RetryRequested,
    RunsTwiceWarning,
    TaskExpired,
)
from firelock.compat.celery.refused import REFUSED_OPTIONS, Refusing
from firelock.model.text import number_of, shown
from firelock.retry import describe_error, retry_reason
from firelock.task import MAIN_MODULES, main_module_name

if TYPE_CHECKING:
    from firelock.context import JobContext
    from firelock.model.job import ClaimedJob
    from firelock.plugins.hookspecs import ServerInfo
    from firelock.task import TaskVerbs

log = logging.getLogger(__name__)

_REQUESTED = "__celery_retry__"
_LOWEST, _HIGHEST = 0, 9
_EXAMPLES: Final = "postgresql://app@db/app, sqlite:///jobs.db or redis://cache:6379/1"
_SET_STORAGE: Final = f"Set FIRELOCK_STORAGE, for example to {_EXAMPLES}."
_UNKNOWN_WAIT: Final = 15.0  # seconds
_OURS: Final = ("limits", "unique", "start_before")  # options of `@fire.task` that Celery does not have
# Decorator options without effect, because Firelock always works in this way or lacks the feature.
_SILENT_OPTIONS: Final = {
    "acks_on_failure_or_timeout", "ignore_result", "reject_on_worker_lost", "send_events",
    "store_eager_result", "store_errors_even_if_ignored", "throws", "track_started", "trail",
}  # fmt: skip


# ---- the app ---------------------------------------------------------------------------------------------


class Celery(Refusing):
    """Celery's app: settings, tasks and beat entries; `fire` is the Firelock app that is created from them.

    The storage is FIRELOCK_STORAGE, or the broker's URL if Firelock has a storage with this scheme.

    Args:
        main: the name to use in task names for a module that runs as a program.
        broker: the URL of the broker.
        backend: ignored, because results are stored with the jobs.
        include: the modules that register tasks.
        set_as_current: whether shared tasks belong to this app.
        config_source: the source of settings, as for `config_from_object`.
        options: additional settings.
    """

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | None = None,
        backend: str | None = None,
        include: Sequence[str] = (),
        set_as_current: bool = True,
        config_source: object = None,
        **options: object,
    ) -> None:
        self.main = main
        self.conf = CeleryConfig()
        self.conf.update({"broker_url": broker, "result_backend": backend, "include": tuple(include)})
        self.conf.update(options)
        self.tasks: dict[str, CeleryTask] = {}
        self.control = Control(self)
        self.on_after_configure = Callbacks()
        self.on_after_finalize = Callbacks()
        self._found: list[tuple[Callable[[], Iterable[str]], str]] = []
        self._beat: dict[str, Mapping[str, Any]] = {}
        self._fire: Firelock | None = None
        self._lock = threading.RLock()
        if config_source is not None:
            self.config_from_object(config_source)
        if set_as_current:
            _Shared.adopt(self)

    def __repr__(self) -> str:
        """Return a string with the app's name and the number of its tasks."""
        return f"<Celery {self.main or '__main__'} on Firelock, {number_of(len(self.tasks), 'task')}>"

    def config_from_object(self, source: object, *, namespace: str | None = None) -> None:
        """Read the settings from an object or module; a string "module" or "module:name" is imported.

        Raises:
            NotMapped: If a setting has no counterpart.
            ConfigurationError: If a setting is unknown or invalid.
        """
        if isinstance(source, str):
            place, _, attribute = source.partition(":")
            module = importlib.import_module(place)
            source = getattr(module, attribute) if attribute else module
        self.conf.read(source, namespace)

    def autodiscover_tasks(
        self,
        packages: Iterable[str] | Callable[[], Iterable[str]] | None = None,
        related_name: str = "tasks",
    ) -> None:
        """Make servers import the module `tasks` of each package; by default, of each of Django's apps."""
        names = packages if callable(packages) else functools.partial(_packages, packages)
        self._found.append((names, related_name))

    # ---- tasks -------------------------------------------------------------------------------------------

    def task(self, function: Callable[..., Any] | None = None, /, **options: object) -> Any:  # noqa: ANN401
        """Register a function as a task and return the CeleryTask.

        This method can be used as a decorator with or without options.

        Raises:
            NotMapped: If an option has no counterpart.
            ConfigurationError: If an option is unknown or invalid.
        """
        if function is None:
            return lambda target: self.task(target, **options)
        task = CeleryTask(function, options, self)
        self.add(task)
        return task

    def add(self, task: CeleryTask) -> None:
        """Add the task to the app."""
        with self._lock:
            _warn_of_second_runs(task, is_late=task.acks_late or bool(self.conf.task_acks_late))
            self.tasks[task.name] = task
            if self._fire is not None:
                self._register(self._fire, task)

    def send_task(
        self,
        name: str,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
        **options: Any,  # noqa: ANN401 - as for a task
    ) -> AsyncResult:
        """Store a job of the task with this name; the task's code can be in another program.

        Raises:
            UnknownTask: If this app does not have the task, and no server has reported it.
        """
        if (task := self.tasks.get(name)) is not None:
            return task.apply_async(args, kwargs, **options)
        given = self.options_of(name, options)
        verbs = self.fire.published_task(name).using(**given)
        return AsyncResult.of(self, verbs.enqueue(*args, **(kwargs or {})))

    def AsyncResult(self, id: str, **_: object) -> AsyncResult:  # noqa: N802 - Celery's name
        """Return the result of a job."""
        return AsyncResult(id, app=self)

    # ---- the Firelock app --------------------------------------------------------------------------------

    @property
    def fire(self) -> Firelock:
        """The Firelock app, created at the first use with the settings at that time.

        Raises:
            ConfigurationError: If neither FIRELOCK_STORAGE nor the broker specifies a storage.
        """
        with self._lock:
            if self._fire is None:
                for callback in self.on_after_configure:
                    callback(self)
                fire = self._make_fire()
                self._beat.update(self.conf.beat_schedule)
                fire.task(name=WITH_RESULT, retry=ObeyTask())(self._with_result())
                for task in self.tasks.values():
                    self._register(fire, task)
                self._fire = fire
                for callback in self.on_after_finalize:
                    callback(self)
            return self._fire

    def _make_fire(self) -> Firelock:
        storage = self._storage()
        try:
            fire = Firelock(storage, imports=self._imports(), plugins=[BeatCheck(self), *_django_plugins()])
        except UnknownScheme as error:
            scheme, _, rest = (storage or "").partition(":")
            if not rest or "pip install" in str(error):
                raise  # the storage was chosen for Firelock, or its package is not installed
            raise ConfigurationError(
                f"Firelock has no storage for the broker's scheme {scheme!r}. {_SET_STORAGE}"
            ) from error
        fire.holder = (self, "fire")  # a job process imports it as shop.tasks:app.fire
        return fire

    def _storage(self) -> str | None:
        broker = self.conf.broker_url
        if os.environ.get("FIRELOCK_STORAGE"):
            return None  # Firelock itself reads the environment variable
        if (database := _django_database()) is not None:
            from firelock.integrations.django.database_url import (  # noqa: PLC0415 - Django is optional
                url_of_database,
            )

            return url_of_database(database)
        if not broker:
            raise ConfigurationError(
                "The app has no broker, so it has no storage. Set broker_url (CELERY_BROKER_URL in Django's "
                f"settings) or FIRELOCK_STORAGE to the URL of a storage: {_EXAMPLES}."
            )
        if not isinstance(broker, str) or ";" in broker:
            raise ConfigurationError(f"The broker must be a single URL, got a list. {_SET_STORAGE}")
        return broker

    def _imports(self) -> list[str]:
        found = [
            f"{package}.{related}"
            for packages, related in self._found
            for package in packages()
            if importlib.util.find_spec(f"{package}.{related}") is not None
        ]
        return list(dict.fromkeys([*self.conf.include, *self.conf.imports, *found]))

    def _register(self, fire: Firelock, task: CeleryTask) -> None:
        options = self.options_of(task.name, {})
        is_apart = self.runs_apart(task)
        verbs: TaskVerbs[Any, Any] = fire.task(
            name=task.name, queue=options.get("queue", "default"), priority=options.get("priority", 0),
            timeout=options.get("timeout"), retry=ObeyTask(), limits=options.get("limits", ()),
            unique=options.get("unique") or None, start_before=options.get("start_before"),
            executor="process" if is_apart else "auto",
        )(task.as_function())  # fmt: skip
        if is_apart and fire.registry.get(WITH_RESULT_APART) is None:
            fire.task(name=WITH_RESULT_APART, retry=ObeyTask(), executor="process")(self._with_result())
        for name, entry in list(self._beat.items()):
            if entry.get("task") == task.name:
                self._declare(fire, name, entry, verbs)

    def runs_apart(self, task: CeleryTask) -> bool:
        """Return whether the task runs in its own process, which a time limit can kill, as in Celery."""
        if task.executor is not None:
            return task.executor == "process"
        return self.options_of(task.name, {}).get("timeout") is not None

    def _with_result(self) -> Callable[..., Any]:
        def with_result(task: str, parent: str, args: list[Any], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
            """Run a task of a chain with the result of the previous task as its first argument."""
            if task not in self.tasks:  # the job waits for another server, like a job of an unknown task
                return Snooze(_UNKNOWN_WAIT, f"task {task!r} is not registered on this server")
            result = self.fire.jobs.get(parent).result(timeout=60)
            return self.tasks[task].run_job(current_job(), (result, *args), kwargs)

        return with_result

    # ---- beat --------------------------------------------------------------------------------------------

    def add_periodic_task(
        self, schedule: object, sig: CelerySignature, *, name: str | None = None, **options: object
    ) -> None:
        """Add a beat entry, which runs the signature according to the schedule."""
        entry = {
            "task": sig.task.name, "schedule": schedule, "args": sig.args, "kwargs": sig.kwargs,
            "options": {**sig.options, **options},
        }  # fmt: skip
        with self._lock:
            self._beat[name or f"{sig.task.name}{sig.args!r}"] = entry
            fire = self._fire
            if fire is not None and fire.registry.get(sig.task.name) is not None:
                verbs = fire.task_named(sig.task.name)
                self._declare(fire, name or f"{sig.task.name}{sig.args!r}", entry, verbs)

    @property
    def timezone(self) -> str:
        """The time zone of crontabs and of naive times."""
        return str(self.conf.timezone or "UTC")

    def _declare(
        self, fire: Firelock, name: str, entry: Mapping[str, Any], verbs: TaskVerbs[Any, Any]
    ) -> None:
        if entry.get("relative"):
            raise NotMapped(f"Beat entry {name!r} is relative; use Firelock's Every(…, anchor=…) instead.")
        given = dict(entry.get("options") or {})
        expires = given.pop("expires", None)
        options = self.options_of(verbs.name, given)
        if isinstance(expires, int | float | timedelta):
            options["meta"] = {EXPIRES: f"+{_seconds(expires):g}"}
        elif expires is not None:
            raise NotMapped(f"expires of beat entry {name!r} must be a number of seconds or a timedelta.")
        when = to_schedule(entry["schedule"], self.timezone)
        args, kwargs = tuple(entry.get("args") or ()), dict(entry.get("kwargs") or {})
        fire.recurring(name, when, *args, **kwargs)(verbs.using(**options))
        self._beat.pop(name, None)

    def undeclared(self) -> dict[str, str]:
        """Return the beat entries whose task is not registered, each with the task's name."""
        return {name: str(entry.get("task")) for name, entry in self._beat.items()}

    # ---- options -----------------------------------------------------------------------------------------

    def options_of(self, name: str, given: Mapping[str, object]) -> dict[str, Any]:
        """Return the options of `using(…)` for a call.

        The value of each option comes from the call, the task, the routes or the settings, in this order of
        precedence.

        Raises:
            NotMapped: If an option has no counterpart.
            ConfigurationError: If an option is unknown or invalid.
        """
        task = self.tasks.get(name)
        own = {} if task is None else dict(task.call_options)
        passed = {key: one for key, one in given.items() if one is not None}
        options: dict[str, Any] = {**self._route(name), **own, **passed}
        found: dict[str, Any] = {"queue": options.pop("queue", None) or self.conf.task_default_queue}
        priority = options.pop("priority", self.conf.task_default_priority)
        found["priority"] = None if priority is None else self._priority(cast("int", priority))
        found["timeout"] = options.pop("time_limit", self.conf.task_time_limit)
        if "time_limit" in passed and (task is None or not self.runs_apart(task)):
            raise NotMapped(
                f"time_limit={shown(passed['time_limit'])} has no effect on a call of {name}, because the "
                'task runs in a thread; pass time_limit= or executor="process" to the task instead.'
            )
        found["delay"] = options.pop("countdown", None)
        found["at"] = self._instant(options.pop("eta", None))
        expires = options.pop("expires", None)
        if expires is not None:
            found["meta"] = {EXPIRES: self._until(expires).isoformat()}
        for option in _OURS:
            found[option] = options.pop(option, None)
        for option, value in options.items():
            _refuse_option(option, value)
        return {key: value for key, value in found.items() if value is not None}

    def _route(self, name: str) -> dict[str, object]:
        routes = self.conf.task_routes or {}
        if not isinstance(routes, Mapping):
            raise NotMapped("task_routes must be a mapping; use {'shop.mail.*': {'queue': 'mail'}}.")
        for pattern, route in routes.items():
            if isinstance(pattern, str) and fnmatchcase(name, pattern):
                return {"queue": route} if isinstance(route, str) else dict(route)
        return {}

    def _priority(self, value: int) -> int:
        """Convert a Celery priority to Firelock's.

        In Celery, the highest priority is 9, or 0 with a Redis broker.
        """
        if isinstance(value, bool) or not isinstance(value, int) or not _LOWEST <= value <= _HIGHEST:
            raise ConfigurationError(
                f"priority must be an integer from 0 to 9, as in Celery, got {shown(value)}."
            )
        return -value if str(self.conf.broker_url).startswith(("redis", "sentinel")) else value

    def _instant(self, value: object) -> datetime | None:
        if value is None:
            return None
        if not isinstance(value, datetime):
            raise ConfigurationError(f"eta must be a datetime, got {shown(value)}.")
        return value if value.tzinfo else value.replace(tzinfo=ZoneInfo(self.timezone))

    def _until(self, value: object) -> datetime:
        if isinstance(value, datetime):
            return cast("datetime", self._instant(value))
        if isinstance(value, int | float | timedelta) and not isinstance(value, bool):
            return datetime.now(UTC) + timedelta(seconds=_seconds(value))
        raise ConfigurationError(
            f"expires must be a datetime, a timedelta or a number of seconds, got {shown(value)}."
        )

    # ---- replaced commands -------------------------------------------------------------------------------

    def worker_main(self, _: object = None) -> NoReturn:
        """Raise an error whose message contains the command to use instead."""
        raise NotMapped("worker_main() has no counterpart; run jobs with firelock server module:app.fire.")

    start = worker_main


def _seconds(value: float | timedelta) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def _django_plugins() -> list[object]:
    """Return the plugin for Django's connections if DJANGO_SETTINGS_MODULE is set, as in Celery."""
    if not os.environ.get("DJANGO_SETTINGS_MODULE") or importlib.util.find_spec("django") is None:
        return []
    from firelock.integrations.django.plugin import DjangoPlugin  # noqa: PLC0415 - Django is optional

    return [DjangoPlugin(_django_database())]


def _django_database() -> str | None:
    """Return `database` from a Django project's `FIRELOCK` setting if the setting also names an app."""
    if not os.environ.get("DJANGO_SETTINGS_MODULE") or importlib.util.find_spec("django") is None:
        return None
    from firelock.integrations.django.project import project_block  # noqa: PLC0415 - Django is optional

    block, _ = project_block()
    return None if block.app is None else block.database


def _packages(named: Iterable[str] | None) -> Iterable[str]:
    if named is not None:
        return named
    from django.apps import apps  # noqa: PLC0415 - only with Django, if no package is given

    return [config.name for config in apps.get_app_configs()]


def _refuse_option(option: str, value: object) -> None:
    if option in REFUSED_OPTIONS:
        raise NotMapped(f"The option {option}={shown(value)} has no counterpart: {REFUSED_OPTIONS[option]}.")
    if option == "serializer" and value != "json":
        raise NotMapped(f'serializer must be "json", got {shown(value)}: Firelock does not pickle arguments.')
    if option not in _SILENT_OPTIONS and option not in {"serializer", "retry", "retry_policy", "acks_late"}:
        raise ConfigurationError(f"Option {option!r} is unknown in Firelock's interface for Celery.")


class Callbacks(list[Callable[..., object]]):
    """A signal of Celery's app: functions that are called with the app when its Firelock app is created."""

    def connect(self, function: Callable[..., object], **_: object) -> Callable[..., object]:
        """Add a function, which is called once."""
        self.append(function)
        return function


@attrs.frozen
class Control:
    """The supported part of `app.control`."""

    _app: Celery

    def revoke(self, task_id: str, **_: object) -> None:
        """Delete the job; if it is running, the server cancels it."""
        AsyncResult(task_id, app=self._app).revoke()

    def __getattr__(self, name: str) -> NoReturn:
        """Raise an error whose message contains the replacement.

        Raises:
            NotMapped: Always.
        """
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotMapped(
            f"app.control.{name} has no counterpart; use app.fire.queues, app.fire.servers, or firelock top."
        )


@attrs.frozen
class BeatCheck:
    """A plugin of the app that logs the beat entries that a server cannot run."""

    _app: Celery

    @hookimpl
    def server_started(self, server: ServerInfo) -> None:
        """Log the entries whose task is not registered."""
        for name, task in self._app.undeclared().items():
            log.warning(
                "Beat entry %r does not run, because no imported module has registered its task %r.",
                name, task, extra={"server": server.name},
            )  # fmt: skip


# ---- shared tasks ----------------------------------------------------------------------------------------


def shared_tasks_without_app() -> list[str]:
    """Return the names of the shared tasks that cannot be called because no app was created."""
    return [task.name for task in _Shared.tasks] if _Shared.current is None else []


class _Shared:
    """The shared tasks of the process, which belong to every app that is created."""

    tasks: Final[list[CeleryTask]] = []
    current: Celery | None = None

    @classmethod
    def adopt(cls, app: Celery) -> None:
        cls.current = app
        CurrentApp.made = app
        for task in cls.tasks:
            app.add(task)


def shared_task(function: Callable[..., Any] | None = None, /, **options: object) -> Any:  # noqa: ANN401
    """Register a function as a task of all apps, including those created later; return the CeleryTask."""
    if function is None:
        return lambda target: shared_task(target, **options)
    task = CeleryTask(function, options, None)
    _Shared.tasks.append(task)
    if _Shared.current is not None:
        _Shared.current.add(task)
    return task


# ---- tasks -----------------------------------------------------------------------------------------------


class CeleryTask(Refusing):
    """A task with Celery's interface: `delay`, `apply_async` and `s`.

    The function of a bound task gets this object as `self`, with `retry` and `request`.
    """

    MaxRetriesExceededError = MaxRetriesExceededError

    def __init__(
        self, function: Callable[..., Any], options: Mapping[str, object], app: Celery | None
    ) -> None:
        if inspect.iscoroutinefunction(function):
            raise NotMapped(f"{function.__qualname__} must not be async; register it with app.fire.task.")
        given = dict(options)
        self.run = function
        self.bind = bool(given.pop("bind", False))
        self.name = str(given.pop("name", None) or _name_of(function, app))
        self.max_retries = cast("int | None", given.pop("max_retries", 3))
        self.default_retry_delay = cast("float", given.pop("default_retry_delay", 180))
        self.acks_late = bool(given.get("acks_late"))
        self.executor = cast("str | None", given.pop("executor", None))
        self.ignore_result = cast("bool | None", given.get("ignore_result"))
        self._again = _AutoRetry.of(given)
        self.call_options: Mapping[str, object] = {
            key: given.pop(key)
            for key in ("queue", "priority", "expires", "time_limit", *_OURS)
            if key in given
        }
        for option, value in given.items():
            _refuse_option(option, value)
        self._app = app
        functools.update_wrapper(cast("Callable[..., Any]", self), function)

    def __repr__(self) -> str:
        """Return the name."""
        return f"<@task: {self.name} on Firelock>"

    @property
    def app(self) -> Celery:
        """The app that the task belongs to; for a shared task, the app that was created last.

        Raises:
            ConfigurationError: If no app was created.
        """
        app = self._app or _Shared.current
        if app is None:
            raise ConfigurationError(
                f"Shared task {self.name!r} has no app; create one with Celery(…) in a module that is "
                "imported. In a Django project, create it in mysite/celery.py and set FIRELOCK = "
                '{"app": "mysite.celery:app.fire"}.'
            )
        return app

    # ---- calling -----------------------------------------------------------------------------------------

    def __call__(self, *args: object, **kwargs: object) -> Any:  # noqa: ANN401 - the function's own type
        """Run the function directly, without a job."""
        return self.run(self, *args, **kwargs) if self.bind else self.run(*args, **kwargs)

    def delay(self, *args: object, **kwargs: object) -> AsyncResult:
        """Store a job with these arguments."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
        *,
        link: CelerySignature | Iterable[CelerySignature] | None = None,
        link_error: CelerySignature | Iterable[CelerySignature] | None = None,
        **options: object,
    ) -> AsyncResult:
        """Store a job.

        Args:
            args: the positional arguments.
            kwargs: the keyword arguments.
            link: a signature that runs after the job has succeeded, with its result as the first argument.
            link_error: an immutable signature, task.si(…), that runs after the job has failed.
            options: countdown, eta, expires, queue, priority, time_limit.

        Raises:
            SignatureMismatch: If the arguments do not match the signature; also a TypeError.
            ArgumentError: If an argument is not JSON, and its parameter has no annotation.
            NotMapped: If an option has no counterpart.
            ConfigurationError: If an option is unknown or invalid.
        """
        verbs = self.verbs.using(**self.app.options_of(self.name, options))
        # `links` can raise an error, so call it before a job is stored.
        linked = [*links(link), *links(link_error, "failed")]
        result = AsyncResult.of(self.app, verbs.enqueue(*(args or ()), **(kwargs or {})))
        for store in linked:
            store(result)
        return result

    def delay_on_commit(self, *args: object, **kwargs: object) -> None:
        """Store a job after Django's transaction has committed, or immediately if none is open."""
        self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(
        self,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
        **options: Any,  # noqa: ANN401 - as for apply_async
    ) -> None:
        """Do the same as `delay_on_commit`, with the options of `apply_async`."""
        from django.db import transaction  # noqa: PLC0415 - Django is optional

        transaction.on_commit(functools.partial(self.apply_async, args, kwargs, **options))

    def apply(self, *_: object, **__: object) -> NoReturn:
        """Raise an error whose message explains how tests run jobs."""
        raise NotMapped(
            "apply() has no counterpart; call the task, or use firelock.testing (see docs/testing.md)."
        )

    @property
    def verbs(self) -> TaskVerbs[Any, Any]:
        """The Firelock task."""
        return self.app.fire.task_named(self.name)

    def s(self, *args: object, **kwargs: object) -> CelerySignature:
        """Return the call as a value; in a chain, the previous result becomes its first argument."""
        return CelerySignature(self, args, kwargs)

    def si(self, *args: object, **kwargs: object) -> CelerySignature:
        """Return the call as a value that does not receive a previous result."""
        return CelerySignature(self, args, kwargs, immutable=True)

    signature = s
    subtask = s

    def AsyncResult(self, task_id: str, **_: object) -> AsyncResult:  # noqa: N802 - Celery's name
        """Return the result of a job."""
        return AsyncResult(task_id, app=self.app)

    # ---- running -----------------------------------------------------------------------------------------

    @property
    def request(self) -> TaskRequest:
        """The information about the current run; empty for a direct call."""
        return running.get()

    def as_function(self) -> Callable[..., Any]:
        """Return the function that Firelock runs, without the parameter `self` but with its annotations."""

        @functools.wraps(self.run)
        def run(*args: object, **kwargs: object) -> Any:  # noqa: ANN401 - the function's own type
            return self.run_job(current_job(), args, kwargs)

        signature = inspect.signature(self.run)
        parameters = list(signature.parameters.values())[self.bind :]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return run

    def run_job(self, job: JobContext, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:  # noqa: ANN401
        """Run the function for a job; `ObeyTask` handles errors that request a retry or another outcome.

        Raises:
            TaskExpired: If the task had expired before it began.
            Exception: The error that the function raised.
        """
        if _has_expired(job):
            raise TaskExpired(f"{self.name} expired at {job.meta[EXPIRES]}")
        request = TaskRequest(
            job.id, self.name, args, kwargs, job.retries,
            {"routing_key": job.queue, "priority": job.priority}, job.meta, called_directly=False,
        )  # fmt: skip
        token = running.set(request)
        try:
            result = self(*args, **kwargs)
        except RetryRequested as retry:
            raise _marked(retry) from retry.exc
        except self._again.not_for:
            raise
        except self._again.errors as error:
            try:
                self.retry(exc=error, **self._again.wait(job.retries))
            except RetryRequested as retry:
                raise _marked(retry) from None
        finally:
            running.reset(token)
        is_ignored = self.app.conf.task_ignore_result if self.ignore_result is None else self.ignore_result
        return None if is_ignored and not isinstance(result, Snooze) else result

    def retry(
        self,
        args: None = None,
        kwargs: None = None,
        exc: BaseException | None = None,
        *,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: object,
    ) -> NoReturn:
        """Run the job again with the same arguments. As in Celery, this method always raises an error.

        Raises:
            RetryRequested: If the job runs again. Do not catch it.
            Exception: If no retry is left or no job is running, and `exc` is given: `exc` itself.
            MaxRetriesExceededError: If no retry is left, and `exc` is not given.
            NotMapped: If a call with other arguments is requested.
        """
        if args is not None or kwargs is not None or options:
            raise NotMapped(
                "retry() must not change the arguments or options, because a retry runs the same job again; "
                "to change them, enqueue a new job with self.apply_async(…) and return."
            )
        if not throw:
            raise NotMapped(
                "retry(throw=False) has no counterpart, because a job cannot both return and run again; "
                "enqueue a new job instead."
            )
        request, limit = self.request, self.max_retries if max_retries is None else max_retries
        if not request.called_directly and (limit is None or request.retries < limit):
            wait = self.default_retry_delay if countdown is None else countdown
            if eta is not None:
                due = cast("datetime", self.app._instant(eta))  # noqa: SLF001 - of the same module
                wait = max(0.0, (due - datetime.now(UTC)).total_seconds())
            raise RetryRequested(exc, wait)
        if exc is not None:
            raise exc
        if request.called_directly:
            raise RetryRequested(None, 0)
        made = "1 retry was" if limit == 1 else f"{limit} retries were"
        raise MaxRetriesExceededError(f"Can't retry {self.name}[{request.id}]: {made} made.")

    def update_state(self, *, state: str | None = None, meta: Mapping[str, object] | None = None) -> None:
        """Store progress: `meta["current"]` of `meta["total"]`, with an optional string `meta["status"]`.

        While the task runs, `AsyncResult.state` is "PROGRESS" and `AsyncResult.info` has these values.

        Raises:
            NotMapped: If another state is given, or `meta` contains other values.
        """
        given = dict(meta or {})
        done, total, status = given.pop("current", None), given.pop("total", None), given.pop("status", None)
        is_progress = state in {None, PROGRESS} and isinstance(status, str | None) and not given
        if not is_progress or not isinstance(done, int | float) or not isinstance(total, int | float):
            raise NotMapped(
                f"update_state(state={state!r}, meta={shown(meta)}): only progress is stored, for example "
                "state='PROGRESS', meta={'current': 3, 'total': 10, 'status': '…'}; log other values with "
                "current_job().log(…)."
            )
        current_job().progress(done, total, cast("str | None", status) or None)


def _name_of(function: Callable[..., Any], app: Celery | None) -> str:
    module = function.__module__
    if module in MAIN_MODULES:
        module = (app and app.main) or main_module_name()
    return f"{module}.{function.__name__}"


def _warn_of_second_runs(task: CeleryTask, *, is_late: bool) -> None:
    if not is_late:
        code = task.run.__code__
        warnings.warn_explicit(
            f"Task {task.name!r} might run twice. Celery runs it at most once, because acks_late is not set, "
            "but Firelock runs a job again if its server dies. Make it safe to repeat, then pass "
            "acks_late=True.",
            RunsTwiceWarning, code.co_filename, code.co_firstlineno, module=task.run.__module__,
        )  # fmt: skip


def _has_expired(job: JobContext) -> bool:
    expires = job.meta.get(EXPIRES, NEVER)
    if expires == NEVER:
        return False
    if expires.startswith("+"):
        until = job.due_at + timedelta(seconds=float(expires))
    else:
        until = datetime.fromisoformat(expires)
    return job.claimed_at > until  # both times come from the storage's clock, or a clock close to it


# ---- retries ---------------------------------------------------------------------------------------------


@attrs.frozen
class _AutoRetry:
    """The options of automatic retries: `autoretry_for` and related ones."""

    errors: tuple[type[BaseException], ...]
    not_for: tuple[type[BaseException], ...]
    options: Mapping[str, Any]  # arguments for `retry`
    backoff: float  # the first delay, in seconds; 0 if delays do not grow
    longest: float
    jitter: bool

    @classmethod
    def of(cls, given: dict[str, object]) -> _AutoRetry:
        return cls(
            tuple(cast("Iterable[type[BaseException]]", given.pop("autoretry_for", ()))),
            (Ignore, *cast("Iterable[type[BaseException]]", given.pop("dont_autoretry_for", ()))),
            cast("Mapping[str, Any]", given.pop("retry_kwargs", {})),
            float(cast("float", given.pop("retry_backoff", False))),
            float(cast("float", given.pop("retry_backoff_max", 600))),
            bool(given.pop("retry_jitter", True)),
        )

    def wait(self, retries: int) -> Mapping[str, Any]:
        """Return the arguments for `retry`; jitter replaces a growing wait with a random part of it."""
        if not self.backoff:
            return self.options
        wait = min(self.longest, max(1.0, self.backoff) * 2**retries)
        return {**self.options, "countdown": random.uniform(0, wait) if self.jitter else wait}  # noqa: S311


def _marked(retry: RetryRequested) -> BaseException:
    """Return the error with which the attempt ends, marked for a retry; the task's own error if possible."""
    error = retry.exc if isinstance(retry.exc, BaseException) else retry
    with contextlib.suppress(AttributeError):  # AttributeError is raised if the class has slots
        setattr(error, _REQUESTED, retry)
        return error
    return retry


@attrs.frozen
class ObeyTask:
    """The retry policy of all tasks in this module, which follows the decision of the task itself."""

    def decide(self, job: ClaimedJob, error: BaseException) -> RetryDecision:
        """Return the decision that the task requested; without a request, the error fails the job."""
        retry = (
            error
            if isinstance(error, RetryRequested)
            else getattr(error, "__dict__", {}).pop(_REQUESTED, None)
        )
        if retry is not None:
            reason = retry_reason(job.retries + 1, None, error)
            return RetryDecision.retry(max(0.0, float(retry.when)), reason=reason)
        if isinstance(error, Ignore | TaskExpired):
            return RetryDecision.delete(describe_error(error))
        return RetryDecision.fail(f"{describe_error(error)} (not retried by the task)")
