"""Django's tasks on Firelock: the backend that enqueues them and reads their results.

A declared task is registered with the app under its path, such as `shop.tasks.send_receipt`. A server runs
the tasks that its own code has declared, which autodiscovery imports. A server never imports a path just
because a stored job contains it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from django.apps import apps
from django.core import checks
from django.utils.module_loading import import_string

from firelock import Firelock
from firelock.errors import ConfigurationError, FirelockError, JobNotFound
from firelock.integrations.django.task_api import (
    BaseTaskBackend,
    InvalidTask,
    InvalidTaskBackend,
    Task,
    TaskResultDoesNotExist,
    normalize_json,
    task_backends,
    task_enqueued,
)
from firelock.integrations.django.task_options import (
    FIELDS,
    BackendOptions,
    Backoff,
    TaskOptions,
    check_paths,
    own_options,
    read_options,
)
from firelock.integrations.django.task_results import (
    STATUSES,
    FirelockTaskResult,
    aware_instant,
    meta_of_call,
    read_result,
    shown_instant,
)
from firelock.integrations.django.task_runner import TaskRunner
from firelock.model.aio import in_thread
from firelock.model.text import shown
from firelock.options import check_queue

if TYPE_CHECKING:
    from firelock.jobs.job import Job
    from firelock.limits.limit import Limit, Turns
    from firelock.limits.unique import Debounce, Unique

_PACKAGE = "firelock.integrations.django"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirelockTask(Task):  # type: ignore[misc]  # Any: Django has no types
    """A Task with Firelock's options: `@task(max_attempts=5, backoff=…)`; `using` cannot change them.

    If an option is None, its value comes from `OPTIONS`: see `task_options`.
    """

    max_attempts: int | None = None  # the maximum number of attempts, including the first one
    backoff: Backoff | timedelta | float | str | None = None
    timeout: timedelta | float | None = None  # maximum duration of each run
    keep: timedelta | float | None = None  # how long succeeded jobs and their results are kept
    tags: Sequence[str] | None = None  # tags that can contain parameters: "order:{order_id}"
    executor: str | None = None  # "process" to run the task in a separate process
    limits: Sequence[Limit | Turns] | None = None
    unique: Unique | Debounce | Literal[False] | None = None
    start_before: timedelta | datetime | None = None

    def __post_init__(self) -> None:
        """Validate the task, and register it with the app of its backend."""
        for name in ("tags", "limits"):
            if isinstance(value := getattr(self, name), list | set | frozenset):
                object.__setattr__(self, name, tuple(value))  # a frozen task must be hashable
        Task.__post_init__(self)
        _declare(self)


class TaskBackend(BaseTaskBackend):  # type: ignore[misc]  # Any: Django has no types
    """`TASKS = {"default": {"BACKEND": "firelock.integrations.django.TaskBackend", "QUEUES": […]}}`.

    `OPTIONS` can contain `max_attempts`, `backoff`, `timeout` and other options for all tasks. `OPTIONS` can
    also contain the same options for single queues in `queues` and for single tasks, by path, in `tasks`, and
    an app other than the project's own in `app`.

    Signals are sent with `send_robust`, so an error of a receiver is logged and does not affect the job.
    """

    task_class = FirelockTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        self._read: BackendOptions = read_options(params)
        self._options: dict[object, TaskOptions] = {}  # options by task, each computed once

    @property
    def app(self) -> Firelock:
        """The app whose storage contains the jobs.

        Raises:
            InvalidTaskBackend: If the settings are invalid. The message names the mistake.
        """
        if self._read.mistakes:
            raise InvalidTaskBackend(f"TASKS[{self.alias!r}]: {' '.join(self._read.mistakes)}")
        try:
            return _open_app(self._read.app)
        except ConfigurationError as error:
            raise InvalidTaskBackend(f"TASKS[{self.alias!r}]: {error}") from error

    def check(self, **_: object) -> list[checks.CheckMessage]:
        """Return the mistakes in the backend's settings, for `manage.py check`."""
        mistakes = [*self._read.mistakes, *check_paths(self._read)]
        if mistakes:
            return [self._error("E101", mistake) for mistake in mistakes]
        try:
            app = _open_app(self._read.app)
        except FirelockError as error:
            return [self._error("E102", str(error))]
        known = {info.name for info in app.tasks()}
        strange = sorted(self._read.tasks.keys() - known)
        return [
            *([] if self._read.app or apps.is_installed(_PACKAGE) else [checks.Warning(
                f"{_PACKAGE} is not in INSTALLED_APPS, so servers do not find the tasks of your apps.",
                hint=f'Set INSTALLED_APPS = [..., "{_PACKAGE}"].', id="firelock.W101",
            )]),
            *(checks.Warning(
                f"OPTIONS['tasks'] of TASKS[{self.alias!r}] contains {path!r}, but no such task is declared.",
                hint="Use the path of the function, such as shop.tasks.charge.", id="firelock.W102",
            ) for path in strange),
        ]  # fmt: skip

    def _error(self, code: str, mistake: str) -> checks.CheckMessage:
        return checks.Error(mistake, hint=f"Change TASKS[{self.alias!r}].", id=f"firelock.{code}")

    # ---- options and runners of tasks --------------------------------------------------------------------

    def options_of(self, task: Task, queue: str | None = None) -> TaskOptions:
        """Return the options of a task in its own queue, or in the given queue.

        Raises:
            ConfigurationError: If an option of the task itself is invalid.
        """
        path, queue, own = task.module_path, queue or task.queue_name, own_options(task)
        try:
            found = self._options.get((path, queue, own))
        except TypeError:  # every valid option is hashable; an invalid one raises an error below
            found = None
        if found is None:
            found = self._read.of(path, queue, TaskOptions(**dict(zip(FIELDS, own, strict=True))))
            self._options[path, queue, own] = found
        return found

    def validate_task(self, task: Task) -> None:
        """Check that Firelock can run the task.

        Raises:
            InvalidTask: If the task violates Django's rules, or Firelock's rules for names and options.
        """
        super().validate_task(task)
        try:
            check_queue(task.queue_name)
            self.options_of(task)
        except ConfigurationError as error:
            raise InvalidTask(f"{task.module_path}: {error}") from error

    def runner_of(self, task: Task) -> TaskRunner:
        """Return the runner of a task; register the task with the app if necessary.

        Raises:
            InvalidTask: If other processes could not find the task, or it was declared before with other
                options.
        """
        app = self.app
        known = app.registry.get(task.module_path)
        runner = None if known is None else TaskRunner.of(known.function)
        if runner is not None and runner.task.func is task.func:
            runner.check_alike(task)
            return runner
        runner = TaskRunner(app, task, self.alias, type(self), lambda queue: self.options_of(task, queue))
        try:
            runner.register()
        except FirelockError as error:
            raise InvalidTask(str(error)) from error
        return runner

    # ---- enqueuing ---------------------------------------------------------------------------------------

    def enqueue(self, task: Task, args: Sequence[object], kwargs: Mapping[str, object]) -> FirelockTaskResult:
        """Store a job, and send `task_enqueued`; for a duplicate, return the existing job's result instead.

        Raises:
            InvalidTask: If this backend does not accept the task.
            TypeError: If an argument is not JSON, or the call does not match the function.
            StorageError: If the job could not be stored.
        """
        call, args, kwargs = self._call(task, args, kwargs)
        job = call.enqueue(*args, **kwargs)
        result = self._enqueued(task, job, args, kwargs)
        if job.is_new:
            task_enqueued.send_robust(type(self), task_result=result)
        return result

    async def aenqueue(
        self, task: Task, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> FirelockTaskResult:
        """Enqueue without blocking the event loop; concurrent awaits share one round trip."""
        call, args, kwargs = self._call(task, args, kwargs)
        job = await call.aenqueue(*args, **kwargs)
        result = self._enqueued(task, job, args, kwargs)
        if job.is_new:
            await task_enqueued.asend_robust(type(self), task_result=result)
        return result

    def _call(self, task: Task, args: Sequence[object], kwargs: Mapping[str, object]) -> tuple[Any, Any, Any]:
        self.validate_task(task)
        args, kwargs = normalize_json(list(args)), normalize_json(dict(kwargs))
        runner = self.runner_of(task)
        info, priority, timeout = runner.verbs.info, int(task.priority), self.options_of(task).timeout
        chosen: dict[str, Any] = {  # only values that differ from those of the registered task
            "queue": None if task.queue_name == info.queue else task.queue_name,
            "priority": None if priority == info.priority else priority,  # Django also accepts 3.0
            "at": aware_instant(task.run_after),
            "timeout": None if timeout == info.timeout_seconds else timeout,
            "meta": meta_of_call(runner.positional, args, kwargs) if kwargs else None,
        }
        is_plain = all(value is None for value in chosen.values())
        call = runner.verbs if is_plain else runner.verbs.using(**chosen)
        return call, args, kwargs

    def _enqueued(self, task: Task, job: Job[Any], args: Any, kwargs: Any) -> FirelockTaskResult:  # noqa: ANN401 - JSON
        return FirelockTaskResult(
            task=task,
            id=job.id,
            status=STATUSES[job.state],
            enqueued_at=shown_instant(job.created_at),
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )

    # ---- results -----------------------------------------------------------------------------------------

    def get_result(self, result_id: str) -> FirelockTaskResult:
        """Return the current result of a job.

        This takes one round trip, and a second one if the job has failed or has had several attempts.

        Raises:
            TaskResultDoesNotExist: If no such job is stored, or its task was not declared in this process.
        """
        app = self.app
        _register_waiting()
        try:
            record = app.jobs.get(str(result_id)).record()
        except JobNotFound as error:
            raise TaskResultDoesNotExist(str(error)) from None
        info = app.registry.get(record.task)
        runner = None if info is None else TaskRunner.of(info.function)
        if runner is None:
            raise TaskResultDoesNotExist(
                f"Job {record.id} belongs to {record.task}, which is not a Django task declared in this "
                "process. Import the task's module; Firelock does not import it from its stored name."
            )
        return read_result(app, record, runner.task, self.alias)

    async def aget_result(self, result_id: str) -> FirelockTaskResult:
        """Return a result without blocking the event loop."""
        return await in_thread(self.get_result, result_id)


# ---- declared tasks --------------------------------------------------------------------------------------

# Tasks declared while Django was being set up, when the app's own module might not be complete yet.
_waiting: list[FirelockTask] = []
_registering = threading.RLock()


def _declare(task: FirelockTask) -> None:
    if apps.ready:
        _register(task)
    else:
        _waiting.append(task)


def _register(task: FirelockTask) -> None:
    backend = task.get_backend()
    if isinstance(backend, TaskBackend):
        backend.runner_of(task)


def _register_waiting() -> None:
    # The lock makes other threads wait until the tasks are registered, because they are removed from the list
    # earlier.
    with _registering:
        while _waiting:
            task = _waiting.pop(0)
            try:
                _register(task)
            except InvalidTaskBackend:  # the mistake is in the settings, not in the task
                _waiting.insert(0, task)
                raise


def register_declared() -> None:
    """Register every task in an imported module with the app of every Firelock backend.

    Called when Django has been set up and has discovered the project's modules. A task that is declared for
    another backend can be enqueued with this one by `using(backend=…)`, so a server must have it as well.
    `manage.py check` and the first enqueue report invalid settings.
    """
    ours = [backend for backend in map(_opened, task_backends.settings) if isinstance(backend, TaskBackend)]
    try:
        _register_waiting()
    except InvalidTaskBackend:
        return
    if len(ours) == len(task_backends.settings) == 1:
        return
    modules = [module for module in sys.modules.values() if type(module) is ModuleType]
    for module in modules:
        # Check only the type, because any other check would evaluate Django's lazy objects.
        for task in [value for value in vars(module).values() if issubclass(type(value), Task)]:
            for backend in ours:
                with suppress(InvalidTask, InvalidTaskBackend):
                    backend.runner_of(task)


def _opened(alias: str) -> BaseTaskBackend | None:
    try:
        return task_backends[alias]
    except InvalidTaskBackend:  # the settings of another backend are not checked here
        return None


def _open_app(place: object) -> Firelock:
    """Return the app that `OPTIONS["app"]` names.

    Raises:
        ConfigurationError: If the app does not exist, or the object is not an app.
    """
    if place is None:
        from firelock.integrations.django.project import get_app  # noqa: PLC0415 - needs Django's settings

        return get_app()
    if isinstance(place, str):
        try:
            place = import_string(place.replace(":", "."))
        except ImportError as error:
            raise ConfigurationError(f"OPTIONS['app'] cannot be imported: {error}") from error
    if not isinstance(place, Firelock):
        raise ConfigurationError(
            f"OPTIONS['app'] must be a Firelock app or its place, such as \"shop.jobs:fire\", got "
            f"{shown(place)}."
        )
    return place
