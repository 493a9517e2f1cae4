"""A worker process that gets its orders through a pipe."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing

import attrs
import pytest

from firelock import Firelock, Settings
from firelock.model.state import State
from firelock.server.shared_memory import SharedMemory, share_memory
from firelock.server.supervisor import EXIT_FAILED, EXIT_OK, EXIT_UNREACHABLE, EXIT_USAGE, ServerOptions
from firelock.storage import NewSession
from tests.core.fakes import until

APP = """
import os, threading
from firelock import Firelock, hookimpl

class Notes:
    @hookimpl
    def server_started(self, server):
        open("started", "w").write(server.name)

    @hookimpl
    def server_stopped(self, server):
        open("stopped", "w").write(server.name)

fire = Firelock("sqlite:///jobs.db", plugins=[Notes])
fire.task(name="noop")(lambda: None)

@fire.task(name="leak")
def leak():
    import resource
    highest = max(int(name) for name in os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    opened = []
    try:
        while True:  # also numbers below the highest may be free
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for descriptor in opened[-8:]:
            os.close(descriptor)

@fire.task(name="until")
def until(path):
    while not os.path.exists(path):
        threading.Event().wait(0.01)

@fire.task(name="stuck")
def stuck():
    while True:
        try:
            threading.Event().wait()
        except BaseException:
            pass
"""
MORE = """
from pipe_app import fire

fire.task(name="more")(lambda: None)
"""
SETTINGS = Settings()
FOR_EVER = 1e9


class Process:
    """A worker process, with the two pipes of its supervisor."""

    def __init__(self, folder, *, source=APP, is_first=False, **options):
        (folder / "pipe_app.py").write_text(source)
        (folder / "pipe_more.py").write_text(MORE)
        self.memory, self.counters, self._board = share_memory(), share_memory(), None
        self.workers = options.get("workers", 1)
        orders, self.orders = os.pipe()
        self.reports, reports = os.pipe()
        options = {
            **attrs.asdict(ServerOptions("pipe_app.py:fire", **{"workers": 1, **options})),
            "place": 0, "server_id": "server-a", "server_name": "host:a", "is_first": is_first,
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "firelock.server.worker_process", str(os.getpid()), str(orders),
             str(reports), str(self.memory), str(self.counters), json.dumps(options)],
            pass_fds=(orders, reports, self.memory, self.counters), cwd=folder, stderr=subprocess.PIPE,
        )  # fmt: skip
        os.close(orders)
        os.close(reports)

    def report(self):
        """Return the next report of the process."""
        line = b""
        while not line.endswith(b"\n"):
            read = os.read(self.reports, 1)
            assert read != b"", f"it has ended: {self.process.stderr.read().decode()}"
            line += read
        return json.loads(line)

    def send_order(self, line):
        os.write(self.orders, line.encode() + b"\n")

    def send_orders(self, *orders):
        """Send several orders in one write."""
        os.write(self.orders, "".join(json.dumps(order) + "\n" for order in orders).encode())

    @property
    def board(self):
        """The shared memory of the process, available when it is ready."""
        if self._board is None:
            self._board = SharedMemory.attach(self.memory, self.workers + SETTINGS.async_workers)
        return self._board

    def grant(self):
        """Allow the process to start jobs of its next session."""
        self.board.begin_session()
        self.board.grant(FOR_EVER)

    def hang_up(self):
        """Close the pipe of its orders, as if the supervisor had died."""
        os.close(self.orders)
        self.orders = os.open(os.devnull, os.O_WRONLY)

    def close_reports(self):
        """Close the pipe of its reports."""
        os.close(self.reports)
        self.reports = os.open(os.devnull, os.O_RDONLY)

    def ends(self):
        """Return its exit code and its standard error."""
        return self.process.wait(20), self.process.stderr.read().decode()

    def close(self):
        os.close(self.orders)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.process.stderr.close()
        os.close(self.reports)
        os.close(self.memory)
        os.close(self.counters)
        if self._board is not None:
            self._board.close()


@pytest.fixture
def start(tmp_path):
    """A function that starts such processes; they are ended after the test, whatever happens."""
    started = []

    def start_one(**options):
        started.append(Process(tmp_path, **options))
        return started[-1]

    yield start_one
    for process in started:
        process.close()


@pytest.fixture
def child(start):
    """A worker process that is ready but has no session yet; only the first one describes the server."""
    child = start()
    assert [] == child.report()["ready"]["about"]
    return child


@pytest.fixture
def fire(tmp_path):
    """The app, as used by a process that enqueues jobs."""
    with Firelock(f"sqlite:///{tmp_path / 'jobs.db'}") as fire:
        yield fire


def session(fire, name="session-a"):
    """Begin a session and return its id."""
    now = fire.storage.clock()
    fire.storage.begin_session(NewSession(name, "server-a", "host:a", "host", 7, now, FOR_EVER, 1, "*"))
    return name


def test_worker_process_stopped_before_it_has_a_session_ends_properly(child):
    """A process without a session has no claimed jobs."""
    child.send_order('{"stop": 0}')

    assert EXIT_OK == child.process.wait(20)


def test_worker_process_ends_if_it_cannot_read_orders(child):
    """A process that cannot read an order could not read the order to stop either."""
    child.send_order("{")

    assert EXIT_FAILED == child.process.wait(20)
    assert b"could not be carried out" in child.process.stderr.read()


def test_retired_process_ends_after_its_last_job(child, fire, tmp_path):
    """A retired process claims nothing more and ignores `quiet: false`.

    It does not report the server's stop.
    """
    job = fire.task(name="noop")(lambda: None).enqueue()
    child.grant()
    child.send_order(json.dumps({"session": session(fire)}))
    job.result(timeout=20)

    child.send_orders({"retire": True}, {"quiet": False})

    assert EXIT_OK == child.process.wait(20)
    assert not (tmp_path / "stopped").exists()


def test_retired_process_that_waits_for_a_job_stops_with_its_server(child, fire):
    """The grace time also applies to a retired process; its running job is handed back."""
    job = fire.task(name="stuck")(lambda: None).enqueue()
    child.grant()
    child.send_order(json.dumps({"session": session(fire)}))
    until(lambda: job.refresh().state is State.PROCESSING)

    child.send_orders({"retire": True}, {"stop": 0})

    assert EXIT_OK == child.process.wait(20)
    assert State.ENQUEUED is job.refresh().state


@pytest.fixture
def stubborn(start, fire, tmp_path, monkeypatch):
    """A function that runs a job that never stops and another job until the worker process has ended.

    It returns both jobs and the log.
    """
    monkeypatch.setenv("FIRELOCK_GRACE", "0")
    child = start(workers=2)
    child.report()

    def run(timeout, act):
        stuck = fire.task(name="stuck")(lambda: None).using(timeout=timeout).enqueue()
        other = fire.task(name="until")(lambda path: None).enqueue(str(tmp_path / "done"))
        child.grant()
        child.send_order(json.dumps({"session": session(fire)}))
        until(lambda: {stuck.id, other.id} <= set(child.board.running()))
        act(stuck)
        assert {"worn": "runs a job that does not stop"} == child.report()
        child.send_order(json.dumps({"retire": True}))
        (tmp_path / "done").touch()
        code, log = child.ends()
        assert EXIT_OK == code
        return stuck.refresh().record(), other.refresh().record(), log

    return run


def test_deleted_job_that_does_not_stop_ends_after_the_other_jobs(stubborn):
    """A thread ends only with its process. The other jobs get all the time that they need."""
    stuck, other, log = stubborn(None, lambda job: job.delete())

    assert (State.DELETED, State.SUCCEEDED) == (stuck.state, other.state)
    assert re.search(rf"Job {stuck.id} of task 'stuck' still runs \d+ s after its cancellation", log)


def test_job_that_ignores_its_timeout_is_settled_as_timed_out(stubborn):
    """If the job were handed back, it would start again immediately and repeatedly."""
    stuck, other, _ = stubborn(0.1, lambda job: None)  # one of two threads, which is half of the threads

    assert (State.SCHEDULED, State.SUCCEEDED) == (stuck.state, other.state)
    assert (1, "timed out after 0.1 s") == (stuck.retries, stuck.error.message)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"max_jobs_per_process": 1}, "has run 1 job"), ({"max_memory_per_process": 1}, " MB")],
    ids=["jobs", "memory"],
)
def test_worker_process_reports_once_that_it_has_reached_a_limit(start, fire, options, reason):
    """The process does not report before its first job, however large it is.

    It then continues until it gets an order.
    """
    child = start(**options)
    assert "ready" in child.report()
    noop = fire.task(name="noop")(lambda: None)
    child.grant()
    child.send_order(json.dumps({"session": session(fire)}))
    noop.enqueue().result(timeout=20)

    assert reason in child.report()["worn"]
    noop.enqueue().result(timeout=20)
    child.send_order('{"stop": 0}')
    assert EXIT_OK == child.process.wait(20)


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no such limit")
def test_worker_process_without_file_descriptors_requests_a_replacement(start, fire):
    """A job has left files open. Another process replaces this one before all later jobs fail."""
    child = start()
    assert "ready" in child.report()
    leak = fire.task(name="leak")(lambda: None)
    child.grant()
    child.send_order(json.dumps({"session": session(fire)}))
    leak.enqueue().result(timeout=20)

    assert "is out of file descriptors" in child.report()["worn"]
    child.send_order('{"stop": 0}')
    assert EXIT_OK == child.process.wait(20)


def test_garbage_collections_skip_imported_objects(start, fire):
    """Garbage collections check objects that jobs create.

    They do not check the classes and functions that were imported before.
    """
    child = start(source=COLLECTING)
    assert "ready" in child.report()
    inspect = fire.task(name="inspect")(lambda: None)
    child.grant()
    child.send_order(json.dumps({"session": session(fire)}))

    is_enabled, frozen, others = inspect.enqueue().result(timeout=20)

    assert is_enabled
    assert others < frozen
    child.send_order('{"stop": 0}')
    assert EXIT_OK == child.process.wait(20)


COLLECTING = """
import gc
from firelock import Firelock

fire = Firelock("sqlite:///jobs.db")

@fire.task(name="inspect")
def inspect():
    return [gc.isenabled(), gc.get_freeze_count(), len(gc.get_objects())]
"""
CONFIGURED = """
import logging.config
from firelock import Firelock, Retry, hookimpl

def configure():
    logging.config.dictConfig({
        "version": 1,
        "handlers": {"console": {"class": "logging.StreamHandler"}},
        "root": {"level": "INFO", "handlers": ["console"]},
    })

class Logs:
    @hookimpl
    def worker_process_started(self, server):
        configure() if HOW == "hook" else None

HOW = "%s"
if HOW == "import":
    logging.getLogger("firelock.server.worker_process").setLevel(logging.WARNING)
    configure()
fire = Firelock("sqlite:///jobs.db", plugins=[Logs])

@fire.task(name="fail", retry=Retry.never())
def fail():
    raise ValueError("boom")
"""


@pytest.mark.parametrize(("how", "lines"), [("import", 0), ("hook", 1)])
def test_logging_config_of_the_app_does_not_disable_failure_logs(start, fire, how, lines):
    """`dictConfig` disables loggers that existed before the app.

    A level that the app sets on purpose remains.
    """
    job = fire.task(name="fail")(lambda: None).enqueue()
    child = start(source=CONFIGURED % how)
    assert "ready" in child.report()
    child.grant()
    child.send_order(json.dumps({"session": session(fire)}))
    until(lambda: job.refresh().state is State.FAILED)
    child.send_order('{"stop": 5}')

    code, output = child.ends()

    assert EXIT_OK == code
    assert f"Job {job.id} of task 'fail' has failed in attempt 1: ValueError: boom\n" in output
    assert lines == output.count("Running jobs from now on.")


# ---- getting ready ---------------------------------------------------------------------------------------


def test_first_worker_process_describes_the_server(start, tmp_path):
    """The report contains the name, workers, queues, tasks and storage of the server.

    It includes tasks of the modules that the command line names.
    """
    child = start(is_first=True, imports=("pipe_more",), queues="mail:1")

    ready = child.report()["ready"]

    assert "Firelock server host:a: 1 worker, queues mail:1, 5 tasks" == ready["about"][0]
    assert any("jobs.db" in line for line in ready["about"][1:])
    assert (1, "mail:1") == (ready["workers"], ready["queues"])
    assert f"sqlite:///{tmp_path / 'jobs.db'}" == ready["storage"]
    assert SETTINGS == Settings.from_json(ready["settings"])


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("fire = None", EXIT_USAGE, "is NoneType, not a Firelock"),
        (APP.replace("jobs.db", "no-such-folder/jobs.db"), EXIT_UNREACHABLE, "does not exist"),
        (APP + "\n@fire.task\ndef odd(one: 'NoSuchName'): ...\n", EXIT_USAGE, "NoSuchName"),
    ],
    ids=["app", "storage", "task"],
)
def test_worker_process_that_cannot_start_prints_the_reason(start, source, code, message):
    """The process prints one line to standard error, and its exit code becomes that of the server."""
    child = start(source=source, is_first=True)

    exit_code, error = child.ends()

    assert code == exit_code
    assert error.startswith("firelock: ")
    assert message in error
    assert "Traceback" not in error


def test_storage_with_another_layout_is_a_usage_error(start, fire, tmp_path):
    """A restart does not fix this, so systemd does not start the server again after this exit code."""
    fire.storage.migrate()
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection, connection:
        connection.execute("UPDATE firelock_schema SET version = 100, works_with = 100")
    child = start(is_first=True)

    exit_code, error = child.ends()

    assert EXIT_USAGE == exit_code
    assert "has schema 100" in error
    assert "Traceback" not in error


# ---- orders ----------------------------------------------------------------------------------------------


def test_worker_process_runs_jobs_from_its_session_to_its_stop(start, fire, tmp_path):
    """The process notifies plugins of the server's start and end, and ends properly."""
    child = start(is_first=True)
    child.report()
    job = fire.task(name="noop")(lambda: None).enqueue()
    child.grant()

    child.send_orders({"session": session(fire)})
    until(lambda: job.refresh().state is State.SUCCEEDED)
    child.send_orders({"stop": 5})

    assert EXIT_OK == child.process.wait(20)
    assert ["host:a"] * 2 == [(tmp_path / name).read_text() for name in ("started", "stopped")]


def test_quiet_worker_process_claims_again_after_resume(child, fire):
    """Orders before the session have no effect; later ones are obeyed in their order."""
    task = fire.task(name="noop")(lambda: None)
    child.grant()
    child.send_orders({"quiet": True}, {"hurry": True}, {"session": session(fire)}, {"quiet": True})
    child.send_orders({"quiet": False})

    job = task.enqueue()

    until(lambda: job.refresh().state is State.SUCCEEDED)


def test_worker_process_continues_with_another_session(child, fire):
    """The first session was lost, so jobs now run for the second one."""
    task = fire.task(name="noop")(lambda: None)
    child.grant()
    child.send_orders({"session": session(fire)})
    first = task.enqueue()
    until(lambda: first.refresh().state is State.SUCCEEDED)
    fire.storage.end_session("session-a", None, reason="lost")
    child.grant()

    child.send_orders({"session": session(fire, "session-b")})

    job = task.enqueue()
    until(lambda: job.refresh().state is State.SUCCEEDED)


def test_worker_process_reports_a_lost_session(child, fire):
    """The process may detect the loss before its supervisor does."""
    child.grant()
    name = session(fire)
    fire.storage.end_session(name, None, reason="lost")

    child.send_orders({"session": name})

    assert {"session_lost": name} == child.report()


def test_worker_process_with_a_stuck_job_ends(child, fire):
    """A thread cannot be ended, so its job returns to its queue and the process ends with the thread."""
    job = fire.task(name="stuck")(lambda: None).enqueue()
    child.grant()
    child.send_orders({"session": session(fire)})
    until(lambda: job.id in child.board.running())

    child.send_orders({"stop": 0}, {"hurry": True})

    code, error = child.ends()
    assert EXIT_OK == code
    assert "1 job ignores its cancellation" in error
    assert State.ENQUEUED == job.refresh().state


def test_worker_process_ends_if_its_supervisor_has_died(child, fire):
    """Without a supervisor, the session is no longer renewed, so the process must not run jobs."""
    child.grant()
    child.send_orders({"session": session(fire)})

    child.hang_up()

    assert EXIT_FAILED == child.process.wait(20)


def test_worker_process_ends_if_it_cannot_report(child, fire):
    """A process that cannot report the loss of its session would not get another one."""
    child.grant()
    name = session(fire)
    fire.storage.end_session(name, None, reason="lost")
    child.close_reports()

    child.send_orders({"session": name})

    assert EXIT_FAILED == child.process.wait(20)
