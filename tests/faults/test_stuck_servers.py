"""A blocking job or plugin does not stop other jobs, or is named in the log; servers survive an outage."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing
from urllib.error import HTTPError
from urllib.request import urlopen

import attrs
import pytest

from firelock import Firelock, Retry, Settings, State, hookimpl
from firelock.storage import is_of_taken
from firelock.storage.memory import MemoryStorage
from firelock.testing import eventually
from tests.faults.meters import WatchedStorage, arranging
from tests.faults.proxy import FaultProxy
from tests.faults.scenarios.base import stage
from tests.faults.servers import Place, kill
from tests.ports import HOST, free_port

LONG = 30.0  # seconds until a condition counts as never met
SETTINGS = Settings(poll=0.05, heartbeat=0.2, session_timeout=60, sweep=60)


@pytest.fixture
def gate():
    """Yield an event that a test's jobs and plugins wait for; it is set at the end."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def app(gate):
    """Yield a function that creates an application in memory with plugins; its servers end with the test."""
    with ExitStack() as stack:

        def make(*plugins):
            fire = Firelock(WatchedStorage(MemoryStorage()), settings=SETTINGS, plugins=list(plugins))
            stack.enter_context(closing(fire))

            def serve(**options):
                server = fire.server(**options).start()
                stack.callback(server.stop, grace=1)
                stack.callback(gate.set)  # runs first
                return server

            return fire, serve

        yield make


def succeeded(jobs):
    """Return whether all jobs have succeeded."""
    return all(job.refresh().state is State.SUCCEEDED for job in jobs)


# ---- coroutines before threads ---------------------------------------------------------------------------


def test_thread_jobs_start_while_earlier_coroutines_wait(app, gate):
    """Two long coroutines are running, others wait, and thread jobs are in the queue after them."""
    fire, serve = app()

    @fire.task(name="call", retry=Retry.never())
    async def call() -> None:
        while not gate.is_set():
            await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.02)

    @fire.task(name="report", retry=Retry.never())
    def report() -> None: ...

    call.enqueue_many([()] * 200)
    reports = report.enqueue_many([()] * 5)
    serve(workers=4, async_workers=2)

    def handed_back():
        return sum(one.gives_back for one in fire.storage.transitions())

    with arranging():
        eventually(lambda: succeeded(reports) or handed_back() >= 50, within=LONG)

    assert succeeded(reports)
    assert handed_back() < 50


def test_coroutines_start_while_earlier_thread_jobs_wait(app, gate, caplog):
    """Two long `def` jobs are running, others wait, and `async def` jobs are in the queue after them.

    A single warning is logged.
    """
    caplog.set_level(logging.WARNING)
    fire, serve = app()

    @fire.task(name="report", retry=Retry.never())
    def report() -> None:
        gate.wait(LONG)

    @fire.task(name="call", retry=Retry.never())
    async def call() -> None: ...

    report.enqueue_many([()] * 200)
    serve(workers=2, async_workers=20)
    for _ in range(3):
        calls = call.enqueue_many([()] * 30)
        with arranging():
            eventually(lambda calls=calls: succeeded(calls), within=LONG)

    assert sum(one.gives_back for one in fire.storage.transitions()) < 50
    assert caplog.text.count("share queues") <= 1


def test_both_kinds_of_workers_are_busy_with_a_backlog_of_both(app, gate):
    """Neither kind of worker waits for the other while both have more jobs than workers."""
    fire, serve = app()
    running = {"report": 0, "call": 0}

    @fire.task(name="report", retry=Retry.never())
    def report() -> None:
        running["report"] += 1
        gate.wait(LONG)

    @fire.task(name="call", retry=Retry.never())
    async def call() -> None:
        running["call"] += 1
        while not gate.is_set():
            await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.02)

    for _ in range(20):
        call.enqueue_many([()] * 10)
        report.enqueue_many([()] * 10)
    serve(workers=3, async_workers=5)

    with arranging():
        eventually(lambda: running == {"report": 3, "call": 5}, within=LONG)

    assert sum(one.gives_back for one in fire.storage.transitions()) < 50


# ---- jobs claimed ahead ----------------------------------------------------------------------------------


def test_long_jobs_are_not_handed_back_repeatedly(app, gate):
    """Because earlier jobs were short, a server claims jobs ahead.

    Jobs that wait for long jobs are handed back and then stay in the queue.
    """
    fire, serve = app()
    noop = fire.task(name="noop")(lambda: None)
    started = []

    @fire.task(name="long", retry=Retry.never())
    def long(number: int) -> None:
        started.append(number)
        gate.wait(LONG)

    noop.enqueue_many([()] * 2_000)
    ids = {job.id for job in long.enqueue_many([(number,) for number in range(8)])}
    for name in ("one", "two"):
        serve(name=name, workers=4)

    with arranging():
        eventually(lambda: len(started) == 8, within=LONG)

    back = Counter(one.job_id for one in fire.storage.transitions() if one.gives_back)
    assert max((back[job_id] for job_id in ids), default=0) <= 2


class HeldStorage(WatchedStorage):
    """A storage that ignores the limit of claims, and holds settling calls until it is released."""

    def __init__(self, inner):
        super().__init__(inner)
        self.go_on, self.is_held = threading.Event(), threading.Event()
        self.watches = 0  # calls that waited for jobs taken from a session

    def claim(self, request):
        """Claim with a higher limit."""
        return super().claim(attrs.evolve(request, limit=500))

    def apply(self, transitions, *, within=None):
        """Apply the transitions, but the ends of runs only after the release."""
        if transitions[0].session is not None:
            self.is_held.set()
            self.go_on.wait(LONG)
        return super().apply(transitions, within=within)

    def wait(self, queues, timeout_seconds):
        """Wait, and count waits for taken jobs."""
        self.watches += bool(queues) and is_of_taken(queues[0])
        return super().wait(queues, timeout_seconds)


def test_deleted_job_that_was_claimed_ahead_does_not_start(gate):
    """One job is running and 119 are waiting while the dispatcher is in a round trip.

    All of them are deleted.
    """
    storage = HeldStorage(MemoryStorage())
    with closing(Firelock(storage, settings=SETTINGS)) as fire, ExitStack() as stack:
        noop = fire.task(name="noop")(lambda: None)
        started = []

        @fire.task(name="mail", retry=Retry.never())
        def mail(number: int) -> None:
            started.append(number)
            gate.wait(LONG)

        noop.enqueue()
        ids = [job.id for job in mail.enqueue_many([(number,) for number in range(120)])]
        server = fire.server(workers=1).start()
        stack.callback(server.stop, grace=1)
        stack.callback(storage.go_on.set)
        stack.callback(gate.set)
        with arranging():
            eventually(lambda: storage.is_held.is_set() and len(started) == 1, within=LONG)
        watches = storage.watches

        fire.jobs.delete(ids)
        eventually(lambda: storage.watches > watches, within=LONG)
        gate.set()
        storage.go_on.set()
        eventually(lambda: all(job.session is None for job in storage.get(ids)), within=LONG)

    assert started == [0]


# ---- jobs after their timeout ----------------------------------------------------------------------------


@pytest.mark.heavy("waits some seconds for a line of the log")
def test_job_that_ignores_its_timeout_is_logged_while_it_runs(app, gate, caplog):
    """As long as such a job runs, its thread cannot run other jobs."""
    caplog.set_level(logging.WARNING)
    fire, serve = app()
    started = threading.Event()

    @fire.task(name="unstoppable", retry=Retry.never(), timeout=0.1)
    def unstoppable() -> None:
        started.set()
        gate.wait(LONG)

    job = unstoppable.enqueue()
    serve(workers=1)
    with arranging():
        eventually(started.is_set, within=LONG)

    eventually(lambda: job.id in caplog.text, within=6)


# ---- slow plugins ----------------------------------------------------------------------------------------


@pytest.mark.heavy("waits some seconds for a job or a line of the log")
def test_slow_observer_blocks_no_job_or_is_logged(app, gate, caplog):
    """For example, an exporter of metrics may wait for its network."""
    caplog.set_level(logging.WARNING)
    observed = threading.Event()

    class SlowExporter:
        @staticmethod
        @hookimpl
        def jobs_settled(settled):
            observed.set()
            gate.wait(LONG)

    fire, serve = app(SlowExporter)
    noop = fire.task(name="noop")(lambda: None)
    serve(workers=2)
    noop.enqueue()
    with arranging():
        eventually(observed.is_set, within=LONG)
    later = noop.enqueue_many([()] * 2)

    eventually(lambda: succeeded(later) or "SlowExporter" in caplog.text, within=5)


@pytest.mark.heavy("starts a real server, whose worker process another replaces")
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_deleted_job_that_does_not_stop_ends_with_its_worker_process(tmp_path):
    """A thread cannot be ended from outside.

    The server still runs other jobs, in as many threads as before.
    """
    place = Place(tmp_path, f"sqlite:///{tmp_path / 'jobs.db'}")
    with stage(place, grace=0) as on:
        (it,) = on.serve(workers=1)
        with arranging():
            before = it.children()
            (unstoppable,) = on.enqueue(1, 0.02, task="unstoppable")
            on.await_starts([unstoppable])
        assert on.record(unstoppable).state is State.PROCESSING

        on.fire.jobs.delete([unstoppable])

        eventually(lambda: not set(before) & set(it.children()), within=LONG)
        eventually(lambda: not on.record(unstoppable).is_stopping, within=LONG)
        on.await_starts(on.enqueue(1, 0))
        assert (State.DELETED, 1) == (on.record(unstoppable).state, len(it.children()))


@pytest.mark.heavy("starts a real server, one of whose worker processes an operator ends")
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_other_jobs_of_an_ended_worker_process_run_again(tmp_path):
    """No crash is counted, whether or not a job stops when it is cancelled."""
    place = Place(tmp_path, f"sqlite:///{tmp_path / 'jobs.db'}")
    with stage(place, grace=0) as on:
        (it,) = on.serve(workers=3)
        with arranging():
            before = it.children()
            (stopped,) = on.enqueue(1, 0.02, task="unstoppable")
            others = [*on.enqueue(1, 0.02, task="unstoppable"), *on.enqueue(1, 0.02, task="held")]
            on.await_starts([stopped, *others])
        on.fire.jobs.delete([stopped])

        on.fire.servers.end_process(on.record(stopped).session)

        eventually(lambda: not set(before) & set(it.children()), within=LONG)
        on.await_starts(others, times=2)
        assert [(0, 0)] * 2 == [(one.crashes, one.retries) for one in map(on.record, others)]
        eventually(lambda: not on.record(stopped).is_stopping, within=LONG)
        assert 1 == len(it.children())


# ---- outages ---------------------------------------------------------------------------------------------

SILENCE = 6.0  # seconds: the setting hang_timeout; a worker process starts faster


def read_probe(port, path):
    """Return the status and the text of a page of the server's probes."""
    try:
        with urlopen(f"http://{HOST}:{port}{path}", timeout=LONG) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.heavy("starts a real server, and waits longer than a worker process may be silent")
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_server_is_alive_while_a_process_starts_in_an_outage(server, tmp_path):
    """A new server could not reach the storage either, so a restart would not help."""
    port = free_port()
    with FaultProxy(server.address) as proxy, arranging():
        place = Place(tmp_path, server.url(port=proxy.port))
        with stage(place, probe_port=port, hang_timeout=SILENCE) as on:
            (it,) = on.serve(workers=1)
            (child,) = it.children()
            proxy.refuse()
            kill(child)
            eventually(lambda: on.log_count("No new session yet"), within=LONG)  # the new process has none
            (child,), ready_at = it.children(), time.monotonic()
            eventually(lambda: time.monotonic() > ready_at + SILENCE + 1, within=LONG)
            assert it.children() == [child]
            status, page = read_probe(port, "/livez")

    assert status == 200, page
