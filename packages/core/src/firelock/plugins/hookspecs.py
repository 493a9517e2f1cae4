"""Every hook, grouped by phase. A plugin is a module, class or instance with functions of these names.

Hooks are synchronous and take batches; treat received values as read-only. A hook without an implementation
costs one boolean.
`docs/plugins.md` shows each with a working plugin.
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
    options: Mapping[str, object]  # those given by `using(...)` and the verb


@attrs.frozen
class ServerInfo:
    """A server, as its observers see it."""

    id: str
    name: str
    queues: str
    workers: int
    pid: int


@attrs.frozen
class Command:
    """A command line of a plugin: `firelock NAME …`."""

    name: str
    help: str
    configure: Callable[[argparse.ArgumentParser], None]  # adds its arguments
    run: Callable[[argparse.Namespace], int]
    """Returns the exit code. Of the options, `open_app()` returns the app that the command line, the
    environment or the project names, to be closed by the command; `is_json` is True under `--json`."""


# ---- registration: once, when an app or a command starts -------------------------------------------------


@hookspec
def register_hookspecs() -> object:
    """Bring hooks of your own, which other plugins may implement.

    Called once an app, when every plugin is there and before their hooks are checked. Returns a module or
    object whose functions under `@hookspec` are the hooks. An exception stops the start of the app.

    Example:
        @hookimpl
        def register_hookspecs():
            return shop.hookspecs
    """


@hookspec
def register_storages() -> Mapping[str, Callable[[str], Storage]]:  # type: ignore[empty-body]
    """Offer storages by URL scheme.

    Called once when plugins load. Returns scheme → factory; the factory takes the whole URL, does no I/O and
    imports its driver itself. Two plugins that offer one scheme are refused. An exception stops the start.

    Example:
        @hookimpl
        def register_storages():
            return {"mongodb": MongoStorage}
    """


@hookspec
def register_serializers() -> Mapping[str, Serializer]:  # type: ignore[empty-body]
    """Offer serializers by name; the name is stored with each job.

    Called once when plugins load. A name that is offered twice is refused, `json` is taken. An exception
    stops the start.

    Example:
        @hookimpl
        def register_serializers():
            return {"encrypted": EncryptedSerializer(keys)}
    """


@hookspec
def register_lock_providers() -> Mapping[str, Callable[[str], LockProvider]]:  # type: ignore[empty-body]
    """Offer lock providers by URL scheme, for `Firelock(locks="scheme://…")`.

    Called once when plugins load. Without one the storage's own locks serve. An exception stops the start.

    Example:
        @hookimpl
        def register_lock_providers():
            return {"etcd": EtcdLocks}
    """


@hookspec
def register_commands() -> Sequence[Command]:  # type: ignore[empty-body]
    """Offer commands to the command line.

    Called if the command line is given a command that is not its own, or lists all commands. A name that is
    taken is refused. An exception stops the program.

    Example:
        @hookimpl
        def register_commands():
            return [Command("vacuum", "Vacuum the file.", lambda parser: None, vacuum)]
    """


# ---- configuration: once an app, changes its argument ----------------------------------------------------


@hookspec
def configure_app(app: object) -> None:
    """Add to the app what the plugin brings: a task, a recurring job; or keep the app for later.

    Called once an app, a `Firelock`, when it has been made and before anybody has it. Nothing is connected
    yet, so that no verb may be called that reads or stores. An exception stops the start of the app.

    Example:
        @hookimpl
        def configure_app(self, app):
            self.tidy = app.task(tidy, name="shop.tidy")
    """


@hookspec
def configure_converter(converter: Converter) -> None:
    """Teach the app's cattrs converter more argument types.

    Called once an app, at the first argument that is not plain JSON. The argument is changed in place. An
    exception goes to the code that enqueues the job.

    Example:
        @hookimpl
        def configure_converter(converter):
            converter.register_unstructure_hook(Money, str)
            converter.register_structure_hook(Money, lambda text, _: Money.parse(text))
    """


# ---- creating --------------------------------------------------------------------------------------------


@hookspec
def job_options(task: TaskInfo, call: TaskCall) -> Mapping[str, object] | None:
    """Choose options for a job that is about to be created: the client filter.

    Called once a call, before anything is stored; not of a batch, which has no task. Returns options as
    `using(...)` takes them, or None. What the caller gave wins, then the first plugin that answers; of `meta`
    that holds for each name in it.
    An exception goes to the caller.

    Example:
        @hookimpl
        def job_options(task, call):
            return {"tags": [f"tenant:{tenant.get()}"]}
    """


@hookspec
def enqueue_context(
    task: TaskInfo | None, calls: Sequence[TaskCall], inherited: Mapping[str, str], made: Sequence[NewJob]
) -> AbstractContextManager[object] | None:
    """Wrap the creation of jobs, from before their options are chosen until they are stored or refused.

    Called once a verb that makes jobs, in the client's process: one call, or all of an `enqueue_many`. In
    the block of a batch once a member, or up to 500 of an `add_many`; it is left when they are gathered.
    `task` is None where these are of several tasks; `inherited` is the meta of the job that they continue;
    `made` is empty, and has the jobs when the context is left, where they are stored later: those that a
    block gathers and those that a job calls.
    Returns a context manager or None; it is left with the error where nothing, or not all, was stored. For
    an async verb it is entered in the asyncio task that awaits, and must not block. An exception of its own
    goes to the caller. Recurring jobs are defined without it.

    Example:
        @hookimpl
        def enqueue_context(calls):
            return tracer.start_as_current_span(f"enqueue {calls[0].task}")
    """


@hookspec
def batch_meta(name: str) -> Mapping[str, str] | None:
    """Choose what travels with a batch that is about to be made, and with what continues it.

    Called once a batch, in the client's process, before anything is stored. Returns texts by name, or None;
    for each name the first plugin that answers wins. Its members have none of it. An exception goes to the
    caller.

    Example:
        @hookimpl
        def batch_meta(name):
            return {"tenant": tenant.get()}
    """


@hookspec(firstresult=True)
def job_transaction(storage: Storage, within: object | None) -> OpenTransaction | None:
    """Choose the transaction that new jobs become part of, or that a job ends in.

    Called in the client's process with what the caller gave as `within`, or None: once per verb that stores
    jobs or sends a signal, once more for each uncommitted job that a new one waits for, and by
    `complete_within`. Async verbs call it only with a `within` that the caller gave.
    Returns an `OpenTransaction`, or None for "not mine", which leaves it at what the caller gave. An
    exception goes to the caller, and nothing is stored.
    The first plugin that answers something other than None decides, and no other is asked.

    Example:
        @hookimpl
        def job_transaction(within):
            if within is None and (unit := unit_of_work.get()):
                return OpenTransaction(unit.connection, unit.on_commit)
    """


@hookspec
def jobs_created(jobs: Sequence[NewJob]) -> None:
    """Learn of jobs after they were stored.

    Called once a stored batch, in the client's process; inside a caller's transaction the commit may still
    fail. A duplicate, whose unique key another job has, was not stored and is none of them. A batch is one
    of them, its `ties.batch` is set. An exception is logged and touches no job.

    Example:
        @hookimpl
        def jobs_created(jobs):
            counter.add(len(jobs))
    """


# ---- running ---------------------------------------------------------------------------------------------


@hookspec
def job_context(
    job: JobContext, task: TaskInfo
) -> AbstractContextManager[object] | AbstractAsyncContextManager[object] | None:
    """Wrap the run of a job: the server filter.

    Called once a run, in the worker, before the task. Returns a context manager or None; it is entered
    before the task and left after it, with the task's exception if there is one: for a `def` task in the
    very thread that runs it, for an `async def` task in the asyncio task that runs it, by `await` where the
    context manager has `__aenter__`. A job that waits, as by `job.sleep`, leaves it without an exception,
    `job.suspended` being true, and enters it again in its next run. A process that is killed leaves nothing.
    An exception of its own fails the attempt.

    Example:
        @hookimpl
        def job_context(job, task):
            return tracer.start_as_current_span(task.name)
    """


@hookspec(firstresult=True)
def retry_decision(
    job: JobContext, task: TaskInfo, error: BaseException, proposed: RetryDecision
) -> RetryDecision | None:
    """Decide what becomes of a failed attempt: the retry filter.

    Called once a failed attempt, also when the retries are exhausted. `proposed` is what the call's policy,
    or else the task's, makes of it. Returns a `RetryDecision`, or None for "not mine", which leaves it at the
    proposed one. An exception is logged and counts as None.
    The first plugin that answers something other than None decides, and no other is asked.

    Example:
        @hookimpl
        def retry_decision(error, proposed):
            if isinstance(error, TooManyRequests) and proposed.kind is DecisionKind.RETRY:
                return RetryDecision.snooze(error.retry_after)
    """


@hookspec(firstresult=True)
def elect_transition(job: ClaimedJob, proposed: Transition) -> Transition | None:
    """Replace the transition that an attempt is about to end with: the state filter.

    Called once an ended attempt, before it is sent to the storage. Returns a copy of the proposed transition
    with other values and the same guards, or None to accept the proposed one. An exception is logged and
    counts as None. The first plugin that answers something other than None decides, and no other is asked.

    Example:
        @hookimpl
        def elect_transition(job, proposed):
            if proposed.to is State.FAILED and job.queue == "bulk":
                return attrs.evolve(proposed, to=State.DELETED)
    """


@hookspec
def attempt_failed(job: ClaimedJob, error: BaseException, transition: Transition) -> None:
    """Learn of an attempt that failed, with the exception itself and what becomes of the job.

    Called once a failed attempt, in the worker, when everything is decided and before it is sent to the
    storage; `transition.to` is `failed` or `deleted` where the job is over, else it runs again. A task that
    raises `RateLimited`, or did not start in time, has not failed; nor has one that raises after its own
    transaction ended the job. An exception is logged and touches no job.

    Example:
        @hookimpl
        def attempt_failed(job, error, transition):
            if transition.to is State.FAILED:
                page_somebody(job.task, error)
    """


@hookspec
def jobs_settled(settled: Sequence[Settled]) -> None:
    """Learn of attempts whose end was accepted.

    Called for up to 1,000 ends at a time, in order, in the worker process, in a thread of the plugin. The
    ends wait in a queue. If the hook is slower than the jobs, or the process is killed, it misses some.
    Snoozes, `RateLimited` and jobs that did not start in time are among them: `transition.reason` says so. So
    are runs that end in a wait: `transition.waits_for` is set. An exception is logged and touches no job.

    Example:
        @hookimpl
        def jobs_settled(settled):
            histogram.record_many(end.duration for end in settled)
    """


# ---- servers ---------------------------------------------------------------------------------------------


@hookspec
def server_started(server: ServerInfo) -> None:
    """Learn that a server has begun to run jobs.

    Called once a server, in its first worker process. An exception is logged.

    Example:
        @hookimpl
        def server_started(server):
            log.info("up", extra={"server": server.name})
    """


@hookspec
def server_stopped(server: ServerInfo) -> None:
    """Learn that a server has ended in order.

    Called once a server, in its first worker process, after its jobs have ended or were handed back. An
    exception is logged.

    Example:
        @hookimpl
        def server_stopped(server):
            log.info("down", extra={"server": server.name})
    """


@hookspec
def worker_process_started(server: ServerInfo) -> None:
    """Prepare a process that runs jobs: open an engine, set Django up.

    Called once in each worker process and in each process of `executor="process"`, before its first job. An
    exception ends the process with its traceback.

    Example:
        @hookimpl
        def worker_process_started(server):
            django.setup()
    """


@hookspec
def worker_process_stopped(server: ServerInfo) -> None:
    """Clean up in a process that ran jobs.

    Called once in each worker process and in each process of `executor="process"` that ends in order. An
    exception is logged.

    Example:
        @hookimpl
        def worker_process_stopped(server):
            engine.dispose()
    """
