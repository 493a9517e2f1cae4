"""Each verb that reads or writes the storage has an async twin: an `a` before its name, equal arguments."""

from __future__ import annotations

import asyncio
import inspect
import keyword
import threading

import pytest

from firelock import Batch, Firelock, Job, JobContext, Lock, Signal
from firelock.memory import MemoryStorage
from firelock.server.embedded import EmbeddedServer
from firelock.task import TaskVerbs
from tests.core.fakes import Worker

# What waits for nothing, or has an async form of another kind, by the name of its class.
WAITS_FOR_NOTHING = {
    "Firelock": {
        "arguments_from_text", "declared_limits", "load_imports", "lock", "resource", "parameters", "server",
        "batch", "signal", "signal_named", "task", "task_named", "tasks", "texts_from_arguments",
        "use_storage",
    },
    # `async with`; `run` hears signals in the main thread; `status` is in memory
    "EmbeddedServer": {"run", "start", "status", "stop"},
    # `astep` takes an async function
    "JobContext": {
        "cancel", "fake", "key", "log", "progress", "raise_if_cancelled", "served_by", "step", "within",
    },
    "Lock": {"renew"},  # called by the keeper's thread; leaving it is `async with`
    "Job": {"as_source"},  # called by the client
    "Batch": {"as_source", "became", "of"},  # called by the client
    "Signal": {"decode", "encode", "named"},
    "TaskVerbs": {"call", "using"},
    "Recurring": {"add_or_update"},  # what `recur` and `arecur` of a task call
}  # fmt: skip


def public_classes():
    """Return what a user calls verbs of: the app, all that hangs on it, tasks, jobs, contexts and locks."""
    with Firelock(MemoryStorage()) as fire:
        parts = [type(part) for name, part in vars(fire).items() if not name.startswith("_")]
    parts = [part for part in parts if part.__module__.startswith("firelock.")]
    ours = [part for part in parts if "client" in inspect.signature(part).parameters]
    return [Firelock, *ours, TaskVerbs, Job, Batch, Signal, JobContext, Lock, EmbeddedServer]


def verbs():
    """Return every public verb that is no twin itself, of every public class."""
    return [
        (kind, name)
        for kind in public_classes()
        for name, verb in inspect.getmembers(kind, callable)
        if not name.startswith("_") and not is_twin(kind, name)
    ]


def is_twin(kind, name):
    return name.startswith("a") and callable(getattr(kind, name[1:].rstrip("_"), None))


def twin_of(kind, name):
    """Return the verb's async twin; a word of the language gets an underscore."""
    twin = f"a{name}"
    return getattr(kind, f"{twin}_" if keyword.iskeyword(twin) else twin, None)


def shape(verb):
    return [
        (one.name, one.kind, one.default, one.annotation)
        for one in inspect.signature(verb).parameters.values()
    ]


@pytest.mark.parametrize(("kind", "name"), verbs(), ids=[f"{kind.__name__}.{name}" for kind, name in verbs()])
def test_every_verb_that_waits_has_an_async_twin(kind, name):
    """With the same parameters; what waits for nothing is named above."""
    twin = twin_of(kind, name)
    is_exempt = name in WAITS_FOR_NOTHING.get(kind.__name__, ())

    assert is_exempt or twin is not None, f"{kind.__name__}.{name} has no async twin"
    if twin is not None and not is_exempt:
        assert shape(getattr(kind, name)) == shape(twin)


def test_only_verbs_that_there_are_wait_for_nothing():
    """The list above is no graveyard."""
    known = {kind.__name__: {name for owner, name in verbs() if owner is kind} for kind in public_classes()}

    stale = {(kind, name) for kind, names in WAITS_FOR_NOTHING.items() for name in names - known[kind]}

    assert set() == stale


def test_the_parts_of_an_app_are_walked():
    """A part that is added to the app is walked by itself."""
    names = {kind.__name__ for kind in public_classes()}

    assert {"Jobs", "Queues", "Servers", "Recurring", "Operations", "Audit", "Catalogue"} <= names


# ---- that twins do what they say, in another thread ------------------------------------------------------


class Watching(MemoryStorage):
    """A storage that notes in which threads it was called."""

    def __init__(self):
        super().__init__("")
        self.threads = set()

    def __getattribute__(self, name):
        if not name.startswith("_") and name in PLACES:
            object.__getattribute__(self, "threads").add(threading.get_ident())
        return object.__getattribute__(self, name)


PLACES = {
    name for name, _ in inspect.getmembers(MemoryStorage, inspect.isfunction) if not name.startswith("_")
}


@pytest.fixture
def fire():
    """An app over a storage that notes threads."""
    with Firelock(Watching()) as fire:
        yield fire


def add(a: int) -> int:
    return a


@pytest.fixture
def adding(fire):
    """A task."""
    return fire.task(name="add")(add)


def result_of(fire, coroutine):
    """Return what a coroutine returns, none of whose storage calls was made in this thread."""
    fire.storage.threads.clear()
    result = asyncio.run(coroutine)
    assert threading.get_ident() not in fire.storage.threads
    return result


def test_a_job_tells_its_life_by_coroutine(fire):
    """History, failed attempts, log, progress and record, as the verbs say them."""

    def talk(job: JobContext) -> None:
        job.log("half way")
        job.progress(1, 2)
        raise ValueError("boom")

    worker, job = Worker(fire), fire.task(name="talk")(talk).enqueue()
    worker.run()

    async def life():
        return (
            await job.ahistory(), await job.aerrors(), await job.alog(after=0, limit=5),
            await job.aprogress(), await job.arecord(),
        )  # fmt: skip

    told = result_of(fire, life())

    assert (job.history(), job.errors(), job.log(), job.progress(), job.record()) == told
    assert all(told)


def test_an_app_is_closed_by_coroutine(fire, adding):
    """What was open is closed when it has been awaited."""
    result_of(fire, fire.aclose())

    with pytest.raises(Exception, match="closed"):
        adding.enqueue(1).result()
