"""Invalid strings, threads of a job, and a closed event loop do not affect other jobs."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import closing
from datetime import timedelta

import pytest

from firelock import Firelock, JobContext, Retry, Settings, Snooze, State
from firelock.flows import streams as streams_module
from firelock.model.state import FINAL_STATES
from firelock.testing import eventually
from tests.faults.meters import arranging, traced

LONG = 30.0  # seconds until a condition counts as never met
SETTINGS = Settings(poll=0.05, heartbeat=0.2, session_timeout=60, sweep=60)


@pytest.fixture
def fire(tmp_path):
    """Yield an application on SQLite, whose strings must be valid UTF-8."""
    with closing(Firelock(f"sqlite:///{tmp_path}/jobs.db?synchronous=normal", settings=SETTINGS)) as fire:
        yield fire


def has_ended(job):
    """Return whether the job is in a final state."""
    return job.refresh().state in FINAL_STATES


# ---- strings ---------------------------------------------------------------------------------------------

BAD = "a\x00b\ud800c\x01\u2028"


def raises(job):
    """Raise an error with the invalid string as its message."""
    raise ValueError(BAD)


WAYS = {
    "error": (raises, State.FAILED),
    "result": (lambda job: BAD, State.SUCCEEDED),
    "log": (lambda job: job.log(BAD), State.SUCCEEDED),
    "progress": (lambda job: job.progress(1, 2, BAD), State.SUCCEEDED),
    "snooze": (lambda job: Snooze(timedelta(hours=1), BAD), State.SCHEDULED),
    "step": (lambda job: job.step("one", lambda: BAD), State.FAILED),
    "emit": (lambda job: job.emit(BAD), State.FAILED),
}


def test_invalid_string_ends_only_its_job(fire, caplog):
    """The string contains a NUL character and a lone surrogate.

    It is used in every place in which a job can store a string.
    """
    caplog.set_level(logging.CRITICAL, "firelock")  # pytest cannot print tracebacks with surrogates
    jobs = {}
    for name, (act, _) in WAYS.items():

        def task(job: JobContext, act=act) -> object:
            return act(job)

        jobs[name] = fire.task(name=name, retry=Retry.never())(task).enqueue()
    fine = fire.task(name="fine")(lambda: None)

    expected = {name: state for name, (_, state) in WAYS.items()} | {"fine": State.SUCCEEDED}

    with fire.server(workers=2):
        jobs["fine"] = fine.enqueue()
        eventually(lambda: expected == {name: job.refresh().state for name, job in jobs.items()}, within=LONG)


# ---- threads ---------------------------------------------------------------------------------------------

LINES = 60  # lines at which the threads switch


def test_threads_of_a_job_can_emit_to_new_streams_concurrently(fire):
    """At every line of the streams module that one thread runs, the other thread emits to a new stream."""
    wanted, emitted = threading.Semaphore(0), threading.Semaphore(0)
    raised = []

    @fire.task(name="emits", retry=Retry.never())
    def emits(job: JobContext) -> None:
        def emit_when_wanted() -> None:
            for number in range(LINES):
                wanted.acquire()
                job.emit("x", stream=f"other-{number}")
                emitted.release()

        other = threading.Thread(target=emit_when_wanted)
        left = iter(range(LINES))

        def switch(frame, event, argument):
            if frame.f_code.co_filename == streams_module.__file__ and next(left, None) is not None:
                wanted.release()
                emitted.acquire(timeout=0.02)  # the other thread may wait for a lock that this thread holds
            return switch

        other.start()
        try:
            with traced(switch):
                for number in range(3):
                    job.emit("x", stream=f"one-{number}")
        except RuntimeError as error:
            raised.append(error)
        finally:
            for _ in left:
                wanted.release()
            other.join()

    job = emits.enqueue()
    with fire.server(workers=1), arranging():
        eventually(lambda: has_ended(job), within=LONG)

    assert raised == []


# ---- the host's event loop -------------------------------------------------------------------------------


def test_server_stops_properly_after_its_host_has_closed_the_loop(fire, our_threads):
    """A coroutine is running on the loop when it is closed. A job in a thread continues until it ends."""
    began, gate = threading.Semaphore(0), threading.Event()

    @fire.task(name="long", retry=Retry.never())
    async def long() -> None:
        began.release()
        await asyncio.Event().wait()

    @fire.task(name="plain", retry=Retry.never())
    def plain() -> None:
        began.release()
        assert gate.wait(LONG)

    async def host():
        server = fire.server(workers=1, async_workers=1, loop=asyncio.get_running_loop())
        await asyncio.to_thread(server.start)
        jobs = long.enqueue(), plain.enqueue()
        for _ in jobs:
            assert await asyncio.to_thread(began.acquire, timeout=LONG)
        return server, jobs

    server, (coroutine, thread) = asyncio.run(host())
    gate.set()
    eventually(lambda: thread.refresh().state is State.SUCCEEDED, within=LONG)
    server.stop(grace=1)

    assert not server.is_running
    assert coroutine.refresh().state is not State.PROCESSING
    assert our_threads("firelock-worker") == []
