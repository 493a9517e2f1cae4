"""Celery's names without a counterpart, with their replacements in Firelock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from firelock.compat.celery.errors import NotMappedAttribute

CHORD: Final = (
    "use a flow: with app.fire.batch('NAME') as b: parts = [b.add(part.verbs, …), …]; "
    "b.add(body.verbs, [one.output for one in parts]); see docs/batches.md"
)
BY_HOOK: Final = "use the hook jobs_settled or retry_decision in a plugin (see docs/plugins.md)"
REFUSED_OPTIONS: Final = {
    "after_return": BY_HOOK,
    "base": "use a function that the tasks call, or a plugin (see docs/plugins.md)",
    "before_start": "use the hook job_context in a plugin (see docs/plugins.md)",
    "chord": CHORD,
    "compression": "pass a reference to large data",
    "exchange": "pass queue=",
    "group_id": "use a batch, which has an id: with app.fire.batch('NAME') as b: b.add(task.verbs, …)",
    "headers": "use the meta of a native job: task.verbs.using(meta={…})",
    "on_failure": BY_HOOK,
    "on_retry": BY_HOOK,
    "on_success": BY_HOOK,
    "producer": "to join your own transaction, use task.verbs.using(within=session)",
    "pydantic": "annotate parameters with dataclasses or attrs classes; values are converted to them",
    "rate_limit": "pass limits=[firelock.Limit('NAME', rate=10, per=60)], which is for all workers",
    "routing_key": "pass queue=",
    "shadow": "pass name= to the task",
    "soft_time_limit": (
        'pass time_limit= and executor="auto", so that the task is not killed, and call '
        "current_job().raise_if_cancelled() in it"
    ),
    "task_id": "the storage creates ids; keep result.id",
    "typing": "arguments are always checked against the signature",
}


def _hook(name: str) -> str:
    return f"use the hook {name} in a plugin (see docs/plugins.md)"


_BROKER: Final = "Firelock has no broker; use app.fire for jobs, queues and servers"
_CUT: Final = "split the list, and enqueue a job for each part: task.verbs.enqueue_many([(part,), …])"
_EACH: Final = "enqueue a job for each: task.verbs.enqueue_many([(one,), …])"
_LINK: Final = "pass link= or link_error= to the first call: apply_async(…, link_error=task.si(…))"
_LOGGING: Final = "configure logging in the app's module (see docs/observability.md)"
_RESULTS: Final = (
    "keep the result of group(…)(), or each result's id; with a batch, app.fire.batch('NAME'), a single id "
    "is enough: app.fire.batches.get(id)"
)
_RUN: Final = "call the task, or use firelock.testing (see docs/testing.md)"
_SELF: Final = "use bind=True to get the task as self, and firelock.current_job() to get its job"
_SERVER: Final = "run jobs with firelock server module:app.fire"
_SIGNATURE: Final = "use task.s(…)"
_TIME_OVER: Final = "a job that exceeds its time limit has the state FAILURE (see docs/server.md)"

REFUSED_NAMES: Final[Mapping[str, str]] = {
    "EagerResult": _RUN,
    "ImproperlyConfigured": "catch firelock.ConfigurationError",
    "NotRegistered": "catch firelock.UnknownTask",
    "OperationalError": "catch firelock.StorageUnavailable",
    "Reject": "raise an error to fail the job, or return Snooze(…) (see docs/retries.md)",
    "ResultSet": _RESULTS,
    "Signature": _SIGNATURE,
    "SoftTimeLimitExceeded": REFUSED_OPTIONS["soft_time_limit"],
    "Task": REFUSED_OPTIONS["base"],
    "TimeLimitExceeded": _TIME_OVER,
    "WorkerLostError": "a job runs again automatically if its process dies (see docs/reliability.md)",
    "after_setup_logger": _LOGGING,
    "after_setup_task_logger": _LOGGING,
    "after_task_publish": _hook("jobs_created"),
    "beat_embedded_init": _hook("server_started"),
    "beat_init": _hook("server_started"),
    "before_task_publish": _hook("job_options"),
    "celeryd_after_setup": _hook("server_started"),
    "celeryd_init": _hook("server_started"),
    "chord": CHORD,
    "chunks": _CUT,
    "current_app": "import the module that creates the app",
    "current_task": _SELF,
    "maybe_signature": _SIGNATURE,
    "setup_logging": _LOGGING,
    "signature": _SIGNATURE,
    "solar": "compute the times, and pass eta= for each job",
    "states": 'compare result.state with a string, such as "SUCCESS"',
    "subtask": _SIGNATURE,
    "task_failure": BY_HOOK,
    "task_internal_error": "read the server's log",
    "task_postrun": _hook("job_context"),
    "task_prerun": _hook("job_context"),
    "task_received": _hook("job_context"),
    "task_rejected": "such a job waits for a server that has its task; firelock doctor reports it",
    "task_retry": BY_HOOK,
    "task_revoked": _hook("jobs_settled"),
    "task_success": BY_HOOK,
    "task_unknown": "such a job waits for a server that has its task; firelock doctor reports it",
    "uuid": "the storage creates ids; keep result.id",
    "worker_init": _hook("server_started"),
    "worker_process_init": _hook("worker_process_started"),
    "worker_process_shutdown": _hook("worker_process_stopped"),
    "worker_ready": _hook("server_started"),
    "worker_shutdown": _hook("server_stopped"),
    "worker_shutting_down": _hook("server_stopped"),
    "xmap": _EACH,
    "xstarmap": _EACH,
}
_OF_JOB: Final = "use firelock.current_job()"
_OF_RESULT: Final = "use result.job, which is Firelock's handle of the job"
_OF_CANVAS: Final[Mapping[str, str]] = {
    "apply": _RUN, "freeze": _RESULTS, "link": _LINK, "link_error": _LINK, "on_error": _LINK,
}  # fmt: skip
_ATTRIBUTES: Final[Mapping[str, Mapping[str, str]]] = {
    "Celery": {
        "Beat": "Firelock has no beat, because every server fires due recurring jobs",
        "GroupResult": _RESULTS,
        "ResultSet": _RESULTS,
        "Task": REFUSED_OPTIONS["base"],
        "WorkController": _SERVER,
        "Worker": _SERVER,
        "amqp": _BROKER,
        "backend": "results are stored with the jobs; use app.fire.jobs",
        "broker_connection": _BROKER,
        "bugreport": "run firelock doctor",
        "close": "use app.fire.close()",
        "config_from_envvar": "use app.config_from_object(os.environ[…])",
        "connection": _BROKER,
        "connection_for_read": _BROKER,
        "connection_for_write": _BROKER,
        "connection_or_acquire": _BROKER,
        "current_task": _SELF,
        "current_worker_task": _SELF,
        "events": "use the hook jobs_settled, or firelock top",
        "finalize": "use app.fire, which creates the app from the registered tasks",
        "log": _LOGGING,
        "now": "use datetime.now(UTC)",
        "on_after_fork": _hook("worker_process_started"),
        "pool": _BROKER,
        "producer_or_acquire": _BROKER,
        "producer_pool": _BROKER,
        "register_task": REFUSED_OPTIONS["base"],
        "select_queues": "pass the queues of a server to firelock server --queues",
        "set_current": "the app that was created last is the current one",
        "set_default": "the app that was created last is the current one",
        "signature": "use app.tasks[name].s(…)",
        "steps": _hook("server_started"),
        "user_options": _hook("register_commands"),
    },
    "CeleryTask": {
        "add_around": REFUSED_OPTIONS["base"],
        "backend": "results are stored with the jobs; use app.fire.jobs",
        "chunks": _CUT,
        "map": _EACH,
        "pop_request": _RUN,
        "push_request": _RUN,
        "replace": (
            "call the other task, and return its result: "
            "return firelock.current_job().run('NAME', other.verbs, …) (see docs/steps.md)"
        ),
        "request_stack": _SELF,
        "send_event": _hook("jobs_settled"),
        "signature_from_request": "use self.s(*self.request.args, **self.request.kwargs)",
        "starmap": _EACH,
        "subtask_from_request": "use self.s(*self.request.args, **self.request.kwargs)",
    },
    "TaskRequest": dict.fromkeys(
        ("callbacks", "chain", "chord", "correlation_id", "errbacks", "eta", "expires", "group", "hostname",
         "origin", "parent_id", "reply_to", "timelimit"), _OF_JOB,
    ),
    "AsyncResult": {
        "args": _OF_RESULT,
        "backend": _OF_RESULT,
        "build_graph": _OF_RESULT,
        "children": _OF_RESULT,
        "collect": _OF_RESULT,
        "date_done": "use result.job.ended_at",
        "get_leaf": _OF_RESULT,
        "iterdeps": _OF_RESULT,
        "kwargs": _OF_RESULT,
        "maybe_throw": "use result.get(), which raises the error",
        "name": "use result.job.task",
        "queue": "use result.job.queue",
        "retries": "use result.job.retries",
        "then": "pass link= to the call, or use result.job.then(…)",
        "worker": "use result.job.server",
    },
    "GroupResult": {
        "children": "use .results",
        "delete": _RESULTS,
        "id": _RESULTS,
        "iter_native": "iterate over the results, and call get() on each",
        "join_native": "use .join()",
        "restore": _RESULTS,
        "save": _RESULTS,
    },
    "CelerySignature": _OF_CANVAS,
    "chain": _OF_CANVAS,
    "group": _OF_CANVAS,
}  # fmt: skip


class Refusing:
    """A base class whose objects raise an error with advice for an attribute that only Celery has."""

    __slots__ = ()

    if not TYPE_CHECKING:  # type checkers must see only the attributes that exist

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - never returns
            """Raise an error for a missing attribute; its message contains the replacement.

            Raises:
                NotMappedAttribute: If Celery has the attribute.
                AttributeError: If Celery does not have it either, or a property of that name raised.
            """
            for kind in type(self).__mro__:
                if (advice := _ATTRIBUTES.get(kind.__name__, {}).get(name)) is not None:
                    raise NotMappedAttribute(
                        f"The attribute {name!r} of {kind.__name__} has no counterpart: {advice}."
                    )
            return object.__getattribute__(self, name)  # raises the more specific error if a property failed
