"""Celery's names without a counterpart, each with what to write with Firelock instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from firelock.compat.celery.errors import NotMappedAttribute

CHORD: Final = (
    "make a flow: with app.fire.batch('NAME') as b: parts = [b.add(part.verbs, …), …]; "
    "b.add(body.verbs, [one.output for one in parts]); see docs/batches.md"
)
BY_HOOK: Final = "implement the hook jobs_settled or retry_decision in a plugin, see docs/plugins.md"
REFUSED_OPTIONS: Final = {
    "after_return": BY_HOOK,
    "base": "write a function that the tasks call, or a plugin; see docs/plugins.md",
    "before_start": "implement the hook job_context in a plugin, see docs/plugins.md",
    "chord": CHORD,
    "compression": "pass a reference to what is large",
    "exchange": "give queue=",
    "group_id": "make a batch, which has an id: with app.fire.batch('NAME') as b: b.add(task.verbs, …)",
    "headers": "texts travel with a native job: task.verbs.using(meta={…})",
    "on_failure": BY_HOOK,
    "on_retry": BY_HOOK,
    "on_success": BY_HOOK,
    "producer": "a job joins your own transaction by task.verbs.using(within=session)",
    "pydantic": "annotate dataclasses or attrs classes; they come back as they were",
    "rate_limit": "give limits=[firelock.Limit('NAME', rate=10, per=60)], which counts over all workers",
    "routing_key": "give queue=",
    "shadow": "give the task a name: name=",
    "soft_time_limit": (
        'give time_limit= and executor="auto", by which the task is not killed, and call '
        "current_job().raise_if_cancelled() in it"
    ),
    "task_id": "ids are made by the storage; keep result.id",
    "typing": "arguments are always checked against the signature",
}


def _hook(name: str) -> str:
    return f"implement the hook {name} in a plugin, see docs/plugins.md"


_BROKER: Final = "there is no broker; app.fire has the jobs, queues and servers"
_CUT: Final = "cut the list, and enqueue a job for each part: task.verbs.enqueue_many([(part,), …])"
_EACH: Final = "enqueue a job for each: task.verbs.enqueue_many([(one,), …])"
_LINK: Final = "give the first call link= or link_error=: apply_async(…, link_error=task.si(…))"
_LOGGING: Final = "set logging up in the module of the app, see docs/observability.md"
_RESULTS: Final = (
    "keep what group(…)() returned, or each result's id; of a batch, app.fire.batch('NAME'), one id leads to "
    "all: app.fire.batches.get(id)"
)
_RUN: Final = "call the task, or use firelock.testing, see docs/testing.md"
_SELF: Final = "bind=True gives the task as self; firelock.current_job() gives its job"
_SERVER: Final = "run jobs by the command: firelock server module:app.fire"
_SIGNATURE: Final = "make it of the task: task.s(…)"
_TIME_OVER: Final = "a job that ran too long has state FAILURE; see docs/server.md"

REFUSED_NAMES: Final[Mapping[str, str]] = {
    "EagerResult": _RUN,
    "ImproperlyConfigured": "catch firelock.ConfigurationError",
    "NotRegistered": "catch firelock.UnknownTask",
    "OperationalError": "catch firelock.StorageUnavailable",
    "Reject": "raise an error, and the job fails; or return Snooze(…), see docs/retries.md",
    "ResultSet": _RESULTS,
    "Signature": _SIGNATURE,
    "SoftTimeLimitExceeded": REFUSED_OPTIONS["soft_time_limit"],
    "Task": REFUSED_OPTIONS["base"],
    "TimeLimitExceeded": _TIME_OVER,
    "WorkerLostError": "a job whose process died runs again by itself, see docs/reliability.md",
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
    "current_app": "import the module that makes the app",
    "current_task": _SELF,
    "maybe_signature": _SIGNATURE,
    "setup_logging": _LOGGING,
    "signature": _SIGNATURE,
    "solar": "compute the instants, and give each job eta=",
    "states": 'compare result.state with a text, such as "SUCCESS"',
    "subtask": _SIGNATURE,
    "task_failure": BY_HOOK,
    "task_internal_error": "the server's log has it",
    "task_postrun": _hook("job_context"),
    "task_prerun": _hook("job_context"),
    "task_received": _hook("job_context"),
    "task_rejected": "such a job waits for a server that knows its task; firelock doctor says so",
    "task_retry": BY_HOOK,
    "task_revoked": _hook("jobs_settled"),
    "task_success": BY_HOOK,
    "task_unknown": "such a job waits for a server that knows its task; firelock doctor says so",
    "uuid": "ids are made by the storage; keep result.id",
    "worker_init": _hook("server_started"),
    "worker_process_init": _hook("worker_process_started"),
    "worker_process_shutdown": _hook("worker_process_stopped"),
    "worker_ready": _hook("server_started"),
    "worker_shutdown": _hook("server_stopped"),
    "worker_shutting_down": _hook("server_stopped"),
    "xmap": _EACH,
    "xstarmap": _EACH,
}
_OF_JOB: Final = "ask firelock.current_job()"
_OF_RESULT: Final = "ask result.job, which is Firelock's handle of it"
_OF_CANVAS: Final[Mapping[str, str]] = {
    "apply": _RUN, "freeze": _RESULTS, "link": _LINK, "link_error": _LINK, "on_error": _LINK,
}  # fmt: skip
_ATTRIBUTES: Final[Mapping[str, Mapping[str, str]]] = {
    "Celery": {
        "Beat": "every server fires what is due, there is no beat",
        "GroupResult": _RESULTS,
        "ResultSet": _RESULTS,
        "Task": REFUSED_OPTIONS["base"],
        "WorkController": _SERVER,
        "Worker": _SERVER,
        "amqp": _BROKER,
        "backend": "results are where the jobs are: app.fire.jobs",
        "broker_connection": _BROKER,
        "bugreport": "ask firelock doctor",
        "close": "close the app behind it: app.fire.close()",
        "config_from_envvar": "app.config_from_object(os.environ[…])",
        "connection": _BROKER,
        "connection_for_read": _BROKER,
        "connection_for_write": _BROKER,
        "connection_or_acquire": _BROKER,
        "current_task": _SELF,
        "current_worker_task": _SELF,
        "events": "use the hook jobs_settled, or firelock top",
        "finalize": "app.fire makes the app of what is registered",
        "log": _LOGGING,
        "now": "write datetime.now(UTC)",
        "on_after_fork": _hook("worker_process_started"),
        "pool": _BROKER,
        "producer_or_acquire": _BROKER,
        "producer_pool": _BROKER,
        "register_task": REFUSED_OPTIONS["base"],
        "select_queues": "firelock server --queues says which queues a server takes",
        "set_current": "the app that is made last is the current one",
        "set_default": "the app that is made last is the current one",
        "signature": "make it of the task: app.tasks[name].s(…)",
        "steps": _hook("server_started"),
        "user_options": _hook("register_commands"),
    },
    "CeleryTask": {
        "add_around": REFUSED_OPTIONS["base"],
        "backend": "results are where the jobs are: app.fire.jobs",
        "chunks": _CUT,
        "map": _EACH,
        "pop_request": _RUN,
        "push_request": _RUN,
        "replace": (
            "call the other task, and return what it does: "
            "return firelock.current_job().run('NAME', other.verbs, …), see docs/steps.md"
        ),
        "request_stack": _SELF,
        "send_event": _hook("jobs_settled"),
        "signature_from_request": "self.s(*self.request.args, **self.request.kwargs)",
        "starmap": _EACH,
        "subtask_from_request": "self.s(*self.request.args, **self.request.kwargs)",
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
        "date_done": "write result.job.ended_at",
        "get_leaf": _OF_RESULT,
        "iterdeps": _OF_RESULT,
        "kwargs": _OF_RESULT,
        "maybe_throw": "result.get() raises the error",
        "name": "write result.job.task",
        "queue": "write result.job.queue",
        "retries": "write result.job.retries",
        "then": "give the call link=, or use result.job.then(…)",
        "worker": "write result.job.server",
    },
    "GroupResult": {
        "children": "write .results",
        "delete": _RESULTS,
        "id": _RESULTS,
        "iter_native": "iterate over it, and get() each",
        "join_native": "write .join()",
        "restore": _RESULTS,
        "save": _RESULTS,
    },
    "CelerySignature": _OF_CANVAS,
    "chain": _OF_CANVAS,
    "group": _OF_CANVAS,
}  # fmt: skip


class Refusing:
    """Base class that raises an error with advice for an attribute that only Celery's object has."""

    __slots__ = ()

    if not TYPE_CHECKING:  # type checkers must see only the attributes that exist

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - never returns
            """Raise an error that shows what to write instead of a missing attribute.

            Raises:
                NotMappedAttribute: Celery has the attribute.
                AttributeError: Celery does not have it either, or a property of that name raised.
            """
            for kind in type(self).__mro__:
                if (advice := _ATTRIBUTES.get(kind.__name__, {}).get(name)) is not None:
                    raise NotMappedAttribute(
                        f"The attribute {name!r} of {kind.__name__} has no counterpart: {advice}."
                    )
            return object.__getattribute__(self, name)  # raises the more exact error
