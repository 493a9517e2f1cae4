"""Across modules: each method that uses the storage has an async twin with the same parameters."""

from __future__ import annotations

import asyncio
import inspect
import keyword
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest

from firelock import Batch, Firelock, Job, JobContext, Lock, Signal
from firelock.model.aio import BlockingCalls, in_thread
from firelock.server.embedded import EmbeddedServer
from firelock.storage.memory import MemoryStorage
from firelock.task import TaskVerbs
from tests.core.fakes import Worker, until

# Methods that do not block, or that have another async form, by the name of their class.
WAITS_FOR_NOTHING = {
    "Firelock": {
        "arguments_from_text", "declared_limits", "load_imports", "lock", "resource", "parameters", "server",
        "batch", "signal", "signal_named", "task", "task_named", "tasks", "texts_from_arguments",
        "use_storage",
    },
    # `async with`; `run` handles signals in the main thread; `status` is in memory
    "EmbeddedServer": {"run", "start", "status", "stop"},
    # `astep` takes an async function
    "JobContext": {
        "cancel", "fake", "key", "log", "progress", "raise_if_cancelled", "served_by", "step", "within",
    },
    "Lock": {"renew"},  # called by the renewing thread; `async with` releases the lock
    "Job": {"as_source", "explain"},  # called by the client
    "Batch": {"as_source", "became", "explain", "of"},  # called by the client
    "Signal": {"decode", "encode", "named", "parameters", "payload_from_text"},
    "TaskVerbs": {"call", "using"},
    "Recurring": {"add_or_update"},  # called by `recur` and `arecur` of a task
}  # fmt: skip


def public_classes():
    """Return the classes whose methods users call: the app, its parts, tasks, jobs, contexts and locks."""
    with Firelock(MemoryStorage()) as fire:
        parts = [type(part) for name, part in vars(fire).items() if not name.startswith("_")]
    parts = [part for part in parts if part.__module__.startswith("firelock.")]
    ours = [part for part in parts if "client" in inspect.signature(part).parameters]
    return [Firelock, *ours, TaskVerbs, Job, Batch, Signal, JobContext, Lock, EmbeddedServer]


def verbs():
    """Return every public method of every public class, without the twins."""
    return [
        (kind, name)
        for kind in public_classes()
        for name, verb in inspect.getmembers(kind, callable)
        if not name.startswith("_") and not is_twin(kind, name)
    ]


def is_twin(kind, name):
    return name.startswith("a") and callable(getattr(kind, name[1:].rstrip("_"), None))


def twin_of(kind, name):
    """Return the method's async twin; a twin whose name is a keyword has an underscore."""
    twin = f"a{name}"
    return getattr(kind, f"{twin}_" if keyword.iskeyword(twin) else twin, None)


def shape(verb):
    return [
        (one.name, one.kind, one.default, one.annotation)
        for one in inspect.signature(verb).parameters.values()
    ]


@pytest.mark.parametrize(("kind", "name"), verbs(), ids=[f"{kind.__name__}.{name}" for kind, name in verbs()])
def test_blocking_method_has_async_twin_with_same_parameters(kind, name):
    """`WAITS_FOR_NOTHING` lists the exempt methods."""
    twin = twin_of(kind, name)
    is_exempt = name in WAITS_FOR_NOTHING.get(kind.__name__, ())

    assert is_exempt or twin is not None, f"{kind.__name__}.{name} has no async twin"
    if twin is not None and not is_exempt:
        assert shape(getattr(kind, name)) == shape(twin)


def test_list_of_exempt_methods_contains_only_existing_methods():
    known = {kind.__name__: {name for owner, name in verbs() if owner is kind} for kind in public_classes()}

    stale = {(kind, name) for kind, names in WAITS_FOR_NOTHING.items() for name in names - known[kind]}

    assert set() == stale


def test_parts_of_an_app_are_checked():
    """A part that is added to the app is checked automatically."""
    names = {kind.__name__ for kind in public_classes()}

    assert {"Jobs", "Queues", "Servers", "Recurring", "Operations", "Audit", "Catalogue"} <= names


# ---- calls in other threads ------------------------------------------------------


class Watching(MemoryStorage):
    """A storage that records the threads that call it."""

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
    """An app over a storage that records threads."""
    with Firelock(Watching()) as fire:
        yield fire


def add(a: int) -> int:
    return a


@pytest.fixture
def adding(fire):
    """A task."""
    return fire.task(name="add")(add)


def result_of(fire, coroutine):
    """Return the result of a coroutine, which must not call the storage in this thread."""
    fire.storage.threads.clear()
    result = asyncio.run(coroutine)
    assert threading.get_ident() not in fire.storage.threads
    return result


def test_async_job_methods_return_the_same_as_sync_ones(fire):
    """The test compares the history, failed attempts, log, progress and record."""

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

    results = result_of(fire, life())

    assert (job.history(), job.errors(), job.log(), job.progress(), job.record()) == results
    assert all(results)


def test_aclose_closes_open_resources(fire, adding):
    result_of(fire, fire.aclose())

    with pytest.raises(Exception, match="closed"):
        adding.enqueue(1).result()


# ---- the threads of blocking calls -----------------------------------------------------------------------

NAME = "firelock-async"


@pytest.fixture
def release():
    """An event that blocks a thread until the end of the test."""
    gate = threading.Event()
    yield gate
    gate.set()


def test_call_runs_in_the_context_of_its_caller():
    """The call runs in Firelock's own thread and does not change the caller's context."""
    variable = ContextVar("variable", default="nothing")

    def read():
        seen = variable.get()
        variable.set("by the thread")
        return seen, threading.current_thread().name

    async def call():
        variable.set("by the caller")
        return await in_thread(read), variable.get()

    assert (("by the caller", NAME), "by the caller") == asyncio.run(call())


def test_calls_do_not_wait_for_threads_of_the_application(release):
    """All threads of `asyncio.to_thread` may be busy with calls that wait for one of these calls."""

    async def call():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        blocked = asyncio.create_task(asyncio.to_thread(release.wait, 20))
        await asyncio.wait([blocked], timeout=0)
        answers = await asyncio.gather(*(in_thread(int, str(number)) for number in range(100)))
        release.set()
        return answers, await blocked

    assert (list(range(100)), True) == asyncio.run(call())


def test_calls_share_a_limited_number_of_threads():
    """Each call runs, and no additional thread is started as long as calls complete."""
    calls, names, lock = BlockingCalls(2, stall=60), [], threading.Lock()

    def note():
        with lock:
            names.append(threading.get_ident())

    for future in [calls.submit(note) for _ in range(50)]:
        future.result(20)

    assert (50, True) == (len(names), len(set(names)) <= 2)


def test_calls_that_wait_for_each_other_all_complete():
    """There are more calls than threads, so more threads are started when no waiting call can begin."""
    calls, together = BlockingCalls(2, stall=0.01), threading.Barrier(6)

    waiting = [calls.submit(lambda: together.wait(20)) for _ in range(6)]

    assert list(range(6)) == sorted(future.result(20) for future in waiting)


def test_cancelled_waiting_call_never_starts(release):
    """The result of a cancelled call would never be read."""
    calls, ran = BlockingCalls(1, stall=60), []
    first = calls.submit(lambda: release.wait(20))
    second, third = calls.submit(lambda: ran.append(2)), calls.submit(lambda: ran.append(3))

    assert second.cancel()
    release.set()

    assert [True, None] == [first.result(20), third.result(20)]
    assert [3] == ran


def test_error_of_a_call_is_raised_where_it_is_awaited():
    """Even an error that would end a thread is raised in the caller."""

    def leave():
        raise SystemExit(7)

    with pytest.raises(SystemExit):
        BlockingCalls(1).submit(leave).result(20)


def test_idle_thread_ends(our_threads):
    """If a call is made after an idle thread has ended, it gets another thread."""
    calls = BlockingCalls(1, idle=0.01)
    names = [calls.submit(lambda: threading.current_thread().name).result(20)]
    until(lambda: NAME not in our_threads())

    names.append(calls.submit(lambda: threading.current_thread().name).result(20))

    assert [NAME, NAME] == names


def test_call_fails_if_no_thread_can_be_started(monkeypatch):
    """If at least one thread runs, calls wait for it instead."""
    calls, can_start = BlockingCalls(2, stall=0.01), []
    start = threading.Thread.start

    def refuse(thread):
        if not can_start:
            raise RuntimeError("can't start new thread")
        can_start.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)

    with pytest.raises(RuntimeError, match="start new thread"):
        calls.submit(int)
    can_start.append(True)

    assert [0] * 3 == [future.result(20) for future in [calls.submit(int) for _ in range(3)]]


def test_blocked_call_does_not_delay_the_exit_of_the_interpreter():
    """The event loop stops and the interpreter exits, although the call never returns."""
    program = """
import asyncio, threading
from firelock.model.aio import in_thread

async def main():
    try:
        await asyncio.wait_for(in_thread(threading.Event().wait), 0.01)
    except TimeoutError:
        print("ended")

asyncio.run(main())
"""

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )

    assert ("ended\n", 0) == (done.stdout, done.returncode), done.stderr


def test_forked_process_starts_its_own_threads():
    """The threads of the parent, busy or idle, do not exist in the child."""
    program = """
import asyncio, os, sys, threading
from firelock.model.aio import in_thread

gate = threading.Event()

async def main():
    blocked = asyncio.create_task(in_thread(gate.wait))
    print(await in_thread(int, "1"), flush=True)
    if not os.fork():
        print(await in_thread(int, "2"), flush=True)
        os._exit(0)
    os.wait()
    gate.set()
    print(await blocked, flush=True)

asyncio.run(main())
"""

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )

    assert ["1", "2", "True"] == done.stdout.splitlines(), done.stderr
