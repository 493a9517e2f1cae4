"""A server inside this process, from its start to its stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import firelock
from firelock import Firelock, Settings, current_job
from firelock.errors import ConfigurationError, StorageUnavailable, TaskError
from firelock.model.state import State
from firelock.server.workers import thread_count
from tests.core.fakes import FailingStorage, plugin, until

SETTINGS = Settings(heartbeat=0.1, session_timeout=2, sweep=0.1, poll=0.2, grace=5)


@pytest.fixture
def make_app():
    """A function that returns an app over a storage with programmable failures; closed at the end."""
    apps = []

    def make(*plugins, storage=None, settings=SETTINGS, **options):
        fire = Firelock(storage or FailingStorage(), plugins=list(plugins), settings=settings, **options)
        apps.append(fire)
        return fire

    yield make
    for fire in apps:
        fire.close()


@pytest.fixture
def fire(make_app):
    """An app with a task that returns its argument."""
    fire = make_app()

    @fire.task(name="echo")
    def echo(word: str = "") -> str:
        return word

    fire.echo = echo
    return fire


def open_descriptors():
    """Return the number of open file descriptors, or 0 if the system does not provide it."""
    table = Path("/proc/self/fd")
    return len(list(table.iterdir())) if table.is_dir() else 0


class Gate:
    """A task that waits until the test lets it continue, and obeys or ignores a cancellation."""

    def __init__(self, fire, *, obeys=True, name="gate"):
        self.came, self.opened = threading.Event(), threading.Event()

        def work():
            job = current_job()
            self.came.set()
            until(lambda: self.opened.is_set() or (obeys and job.cancelled), 30)
            if obeys:
                job.raise_if_cancelled()

        self.task = fire.task(name=name)(work)


# ---- running jobs ----------------------------------------------------------------------------------------


def test_jobs_run_from_start_to_stop_of_the_server(fire, our_threads, caplog):
    """Jobs wait before the start. After the stop, no part of the server remains, and no warning is logged."""
    before = fire.echo.enqueue("before")
    descriptors = open_descriptors()

    for _ in range(3):
        with fire.server(workers=2, async_workers=2) as server:
            was_running = server.is_running
            assert "before" == before.result(timeout=10)
            assert "after" == fire.echo.enqueue("after").result(timeout=10)
        until(lambda: not [name for name in our_threads() if name != "firelock-results"])
        assert (True, False) == (was_running, server.is_running)

    assert descriptors == open_descriptors()
    assert [] == [record.getMessage() for record in caplog.records if record.levelname != "INFO"]


def test_stopped_server_can_be_started_again(fire):
    """Starting a running server is refused. Stopping a stopped server does nothing."""
    server = fire.server(workers=1, async_workers=1)
    server.stop()
    for word in ("once", "twice"):
        server.start()
        with pytest.raises(
            ConfigurationError, match=f"Server {server.name} is already running; stop it first"
        ):
            server.start()
        assert word == fire.echo.enqueue(word).result(timeout=10)
        server.stop()
        server.stop()


def test_list_of_servers_contains_the_server(fire):
    """The list contains the server's name, queues and workers. A stopped server is no longer alive."""
    with fire.server(queues=["critical", "default"], workers=3, async_workers=1, name="web-1"):
        (alive,) = fire.servers.list()
    (dead,) = fire.servers.list()

    assert ("web-1", "critical,default", 3, True) == (alive.name, alive.queues, alive.workers, alive.is_alive)
    assert [firelock.__version__] == [one.session.version for one in alive.sessions]
    assert (False, False) == (dead.is_alive, dead.is_lost)


def test_default_number_of_workers_is_five_per_core(monkeypatch):
    """By default, a server has five threads per core, or five if the number of cores is unknown."""
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    of_four = thread_count(0)
    monkeypatch.setattr("os.cpu_count", lambda: None)

    assert (20, 5, 3) == (of_four, thread_count(0), thread_count(3))


def test_server_uses_the_number_of_workers_in_the_settings(fire):
    """The default name of a server consists of the host and the process id."""
    server = fire.server()

    with server:
        (view,) = fire.servers.list()

    assert (thread_count(SETTINGS.workers), True) == (view.workers, server.name.endswith(f":{os.getpid()}"))


@pytest.mark.parametrize(
    "options", [{"workers": 0}, {"workers": True}, {"workers": 10**6}, {"async_workers": "2"}]
)
def test_number_of_workers_must_be_a_positive_integer(fire, options):
    """The error contains the value that was passed."""
    with pytest.raises(ConfigurationError, match=r"workers must be an integer from 1 to 10000, got "):
        fire.server(**options)


def test_full_queue_does_not_cause_busy_claims(make_app):
    """A queue that is longer than the number of workers does not cause repeated claims."""
    fire = make_app()
    gate = Gate(fire)
    gate.task.enqueue_many([()] * 5)

    with fire.server(workers=1, async_workers=1):
        gate.came.wait(10)
        waits = len(fire.storage.called["wait"])
        began, used = time.monotonic(), time.process_time()
        until(lambda: time.monotonic() - began > 1)
        used = time.process_time() - used
        gate.opened.set()

    assert 20 > len(fire.storage.called["wait"]) - waits
    assert used < 0.7


# ---- starts that fail ------------------------------------------------------------------------------------


def test_server_without_tasks_does_not_start(make_app, our_threads):
    """A remote task is a stub and does not count. The error explains how tasks are found."""
    fire = make_app()
    fire.task(name="elsewhere", remote=True)(lambda: None)

    with pytest.raises(ConfigurationError, match=r"This server has no tasks to run\. Decorate functions"):
        fire.server(workers=1).start()

    assert ([], []) == (fire.servers.list(), our_threads())


def test_invalid_task_signature_prevents_the_start(make_app):
    """The start fails before anything is claimed."""
    fire = make_app()

    def broken(what: Nowhere): ...  # noqa: F821 - the mistake under test

    fire.task(name="broken")(broken)

    with pytest.raises(TaskError, match="Nowhere"):
        fire.server(workers=1).start()

    assert [] == fire.servers.list()


def test_process_executor_needs_an_importable_app(make_app):
    """Another process cannot import an app that is not in a module."""
    fire = make_app()
    fire.task(name="apart", executor="process")(lambda: None)

    with pytest.raises(
        ConfigurationError, match="Task 'apart' has executor=\"process\", but other processes cannot"
    ):
        fire.server(workers=1).start()


@pytest.mark.parametrize("verb", ["begin_session", "list_records"])
def test_unreachable_storage_prevents_the_start(fire, verb, our_threads):
    """The failed start leaves nothing running, and the next start can succeed."""
    fire.storage.fail(verb, StorageUnavailable("down"))
    server = fire.server(workers=1, async_workers=1)

    with pytest.raises(StorageUnavailable, match="down"):
        server.start()
    left = our_threads()
    with server:
        assert "x" == fire.echo.enqueue("x").result(timeout=10)

    assert [] == left


def test_exception_in_worker_process_started_prevents_the_start(make_app, our_threads):
    """The hook is called before anything has started."""

    def unprepared():
        raise RuntimeError("no engine")

    fire = make_app(plugin(worker_process_started=unprepared))
    fire.task(name="task")(lambda: None)

    with pytest.raises(RuntimeError, match="no engine"):
        fire.server(workers=1).start()

    assert ([], []) == (fire.servers.list(), our_threads())


# ---- stopping --------------------------------------------------------------------------------------------


def test_job_that_ignores_its_cancellation_is_handed_back_at_the_stop(make_app, caplog, our_threads):
    """The server does not wait forever for such a job. If the job ends later, its outcome is ignored."""
    fire = make_app()
    gate = Gate(fire, obeys=False)
    server = fire.server(workers=1, async_workers=1).start()
    job = gate.task.enqueue()
    gate.came.wait(10)

    server.stop(grace=0)
    again = job.refresh()
    gate.opened.set()
    until(lambda: "firelock-worker-0" not in our_threads())

    assert (State.ENQUEUED, "server stopped while the job was running") == (again.state, again.reason)
    assert "1 job ignores its cancellation and ends with this process." in caplog.text
    assert State.ENQUEUED is job.refresh().state


def test_server_stops_during_an_outage(make_app, caplog, monkeypatch, our_threads):
    """Observers are notified of the stop. The session ends when its timeout expires."""
    monkeypatch.setattr("firelock.server.worker_process._SETTLE_GRACE", 0.3)
    seen = []

    fire = make_app(
        plugin(
            server_stopped=lambda: seen.append("stopped"),
            worker_process_stopped=lambda: seen.append("cleaned up"),
        )
    )
    gate = Gate(fire)
    server = fire.server(workers=1, async_workers=1).start()
    gate.task.enqueue()
    gate.came.wait(10)
    for verb in ("apply", "claim", "end_session"):
        fire.storage.fail_always(verb, StorageUnavailable("down"))

    server.stop(grace=0)
    fire.storage.recover()

    assert ["stopped", "cleaned up"] == seen
    assert not server.is_running
    assert "could not be ended, so its jobs wait until it expires: down" in caplog.text
    until(lambda: not [name for name in our_threads() if name.startswith("firelock-dispatcher")])


@pytest.mark.parametrize("order", ["quiet", "stop"])
def test_server_obeys_quiet_resume_and_stop_orders(fire, order):
    """A quiet server claims no jobs until it gets the order to resume. The stop order stops the server."""
    with fire.server(workers=1, async_workers=1) as server:
        (view,) = fire.servers.list()
        fire.servers.order(view.id, order)
        if order == "stop":
            until(lambda: not server.is_running)
        else:
            until(lambda: fire.servers.list()[0].sessions[0].renewal.state == "quiet")
            job = fire.echo.enqueue("x")
            fire.servers.order(view.id, "resume")
            assert "x" == job.result(timeout=10)
            until(lambda: fire.servers.list()[0].sessions[0].renewal.state == "running")


def test_order_to_end_an_embedded_worker_process_is_ignored(fire, caplog):
    """The worker process of an embedded server is the application.

    The log reports that the order has no effect.
    """
    with fire.server(workers=1):
        (view,) = fire.servers.list()

        fire.servers.end_process(view.sessions[0].session.id)

        until(lambda: "worker process of this server: it runs inside the application" in caplog.text)
        assert "x" == fire.echo.enqueue("x").result(timeout=10)


def test_run_serves_until_a_signal_arrives(fire):
    """A signal stops the server, and the previous signal handlers are restored."""
    previous = signal.getsignal(signal.SIGTERM)
    job = fire.echo.enqueue("x")
    teller = threading.Thread(target=lambda: job.result(timeout=10) and os.kill(os.getpid(), signal.SIGTERM))
    teller.start()

    fire.server(workers=1, async_workers=1).run()
    teller.join(10)

    assert (previous, State.SUCCEEDED) == (signal.getsignal(signal.SIGTERM), job.refresh().state)


def test_second_signal_stops_the_server_without_grace_time(make_app):
    """After the second signal, the server does not wait for running jobs."""
    fire = make_app(settings=Settings(grace=600, heartbeat=0.1, session_timeout=2))
    gate = Gate(fire)
    job = gate.task.enqueue()

    def send_signals():
        gate.came.wait(10)
        os.kill(os.getpid(), signal.SIGINT)
        until(lambda: fire.servers.list()[0].sessions[0].renewal.state == "stopping")
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send_signals)
    sender.start()
    began = time.monotonic()
    fire.server(workers=1, async_workers=1).run()
    sender.join(10)

    assert 60 > time.monotonic() - began
    assert State.ENQUEUED is job.refresh().state


def test_run_outside_of_the_main_thread_is_refused(fire):
    """Only the main thread can receive signals, so the call is refused before anything has started."""
    with ThreadPoolExecutor() as threads:
        error = threads.submit(fire.server(workers=1, async_workers=1).run).exception(10)

    assert isinstance(error, ConfigurationError)
    assert (
        "run() handles signals, so it must run in the main thread; use start() and stop() in other threads."
        == str(error)
    )
    assert [] == fire.servers.list()


# ---- sessions --------------------------------------------------------------------------------------------


def test_loss_that_is_reported_twice_leads_to_one_new_session(fire, our_threads):
    """Both a claim and a renewal can detect that the session was lost."""
    with fire.server(workers=1, async_workers=1):
        (view,) = fire.servers.list()
        lost = view.sessions[0].session.id
        fire.storage.end_session(lost, None, reason="server lost")

        assert "x" == fire.echo.enqueue("x").result(timeout=10)
        until(lambda: "firelock-session" not in our_threads())
        assert 2 == len(fire.servers.list()[0].sessions)


def test_failed_wait_for_work_is_repeated(fire):
    """In this test, the wait fails because of an outage. An unexpected error is tested in test_serving."""
    fire.storage.fail("wait", *[StorageUnavailable("down")] * 2)

    with fire.server(workers=1, async_workers=1):
        assert "x" == fire.echo.enqueue("x").result(timeout=10)
        until(lambda: len(fire.storage.called["wait"]) > 2)
        assert "y" == fire.echo.enqueue("y").result(timeout=10)


def test_stopping_server_logs_outcomes_that_could_not_be_stored(make_app, caplog, monkeypatch, our_threads):
    """The server does not wait forever for a storage that hangs."""
    monkeypatch.setattr("firelock.server.worker_process._SETTLE_GRACE", 0.05)
    monkeypatch.setattr("firelock.server.worker_process._CANCEL_GRACE", 0.05)
    fire = make_app()
    answers = threading.Event()
    task = fire.task(name="task")(lambda: None)
    server = fire.server(workers=1, async_workers=1).start()
    exchange, apply = fire.storage.exchange, fire.storage.apply
    fire.storage.exchange = lambda *args: answers.wait(10) and exchange(*args)
    fire.storage.apply = lambda *args: answers.wait(10) and apply(*args)
    task.enqueue()
    until(lambda: fire.jobs.find(state="processing").jobs)

    server.stop(grace=0)
    answers.set()

    assert "The last outcomes could not be written, because the storage does not respond." in caplog.text
    until(lambda: "firelock-dispatcher" not in our_threads())


def has_beaten(fire, times=3):
    """Return a function that returns whether the session was renewed more than this number of times.

    Each renewal also reads the orders.
    """
    beats = set()

    def is_so():
        beats.add(fire.servers.list()[0].sessions[0].expires_at)
        return len(beats) > times

    return is_so


def test_stop_ordered_during_the_start_is_obeyed(make_app):
    """A hook may take a long time. An order that is read in the meantime is obeyed later."""

    def slow(server):
        fire.servers.order(server.id, "stop")
        until(has_beaten(fire), 10)

    fire = make_app(plugin(server_started=slow))
    fire.task(name="noop")(lambda: None)
    server = fire.server()

    server.start()

    until(lambda: not server.is_running, 10)


def test_stopping_server_lets_its_jobs_end_and_ignores_resume(make_app):
    """The server does not claim any more jobs, whatever orders it gets while it stops."""
    fire = make_app()
    gate, later = Gate(fire, obeys=False), fire.task(name="later")(lambda: None)
    server = fire.server(workers=2).start()
    running = gate.task.enqueue()
    assert gate.came.wait(10)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    until(lambda: fire.servers.list()[0].sessions[0].renewal.state == "stopping", 10)

    job = later.enqueue()
    fire.servers.order(fire.servers.list()[0].id, "resume")
    until(has_beaten(fire), 10)
    gate.opened.set()
    stopping.join(10)

    assert State.SUCCEEDED is running.refresh().state
    assert (State.ENQUEUED, 0) == (job.refresh().state, job.attempt)


@pytest.mark.parametrize("name", ["sessions", "worker-1", "upkeep", "waker"])
def test_failed_start_cleans_up_threads_and_session(fire, monkeypatch, name):
    """If the system cannot start a thread, the server ends its session and the threads that already run."""
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == f"firelock-{name}":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = set(threading.enumerate())

    with pytest.raises(RuntimeError, match="start new thread"):
        fire.server(workers=3).start()

    assert [False] == [server.is_alive for server in fire.servers.list()]
    until(
        lambda: not any(thread.name.startswith("firelock-") for thread in {*threading.enumerate()} - before)
    )
