"""Specifications of all hooks, grouped by phase.

A plugin is a module, class or instance with functions that have a hook's name and the mark `@hookimpl`. A
function takes only the arguments that it needs. Hooks are synchronous, and a hook about several jobs receives
a sequence. Treat received values as read-only. A hook that no plugin implements costs only the check of a
boolean. `docs/plugins.md` shows a working plugin for each hook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING

import attrs
import pluggy

if TYPE_CHECKING:
    import argparse

    from cattrs import Converter

    from firelock.arguments.serializer import Serializer
    from firelock.context import JobContext
    from firelock.model.job import ClaimedJob, NewJob, Settled, Transition
    from firelock.model.storage import OpenTransaction
    from firelock.options import TaskInfo
    from firelock.retry import RetryDecision
    from firelock.storage import Storage
    from firelock.storage.locks import LockProvider

PROJECT = "firelock"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


# ---- values of the hooks ---------------------------------------------------------------------------------


@attrs.frozen
class TaskCall:
    """A call of a task that is about to become a job."""

    task: str
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    options: Mapping[str, object]  # the options passed to `using(...)` and to the method that creates the job


@attrs.frozen
class ServerInfo:
    """A server, as passed to hooks."""

    id: str
    name: str
    queues: str
    workers: int
    pid: int


@attrs.frozen
class Command:
    """A command that a plugin adds to the command line: `firelock NAME …`."""

    name: str
    help: str
    # This function adds the command's arguments to the parser.
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    """Runs the command and returns its exit code. The passed options have two more attributes.
    `open_app()` returns the app that the command line, the environment or the project configures; the command
    must close this app. `is_json` is True with `--json`."""


# ---- registration (when an app or a command starts) ------------------------------------------------------


@hookspec
def register_hookspecs() -> object:
    """Define your own hooks, which other plugins can implement.

    Called once per app, after all plugins have loaded and before their hooks are checked.

    The implementation must return a module or an object; its functions marked `@hookspec` are the new hooks.
    An exception prevents the app from starting.

    Example:
        @hookimpl
        def register_hookspecs():
            return shop.hookspecs
    """


@hookspec
def register_storages() -> Mapping[str, Callable[[str], Storage]]:  # type: ignore[empty-body]
    """Offer storages by the scheme of their URL.

    Called once, when plugins load.

    The implementation must return a mapping from scheme to factory. A factory receives the whole URL. The
    factory must not do any I/O, and it must import its driver itself. If two plugins offer the same scheme,
    startup stops with a `PluginError`. An exception raised by the implementation also stops startup.

    Example:
        @hookimpl
        def register_storages():
            return {"mongodb": MongoStorage}
    """


@hookspec
def register_serializers() -> Mapping[str, Serializer]:  # type: ignore[empty-body]
    """Offer serializers by name; the name is stored with each job.

    Called once, when plugins load.

    The implementation must return a mapping from name to serializer. If two plugins offer the same name,
    startup stops with a `PluginError`. An exception raised by the implementation also stops startup. The name
    `json` is reserved.

    Example:
        @hookimpl
        def register_serializers():
            return {"encrypted": EncryptedSerializer(keys)}
    """


@hookspec
def register_lock_providers() -> Mapping[str, Callable[[str], LockProvider]]:  # type: ignore[empty-body]
    """Offer lock providers by URL scheme, for `Firelock(locks="scheme://…")`.

    Called once, when plugins load. An app without a lock provider keeps its locks in its storage.

    The implementation must return a mapping from scheme to factory. A factory receives the URL and must
    return a `LockProvider`. An exception prevents the app from starting.

    Example:
        @hookimpl
        def register_lock_providers():
            return {"etcd": EtcdLocks}
    """


@hookspec
def register_commands() -> Sequence[Command]:  # type: ignore[empty-body]
    """Offer commands for the command line.

    Called if a user runs a command that Firelock does not define, or lists all commands.

    The implementation must return a sequence of `Command` objects. A name that is already taken is refused.
    An exception stops the program.

    Example:
        @hookimpl
        def register_commands():
            return [Command("vacuum", "Vacuum the file.", lambda parser: None, vacuum)]
    """


# ---- configuration (once per app; the argument is changed in place) --------------------------------------


@hookspec
def configure_app(app: object) -> None:
    """Add the plugin's tasks or recurring jobs to the app, or store the app for later use.

    Called once per app, at the end of `Firelock(…)` and before any other code can use the app, which is
    passed as `app`. The app is not connected yet, so the implementation must not call any method that reads
    or stores something. An exception prevents the app from starting.

    Example:
        @hookimpl
        def configure_app(self, app):
            self.tidy = app.task(tidy, name="shop.tidy")
    """


@hookspec
def configure_converter(converter: Converter) -> None:
    """Add argument types to the app's cattrs converter.

    Called once per app, when the first argument that is not plain JSON is used. The implementation must
    change the converter in place. An exception is raised in the code that enqueues the job.

    Example:
        @hookimpl
        def configure_converter(converter):
            converter.register_unstructure_hook(Money, str)
            converter.register_structure_hook(Money, lambda text, _: Money.parse(text))
    """


# ---- creation of jobs ------------------------------------------------------------------------------------


@hookspec
def job_options(task: TaskInfo, call: TaskCall) -> Mapping[str, object] | None:
    """Choose options for a job that is about to be created (the client filter).

    Called once per call, before anything is stored. Not called for a batch, which has no task.

    The implementation must return a mapping of options that `using(...)` accepts, or None. The caller's
    options have precedence, followed by those of the plugin that runs first. For `meta`, this applies to each
    name separately. An exception is raised in the caller.

    Example:
        @hookimpl
        def job_options(task, call):
            return {"tags": [f"tenant:{tenant.get()}"]}
    """


@hookspec
def enqueue_context(
    task: TaskInfo | None, calls: Sequence[TaskCall], inherited: Mapping[str, str], created: Sequence[NewJob]
) -> AbstractContextManager[object] | None:
    """Wrap the creation of jobs, from the choice of their options until they are stored or refused.

    Called in the client's process, each time a method creates jobs: with one call, or with all calls of an
    `enqueue_many`. In the block of a batch, called once per member, or once per up to 500 members of an
    `add_many`; in this case, the context is left when these members have been collected. Not called for the
    definition of a recurring job.

    `task` is None if the calls are for several tasks. `inherited` is the meta of the job that the new jobs
    continue. `created` is empty when the context is entered. When the context is left, `created` contains the
    new jobs that are stored later: members that a batch's block collects, and jobs that a job calls.

    The implementation must return a context manager or None. If not all jobs were stored, the context
    is left with the error. For an async method, the context is entered in the asyncio task that
    awaits the method, so it must not block. An exception from the hook or its context manager is raised in
    the caller.

    Example:
        @hookimpl
        def enqueue_context(calls):
            return tracer.start_as_current_span(f"enqueue {calls[0].task}")
    """


@hookspec
def batch_meta(name: str) -> Mapping[str, str] | None:
    """Choose the meta of a batch that is about to be created; jobs that continue the batch inherit it.

    Called once per batch, in the client's process, before anything is stored.

    The implementation must return a mapping of strings by name, or None. For each name, the plugin that runs
    first has precedence. The batch's members do not inherit this meta. An exception is raised in the caller.

    Example:
        @hookimpl
        def batch_meta(name):
            return {"tenant": tenant.get()}
    """


@hookspec(firstresult=True)
def job_transaction(storage: Storage, within: object | None) -> OpenTransaction | None:
    """Choose the transaction in which new jobs are stored, or in which a job ends.

    Called in the client's process, each time a method stores jobs or sends a signal, and once more for each
    uncommitted job that a new job waits for. Also called by `complete_within`. `within` is the caller's
    `using(within=...)`, or None if the caller passed none. Async methods call the hook only if the caller
    passed a transaction.

    The implementation must return an `OpenTransaction`, or None for "not mine", which keeps the caller's
    `within`. The first plugin that returns something other than None decides, and no other plugin is called.
    An exception is raised in the caller, and nothing is stored.

    Example:
        @hookimpl
        def job_transaction(within):
            if within is None and (unit := unit_of_work.get()):
                return OpenTransaction(unit.connection, unit.on_commit)
    """


@hookspec
def jobs_created(jobs: Sequence[NewJob]) -> None:
    """Observe jobs after they have been stored.

    Called in the client's process, once per stored group of jobs. In a caller's transaction, the commit can
    still fail. A duplicate is not included, because it was not stored: another job has its unique key. A
    batch is included as a job; its `relations.batch` is set. An exception is logged and does not affect any
    job.

    Example:
        @hookimpl
        def jobs_created(jobs):
            counter.add(len(jobs))
    """


# ---- runs of jobs ----------------------------------------------------------------------------------------


@hookspec
def job_context(
    job: JobContext, task: TaskInfo
) -> AbstractContextManager[object] | AbstractAsyncContextManager[object] | None:
    """Wrap each run of a job (the server filter).

    Called once per run, in the worker, before the task starts.

    The implementation must return a context manager or None. It is entered before the task and left after it,
    with the task's exception if there is one. For a `def` task, this happens in the thread that runs the
    task. For an `async def` task, it happens in the asyncio task that runs it, with `async with` if the
    context manager has `__aenter__`.

    A run that ends in a wait, for example with `job.sleep`, leaves the context without an exception, and
    `job.suspended` is true. The next run enters the context again. If the process is killed, the context is
    not left. An exception from the hook or its context manager causes the attempt to fail.

    Example:
        @hookimpl
        def job_context(job, task):
            return tracer.start_as_current_span(task.name)
    """


@hookspec(firstresult=True)
def retry_decision(
    job: JobContext, task: TaskInfo, error: BaseException, proposed: RetryDecision
) -> RetryDecision | None:
    """Decide what follows a failed attempt (the retry filter).

    Called once per failed attempt, even if no retries are left. `proposed` is the decision of the call's
    retry policy, or of the task's policy if the call has none.

    The implementation must return a `RetryDecision`, or None for "not mine", which accepts the proposed one.
    The first plugin that returns something other than None decides, and no other plugin is called. An
    exception is logged and counts as None.

    Example:
        @hookimpl
        def retry_decision(error, proposed):
            if isinstance(error, TooManyRequests) and proposed.kind is DecisionKind.RETRY:
                return RetryDecision.snooze(error.retry_after)
    """


@hookspec(firstresult=True)
def elect_transition(job: ClaimedJob, proposed: Transition) -> Transition | None:
    """Replace the transition that is about to end an attempt (the state filter).

    Called once per ended attempt, before the transition is sent to the storage.

    The implementation must return a copy of the proposed transition with other values and the same guards
    (`job_id`, `from_states`, `session`, `fence`), or None to accept the proposed one. The first plugin that
    returns something other than None decides, and no other plugin is called. An exception is logged and
    counts as None.

    Example:
        @hookimpl
        def elect_transition(job, proposed):
            if proposed.to is State.FAILED and job.queue == "bulk":
                return attrs.evolve(proposed, to=State.DELETED)
    """


@hookspec
def attempt_failed(job: ClaimedJob, error: BaseException, transition: Transition) -> None:
    """Observe a failed attempt, its exception, and the decision about the job.

    Called once per failed attempt, in the worker, after everything is decided and before the outcome is sent
    to the storage. If the job has ended, `transition.to` is `failed` or `deleted`; otherwise the job runs
    again.

    Not called for a task that raises `RateLimited`, for a job that did not start in time, or for a task that
    raises an exception after its own transaction ended the job, because these are not failures. An exception
    is logged and does not affect any job.

    Example:
        @hookimpl
        def attempt_failed(job, error, transition):
            if transition.to is State.FAILED:
                page_on_call(job.task, error)
    """


@hookspec
def jobs_settled(settled: Sequence[Settled]) -> None:
    """Observe attempts whose outcome the storage has accepted.

    Called in the worker process, in a separate thread for the plugin, with up to 1,000 attempts at a time, in
    order. The attempts wait in a queue. If the hook is slower than the jobs, or if the process is killed, the
    hook misses some of them.

    Snoozes, `RateLimited` errors and jobs that did not start in time are included; `transition.reason`
    contains the reason. Runs that end in a wait are included too; their `transition.waits_for` is set. An
    exception is logged and does not affect any job.

    Example:
        @hookimpl
        def jobs_settled(settled):
            histogram.record_many(end.duration for end in settled)
    """


# ---- servers ---------------------------------------------------------------------------------------------


@hookspec
def server_started(server: ServerInfo) -> None:
    """Observe that a server has started to run jobs.

    Called once per server, in its first worker process. An exception is logged.

    Example:
        @hookimpl
        def server_started(server):
            log.info("up", extra={"server": server.name})
    """


@hookspec
def server_stopped(server: ServerInfo) -> None:
    """Observe that a server has stopped normally.

    Called once per server, in its first worker process, after its jobs have ended or have been handed back.
    An exception is logged.

    Example:
        @hookimpl
        def server_stopped(server):
            log.info("down", extra={"server": server.name})
    """


@hookspec
def worker_process_started(server: ServerInfo) -> None:
    """Prepare a process that runs jobs: for example, create a database engine or set up Django.

    Called once in each worker process and in each job process of `executor="process"`, before its first job.
    An exception ends the process, with its traceback.

    Example:
        @hookimpl
        def worker_process_started(server):
            django.setup()
    """


@hookspec
def worker_process_stopped(server: ServerInfo) -> None:
    """Clean up in a process that ran jobs.

    Called once in each worker process and in each job process of `executor="process"` that ends normally. An
    exception is logged.

    Example:
        @hookimpl
        def worker_process_stopped(server):
            engine.dispose()
    """
