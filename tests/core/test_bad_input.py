"""Bad input gives one clear error: what happened, the value, what to do; and nothing is stored.

One table. Each entry names the mistake, what is done, the class of the error and words of its message.
"""

from __future__ import annotations

import io
import math
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import attrs
import pytest

from firelock import Cron, Every, Firelock, JobContext, Retry, Settings, hookimpl
from firelock.errors import (
    ArgumentError,
    ArgumentTooLarge,
    ConfigurationError,
    DuplicateTask,
    FirelockError,
    JobConflict,
    JobDeleted,
    JobNotFound,
    PluginError,
    ResultTimeout,
    ResultUnavailable,
    ScheduleError,
    SignatureMismatch,
    StorageError,
    StorageUnavailable,
    TaskError,
    UnknownScheme,
    UnsupportedFeature,
)
from firelock.memory import MemoryStorage
from firelock.serializer import JsonSerializer
from firelock.storage import CONTRACT
from tests.core.fakes import FailingStorage, Worker

LATER = datetime(2090, 1, 1, tzinfo=UTC)


def send(to: str, copies: int = 1) -> str:
    return to


def anything(value):
    return value


def by_context(job: JobContext, *, word: str): ...


class Entity:
    """Looks to us like a mapped row of SQLAlchemy."""

    _sa_class_manager = object()
    id = 7


class Desk:
    """An app with tasks, and what a mistake is made with."""

    def __init__(self):
        self.storage = FailingStorage()
        self.fire = Firelock(self.storage)
        self.send = self.fire.task(name="send")(send)
        self.anything = self.fire.task(name="anything")(anything)
        self.by_context = self.fire.task(name="by_context")(by_context)
        self.worker = Worker(self.fire)

    def app(self, *plugins, storage="memory://", **options):
        """Another app, closed at once: only its making counts."""
        Firelock(storage, plugins=list(plugins), **options).close()

    def after(self, prepare):
        """A job that was enqueued, to which this has happened; it is the one that may be stored."""
        job = self.send.enqueue("x")
        prepare(job)
        return job


@pytest.fixture
def desk():
    """Where mistakes are made."""
    desk = Desk()
    yield desk
    desk.fire.close()


def plugin(hook, answer, **marks):
    """A plugin with this hook."""
    return type("Mistaken", (), {hook: hookimpl(lambda self: answer, **marks)})


def unreachable():
    """A plugin whose storage cannot be reached."""

    class Away(MemoryStorage):
        def insert(self, jobs, *, within=None):
            raise StorageUnavailable("Cannot connect to db.example:5432: connection refused")

    return plugin("register_storages", {"away": lambda url: Away()})


class Raising:
    def __init__(self):
        raise RuntimeError("no licence")


class Misspelt:
    @hookimpl
    def job_created(self, jobs): ...


class WrongArgument:
    @hookimpl
    def jobs_created(self, job): ...


class OldStorage(MemoryStorage):
    contract = CONTRACT + 1


class Json(JsonSerializer):
    """Another serializer named json."""


def enqueue_away(desk):
    with Firelock("away://", plugins=[unreachable()]) as fire:
        fire.task(name="task")(send).enqueue("x")


def local_task(desk):
    def inner(): ...

    desk.fire.task(inner)


def endless():
    """A list that contains itself."""
    items = []
    items.append(items)
    return items


BAD = {
    # ---- configuration
    "unknown scheme": (
        lambda desk: desk.app(storage="mongo://host/db"),
        UnknownScheme,
        "No storage for scheme 'mongo'. Installed: ",
        "Install a plugin that offers it.",
    ),
    "scheme of an extra": (
        lambda desk: desk.app(storage="rediss+x://host"),
        UnknownScheme,
        "No storage for scheme 'rediss+x'",
        'pip install "firelock[redis]"',
    ),
    "URL that cannot be read": (
        lambda desk: desk.app(storage="memory://u:secret@[host"),
        ConfigurationError,
        "The storage URL of scheme 'memory' cannot be read; look at its brackets and its port.",
    ),
    "missing URL": (
        lambda desk: desk.app(storage=""),
        ConfigurationError,
        "No storage is named.",
        'Firelock("sqlite:///jobs.db")',
        "FIRELOCK_STORAGE",
    ),
    "URL without ://": (
        lambda desk: desk.app(storage="jobs.db"),
        ConfigurationError,
        "'jobs.db' is not a storage URL; write scheme://…",
        "sqlite:///jobs.db",
    ),
    "no storage at all": (
        lambda desk: desk.app(storage=7),
        ConfigurationError,
        "7 is no storage; pass a URL, a firelock.storage.Storage or a SQLAlchemy Engine.",
    ),
    "unreachable storage": (
        enqueue_away,
        StorageUnavailable,
        "Cannot connect to db.example:5432: connection refused",
    ),
    "unknown serializer": (
        lambda desk: desk.app(serializer="xml"),
        ConfigurationError,
        "Serializer 'xml' is unknown. Installed: json.",
    ),
    "unknown lock scheme": (
        lambda desk: desk.app(locks="etcd://host"),
        UnknownScheme,
        "No lock provider for scheme 'etcd'.",
        "Install one that offers it.",
    ),
    "lock URL without ://": (
        lambda desk: desk.app(locks="etcd"),
        ConfigurationError,
        "'etcd' is not the URL of a lock provider; write scheme://",
    ),
    "imports of one text": (
        lambda desk: desk.app(imports="app.tasks"),
        ConfigurationError,
        "imports='app.tasks' is no list of module names",
        'imports=["app.tasks"]',
    ),
    "one plugin without its list": (
        lambda desk: Firelock("memory://", plugins=Misspelt),
        ConfigurationError,
        "is no list; write plugins=[",
    ),
    "lease below three renewals": (
        lambda desk: Settings(session_timeout=20),
        ConfigurationError,
        "session_timeout 20 s is less than three heartbeats of 10 s",
        "Raise it or lower heartbeat.",
    ),
    "poll of zero": (
        lambda desk: Settings(poll=0),
        ConfigurationError,
        "Setting poll is 0; it takes a number from 0.01 to 60.",
    ),
    "workers below zero": (
        lambda desk: Settings(workers=-1),
        ConfigurationError,
        "Setting workers is -1; it takes a whole number from 0 to 10000.",
    ),
    "a million workers": (
        lambda desk: desk.fire.server(workers=10**6),
        ConfigurationError,
        "workers=1000000 is refused; pass a whole number from 1 to 10000.",
    ),
    "a number in words": (
        lambda desk: Settings.from_environment(environment={"FIRELOCK_POLL": "soon"}),
        ConfigurationError,
        "FIRELOCK_POLL='soon' is not a number.",
    ),
    # ---- plugins
    "plugin that raises": (
        lambda desk: desk.app(Raising),
        PluginError,
        "Plugin 'Raising#0' of app failed to load: RuntimeError: no licence. Mend it.",
    ),
    "misspelt hook": (
        lambda desk: desk.app(Misspelt),
        PluginError,
        "A plugin implements a hook that does not exist",
        "job_created",
        "register_storages",
    ),
    "misspelt argument of a hook": (
        lambda desk: desk.app(WrongArgument),
        PluginError,
        "Plugin 'WrongArgument#0' of app cannot be registered",
        "job",
    ),
    "hook wrapper": (
        lambda desk: desk.app(plugin("jobs_settled", None, hookwrapper=True)),
        PluginError,
        "cannot be registered",
    ),
    "storage scheme twice": (
        lambda desk: desk.app(plugin("register_storages", {"memory": MemoryStorage})),
        PluginError,
        "Plugins 'core' and 'Mistaken#0' both offer the storage scheme 'memory'; keep one.",
    ),
    "serializer twice": (
        lambda desk: desk.app(plugin("register_serializers", {"json": Json()})),
        PluginError,
        "Plugins 'core' and 'Mistaken#0' both offer the serializer 'json'; keep one.",
    ),
    "plugin twice": (
        lambda desk: desk.app(same := Misspelt(), same),
        PluginError,
        "'Misspelt#1' of app cannot be registered",
    ),
    "storage of another contract": (
        lambda desk: desk.app(storage=OldStorage()),
        PluginError,
        f"OldStorage speaks version {CONTRACT + 1} of the storage contract, this Firelock version",
        "Install a version of the plugin that matches.",
    ),
    "factory that returns something else": (
        lambda desk: desk.app(plugin("register_storages", {"odd": lambda url: url}), storage="odd://"),
        PluginError,
        "The plugin for 'odd' returned str, no firelock.storage.Storage.",
    ),
    "offer that is no mapping": (
        lambda desk: desk.app(plugin("register_storages", ["odd"])),
        PluginError,
        "Plugin 'Mistaken#0' answered register_storages with ['odd']; it takes a mapping by name.",
    ),
    # ---- tasks
    "task in a closure": (
        local_task,
        TaskError,
        "inner is defined inside a function, or is a lambda",
        '@fire.task(name="…")',
    ),
    "lambda as a task": (
        lambda desk: desk.fire.task(lambda: None),
        TaskError,
        "<lambda>",
        "another process cannot find it",
    ),
    "class as a task": (
        lambda desk: desk.fire.task(Entity),
        TaskError,
        "Entity cannot be a task: it is a class",
    ),
    "coroutine instead of its function": (
        lambda desk: desk.fire.task("send"),
        TaskError,
        "cannot be a task: it is not a function",
    ),
    "duplicate task": (
        lambda desk: desk.fire.task(name="send")(anything),
        DuplicateTask,
        "Task name 'send' is taken: by ",
        "test_bad_input.py:",
        "Rename one, or pin a name",
    ),
    "task name with a space": (
        lambda desk: desk.fire.task(name="send mail")(send),
        TaskError,
        "Task name 'send mail' is refused; use 1 to 200 of letters, digits",
    ),
    "unknown option of a task": (
        lambda desk: desk.fire.task(quee="x")(send),
        ConfigurationError,
        "Task option 'quee' is unknown; use one of name, queue",
    ),
    "tag of no parameter": (
        lambda desk: desk.fire.task(name="t", tags=["user:{user}"])(send).enqueue("x"),
        TaskError,
        "Tag 'user:{user}' names 'user'. Parameters that can be named plainly: to, copies",
    ),
    "server without tasks": (
        lambda desk: Firelock("memory://").server().start(),
        ConfigurationError,
        "This server has no task to run.",
        "@fire.task",
        "--import",
    ),
    # ---- options
    "queue in capitals": (
        lambda desk: desk.send.using(queue="Mail").enqueue("x"),
        ConfigurationError,
        "Queue name 'Mail' is refused; use 1 to 64 of a-z, 0-9, '_', '.', '-'.",
    ),
    "queue of 65 letters": (
        lambda desk: desk.fire.task(name="t", queue="q" * 65)(send),
        ConfigurationError,
        "is refused; use 1 to 64",
    ),
    "queue to pause without a name": (
        lambda desk: desk.fire.queues.pause(""),
        ConfigurationError,
        "Queue name '' is refused",
    ),
    "queues of a server": (
        lambda desk: desk.fire.server(queues="a:0"),
        ConfigurationError,
        "weight '0' is no whole number from 1 to 1000",
    ),
    "priority above 100": (
        lambda desk: desk.send.using(priority=101),
        ConfigurationError,
        "Priority 101 is refused; use a whole number from -100 to 100.",
    ),
    "priority of 5,000 digits": (
        lambda desk: desk.send.using(priority=10**5000),
        ConfigurationError,
        "Priority a value of type int",
    ),
    **{
        f"timeout {timeout!r}": (
            lambda desk, timeout=timeout: desk.send.using(timeout=timeout),
            ConfigurationError,
            f"Timeout {timeout!r} is refused; pass a timedelta or seconds, above zero and up to a year.",
        )
        for timeout in (0, -1, math.inf, math.nan, "5")
    },
    "retry of a number": (
        lambda desk: desk.fire.task(name="t", retry=3)(send),
        ConfigurationError,
        "retry=3 is no policy; write retry=Retry(attempts=3).",
    ),
    "retries below zero": (
        lambda desk: Retry(attempts=-1),
        ConfigurationError,
        "attempts=-1 is not a whole number from 0 to 1000",
    ),
    "a billion retries": (
        lambda desk: Retry(attempts=10**9),
        ConfigurationError,
        "attempts=1000000000",
        "from 0 to 1000",
    ),
    "retries as a truth value": (lambda desk: Retry(attempts=True), ConfigurationError, "attempts=True"),
    "waits below zero": (lambda desk: Retry.fixed(-1), ConfigurationError, "delay=-1 is no wait"),
    "tags of one text": (
        lambda desk: desk.send.using(tags="vip"),
        ConfigurationError,
        "tags='vip' is one text",
        "tags=['vip']",
    ),
    "unprintable tag": (
        lambda desk: desk.send.using(tags=["a\0"]).enqueue("x"),
        ArgumentError,
        "characters that cannot be printed",
    ),
    "on= outside of then()": (
        lambda desk: desk.send.using(on="failed").enqueue("x"),
        ConfigurationError,
        "on='failed' says what a continuation waits for; use it with job.then(…).",
    ),
    "unknown on=": (
        lambda desk: desk.send.using(on="success"),
        ConfigurationError,
        "on='success' is unknown; use one of succeeded, failed, deleted, finished.",
    ),
    "transaction of a storage without": (
        lambda desk: desk.send.using(within=object()).enqueue("x"),
        UnsupportedFeature,
        "has no transactions to join; enqueue without within=.",
    ),
    "calls of several transactions": (
        lambda desk: desk.fire.enqueue_many([desk.send.call("x"), desk.send.using(within=desk).call("y")]),
        ConfigurationError,
        "name different transactions; give each its own call.",
    ),
    # ---- time
    "naive datetime": (
        lambda desk: desk.send.schedule(datetime(2090, 1, 1), "x"),  # noqa: DTZ001 - that is the mistake
        ScheduleError,
        "2090-01-01T00:00:00 has no time zone. Pass an aware datetime",
    ),
    "date instead of a datetime": (
        lambda desk: desk.send.using(at=date(2090, 1, 1)).enqueue("x"),
        ScheduleError,
        "at=datetime.date(2090, 1, 1) is no datetime; pass an aware one",
    ),
    "negative delay": (
        lambda desk: desk.send.schedule(-5, "x"),
        ScheduleError,
        "Delay -5 is negative; pass zero or more.",
    ),
    "delay that is no number": (
        lambda desk: desk.send.schedule(math.nan, "x"),
        ScheduleError,
        "Delay nan is refused; pass a timedelta or a number of seconds.",
    ),
    "delay beyond the year 9999": (
        lambda desk: desk.send.schedule(1e18, "x"),
        ScheduleError,
        "Delay 1e+18 ends after the year 9999; pass a shorter one.",
    ),
    "delay and instant": (
        lambda desk: desk.send.using(delay=5, at=LATER),
        ConfigurationError,
        "give one of the two",
    ),
    "cron of four fields": (
        lambda desk: desk.send.recur("id", "* * * *", "x"),
        ScheduleError,
        "'* * * *'",
    ),
    "cron minute 60": (lambda desk: desk.send.recur("id", "60 * * * *", "x"), ScheduleError, "60"),
    "cron of a day that never comes": (
        lambda desk: desk.send.recur("id", "0 0 30 2 *", "x"),
        ScheduleError,
        "'0 0 30 2 *'",
    ),
    "unknown zone": (
        lambda desk: desk.send.recur("id", Cron("0 2 * * *", tz="Mars/X"), "x"),
        ScheduleError,
        "Unknown time zone 'Mars/X'. Use an IANA name",
    ),
    "zone that is a path": (
        lambda desk: Cron("0 2 * * *", tz="../../etc/passwd"),
        ScheduleError,
        "Unknown time zone",
    ),
    "interval of nothing": (lambda desk: Every(timedelta(0)), ScheduleError, "is not a timedelta from"),
    "recurring id with a line end": (
        lambda desk: desk.send.recur("a\nb", "0 2 * * *", "x"),
        ConfigurationError,
        r"Recurring id 'a\nb' is refused; use 1 to 200 printable characters.",
    ),
    **{
        f"recurring with {name}": (
            lambda desk, name=name, value=value: desk.send.using(**{name: value}).recur(
                "id", "0 2 * * *", "x"
            ),
            ConfigurationError,
            f"A recurring job takes no {name}; its schedule says when it runs.",
        )
        for name, value in (("delay", 5), ("at", LATER), ("on", "failed"), ("within", object()))
    },
    "recurring declared twice": (
        lambda desk: [desk.fire.recurring("id", "0 2 * * *")(desk.send) for _ in range(2)],
        ConfigurationError,
        "Recurring job 'id' is declared twice in this app; rename one.",
    ),
    # ---- calls and arguments
    "missing argument": (lambda desk: desk.send.enqueue(), SignatureMismatch, "send", "'to'"),
    "argument too many": (lambda desk: desk.send.enqueue("x", 1, 2), SignatureMismatch, "send"),
    "argument by a wrong name": (
        lambda desk: desk.send.enqueue("x", size=1),
        SignatureMismatch,
        "send",
        "'size'",
    ),
    "context passed by the caller": (
        lambda desk: desk.by_context.enqueue(JobContext.fake(), word="x"),
        SignatureMismatch,
        "by_context",
    ),
    "argument of another type": (
        lambda desk: desk.send.enqueue(7),
        ArgumentError,
        "send.enqueue(to): argument 'to' (position 1) of type int: int where str is annotated",
        "pass str",
    ),
    "entity": (
        lambda desk: desk.anything.enqueue(Entity()),
        ArgumentError,
        "anything.enqueue(value) passes the entity Entity as argument 'value' (position 1)",
        "pass value.id and load the Entity inside the task",
    ),
    "open file": (
        lambda desk: desk.anything.enqueue(io.StringIO()),
        ArgumentError,
        "passes an open file (StringIO)",
        "pass its path or its content",
    ),
    "open file inside of a list": (
        lambda desk: desk.anything.enqueue([{"file": io.BytesIO()}]),
        ArgumentError,
        "passes an open file (BytesIO)",
        "at $.value[0].file",
    ),
    "lambda as an argument": (
        lambda desk: desk.anything.enqueue(lambda: None),
        ArgumentError,
        "passes a function",
    ),
    "argument of 33 KiB": (
        lambda desk: desk.send.enqueue("x" * 33 * 1024),
        ArgumentTooLarge,
        "send has 33,801 bytes of arguments; the largest is 'to'",
        "The limit is 32,768: store it elsewhere",
    ),
    "tuple where anything is annotated": (
        lambda desk: desk.anything.enqueue((1, 2)),
        ArgumentError,
        "of type tuple",
        "pass a list",
    ),
    "set where anything is annotated": (
        lambda desk: desk.anything.enqueue({1}),
        ArgumentError,
        "of type set",
    ),
    "not a number as an argument": (
        lambda desk: desk.anything.enqueue({"deep": [math.nan]}),
        ArgumentError,
        "JSON has no NaN and no infinity",
    ),
    "keys that are no text": (lambda desk: desk.anything.enqueue({1: 2}), ArgumentError, "use text as keys"),
    "list that contains itself": (
        lambda desk: desk.anything.enqueue(endless()),
        ArgumentError,
        "nested deeper than",
    ),
    "lone surrogate": (lambda desk: desk.send.enqueue("\ud800"), ArgumentError, "lone surrogate in text"),
    "integer of 5,000 digits": (
        lambda desk: desk.anything.enqueue(10**5000),
        ArgumentError,
        "integer out of range",
        "pass it as text",
    ),
    "many of one text": (
        lambda desk: desk.send.enqueue_many(["ab"]),
        TaskError,
        "enqueue_many takes a tuple of arguments for each job, not 'ab'",
        "task.enqueue_many([(1,), (2,)])",
    ),
    "many that are no calls": (
        lambda desk: desk.fire.enqueue_many([desk.send]),
        TaskError,
        "fire.enqueue_many takes what task.call(…) returns, not <Task send>.",
    ),
    # ---- locks
    "lock without a name": (
        lambda desk: desk.fire.lock(""),
        ConfigurationError,
        "Lock name '' is refused; use 1 to 200 printable characters.",
    ),
    "names of 10 kB": (
        lambda desk: desk.fire.lock("x" * 10_000),
        ConfigurationError,
        "is refused; use 1 to 200 printable",
    ),
    "lock with a line end": (
        lambda desk: desk.fire.lock("a\n"),
        ConfigurationError,
        r"Lock name 'a\n' is refused",
    ),
    "lock that waits a negative time": (
        lambda desk: desk.fire.lock("x", timeout=-1),
        ConfigurationError,
        "timeout ≥ 0",
        "not -1 and 30.",
    ),
    "lock that lives no time": (
        lambda desk: desk.fire.alock("x", ttl=0),
        ConfigurationError,
        "ttl > 0 seconds",
        "not 5 and 0.",
    ),
    # ---- looking
    "unknown job": (
        lambda desk: desk.fire.jobs.get("nobody"),
        JobNotFound,
        "Job 'nobody' is not stored: the id is wrong, or the job has been pruned.",
    ),
    "job id of 10 kB": (lambda desk: desk.fire.jobs.get("x" * 10_000), JobNotFound, "is not stored"),
    "unknown state": (
        lambda desk: desk.fire.jobs.find(state="running"),
        ConfigurationError,
        "state='running' is unknown; use one of awaiting, scheduled",
    ),
    "page of none": (
        lambda desk: desk.fire.jobs.find(limit=0),
        ConfigurationError,
        "limit=0 is refused; a page holds 1 to 500 jobs.",
    ),
    "one id for many": (
        lambda desk: desk.fire.jobs.delete("an-id"),
        ConfigurationError,
        "ids='an-id' is one text; pass a list",
    ),
    "unknown recurring job": (
        lambda desk: desk.fire.recurring.pause("nobody"),
        JobNotFound,
        "No recurring job 'nobody' is stored.",
    ),
    "unknown order to a server": (
        lambda desk: desk.fire.servers.tell("id", "restart"),
        ConfigurationError,
        "Order 'restart' is unknown; use quiet, resume or stop.",
    ),
}


@pytest.mark.filterwarnings("ignore::firelock.arguments.signature.LargeArgumentsWarning")
@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_is_one_clear_error_and_stores_nothing(desk, mistake):
    """The class says what to catch, the message what happened, to which value, and what to do."""
    act, kind, *words = BAD[mistake]

    with pytest.raises(FirelockError) as caught:
        act(desk)

    message = str(caught.value)
    assert kind is type(caught.value)
    assert [] == [part for part in words if part not in message], message
    assert 1_000 > len(message)
    assert {} == desk.fire.storage.counts().by_state
    assert [] == desk.fire.recurring.list()
    assert [] == desk.fire.queues.list()


# ---- verbs that a job's state does not allow, on the one job that is stored ------------------------------

ON_A_JOB = {
    "requeue of an enqueued job": (
        lambda job: None,
        lambda desk, job: job.requeue(),
        JobConflict,
        "is enqueued; it cannot be requeued: it runs anyway.",
    ),
    "delete of a deleted job": (
        lambda job: job.delete(),
        lambda desk, job: job.delete(),
        JobConflict,
        "is deleted; it cannot be deleted: it is already.",
    ),
    "result of a deleted job": (
        lambda job: job.delete(),
        lambda desk, job: job.result(),
        JobDeleted,
        "(send) was deleted: deleted by code.",
    ),
    "result that is not there in time": (
        lambda job: None,
        lambda desk, job: job.result(timeout=0),
        ResultTimeout,
        "had not ended within 0 s",
    ),
    "continuation with a delay": (
        lambda job: None,
        lambda desk, job: job.then(desk.send.using(delay=5), "x"),
        ConfigurationError,
        "delay and at cannot be given with then().",
    ),
    "continuation that is no task": (
        lambda job: None,
        lambda desk, job: job.then(send, "x"),
        TaskError,
        "then() takes a task, then its arguments: job.then(task, …)",
    ),
    "continuation with wrong arguments": (
        lambda job: None,
        lambda desk, job: job.then(desk.send),
        SignatureMismatch,
        "'to'",
    ),
}


@pytest.mark.parametrize("mistake", ON_A_JOB)
def test_a_mistake_with_a_job_changes_nothing(desk, mistake):
    """One clear error; the job is as it was, and no other is stored."""
    prepare, act, kind, *words = ON_A_JOB[mistake]
    job = desk.after(prepare)
    before = job.refresh().record()

    with pytest.raises(FirelockError) as caught:
        act(desk, job)

    assert kind is type(caught.value)
    assert [] == [part for part in words if part not in str(caught.value)], str(caught.value)
    assert (before, 1) == (job.refresh().record(), sum(desk.fire.jobs.counts().by_state.values()))


def test_a_continuation_of_an_unknown_parent_is_refused(desk):
    """The message names both jobs; nothing is stored."""
    parent = desk.send.enqueue("x")
    desk.storage.clear()

    with pytest.raises(JobNotFound, match=f"is to wait for {parent.id}, which is not stored"):
        parent.then(desk.send, "y")

    assert {} == desk.fire.storage.counts().by_state


@attrs.frozen
class Unheard:
    """What no one has taught the converter."""

    inner: object


@pytest.mark.parametrize(
    "result", [Unheard(object()), object(), {1, 2}, float("nan"), "x" * 300_000, lambda: None]
)
def test_a_result_that_cannot_be_stored_is_no_failure(desk, result):
    """The job succeeds; asking for its result says why there is none."""
    job = desk.fire.task(name="gives")(lambda: result).enqueue()

    desk.worker.run()

    assert "succeeded" == job.refresh().state
    with pytest.raises(
        ResultUnavailable, match=rf"{job.id} \(gives\) succeeded: the result was not stored: "
    ):
        job.result()


def test_after_the_close_every_verb_says_so(desk):
    """At once; none hangs, none pretends."""
    job = desk.send.enqueue("x")
    desk.fire.close()

    for verb in (
        lambda: desk.send.enqueue("x"),
        lambda: desk.send.enqueue_many([("x",)]),
        lambda: desk.send.schedule(5, "x"),
        lambda: desk.send.recur("id", "0 2 * * *", "x"),
        job.refresh,
        job.result,
        job.requeue,
        job.delete,
        lambda: job.then(desk.send, "x"),
        desk.fire.jobs.find,
        desk.fire.jobs.counts,
        desk.fire.queues.list,
        desk.fire.servers.list,
        desk.fire.recurring.list,
        desk.fire.recurring.sync and desk.fire.server().start,
        desk.fire.lock("x").__enter__,
    ):
        with pytest.raises(StorageError, match=r"closed; (open|make) a new"):
            verb()


FORKED = """
import os, sys
from firelock import Firelock
fire = Firelock("memory://")
task = fire.task(name="task")(lambda: None)
task.enqueue()
child = os.fork()
task.enqueue()
counts = sum(fire.jobs.counts().by_state.values())
if child:
    os.waitpid(child, 0)
print("parent" if child else "child", counts, flush=True)
"""


def test_memory_is_each_process_s_own_after_a_fork():
    """A forked process goes on with a copy: neither sees the other's jobs, as `MemoryStorage` says."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=True
    )

    assert ["child 2", "parent 2"] == done.stdout.splitlines()
    assert "gone with the process, unseen by any other." in MemoryStorage.__doc__
