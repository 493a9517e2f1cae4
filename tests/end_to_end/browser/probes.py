"""A storage in which every text that a page can show would run as a script if it were treated as markup."""

from __future__ import annotations

import json

import attrs

from firelock import Firelock, State
from firelock.model.ids import new_id
from firelock.model.job import NewJob
from firelock.storage import ErrorInfo, JobFilter, LogLine, NewSession, Progress
from tests.dashboard.worker import Worker

FIELDS = (
    "task", "queue", "tag", "argument", "key", "message", "type", "trace", "file", "reason", "log", "level",
    "progress", "result", "server", "host", "version", "listens", "note", "paused-by", "recurring", "target",
    "actor", "action", "detail", "operation-by", "operation-queue", "title", "meta", "meta-name",
)  # fmt: skip


def probe(field):
    """Return a text that contains its field, and that would run if it were treated as markup.

    The text for a queue would only become an element, because Redis accepts no queue name with a space.
    """
    if field == "queue":
        return f"\">'><xss>{field}"
    return f'">\'><img src=x onerror="window.xss=1">{field}'


def probed(storage):
    """Return an app on the storage, with a probe in each of the fields."""
    fire = Firelock(storage)
    fire.storage.migrate()

    @fire.task(name="plain")
    def plain(text: str) -> None:
        """Be made by hand."""

    fire.recurring.create(
        "plain", probe("recurring"), "@daily", {"text": probe("argument")}, by=probe("actor")
    )
    _insert(fire)
    _run(fire)
    fire.queues.pause("mail", note=probe("note"), by=probe("paused-by"))
    fire.audit.record(probe("action"), probe("target"), by=probe("actor"), detail={"of": probe("detail")})
    fire.operations.start("delete", JobFilter(queue=probe("operation-queue")), by=probe("operation-by"))
    return fire


def _insert(fire):
    """Insert jobs in several states, including values that only another program could write."""
    storage = fire.storage
    arguments = json.dumps({probe("key"): probe("argument")})
    new = NewJob(
        storage.new_ids(1)[0], probe("task"), arguments, "json", "mail", 0, State.ENQUEUED, storage.clock(),
        reason=probe("reason"), tags=(probe("tag"),),
        meta_json=json.dumps({probe("meta-name"): probe("meta")}),
    )  # fmt: skip
    kept = attrs.evolve(new, id=storage.new_ids(1)[0], queue=probe("queue"), recurring_id=probe("recurring"))
    due = attrs.evolve(new, id=storage.new_ids(1)[0], state=State.SCHEDULED, due_at=storage.clock() + 10**11)
    storage.insert([attrs.evolve(new, id=storage.new_ids(1)[0]) for _ in range(4)])
    storage.insert([kept, due])


def _run(fire):
    """Let one job fail, one wait for a retry, one succeed and one run; the other jobs wait."""
    storage = fire.storage
    storage.begin_session(
        NewSession(
            new_id(), new_id(), probe("server"), probe("host"), 7, storage.clock(), 600.0, 4,
            probe("listens"), probe("version"),
        )
    )  # fmt: skip
    worker = Worker(fire, probe("server"), queues=probe("listens"), timeout=600.0)
    trace = "\n".join(
        ("Traceback (most recent call last):", f'→ File "{probe("file")}", line 1, in {probe("trace")}',
         f"    {probe('trace')}", probe("trace"))
    )  # fmt: skip
    error = ErrorInfo(probe("type"), probe("message"), "f1", trace)
    failed, retried, done, running = (worker.claim() for _ in range(4))
    for job in (failed, running):
        lines = [LogLine(0, storage.clock(), probe("level"), probe("log"), job.attempt)]
        progress = Progress(4.0, 10.0, storage.clock(), probe("progress"))
        storage.append_logs({job.id: lines}, {job.id: progress})
    worker.fail(failed, error, reason=probe("reason"))
    worker.retry(retried, error)
    worker.succeed(done, json.dumps({probe("result"): [probe("result")]}))
