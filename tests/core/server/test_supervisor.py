# ruff: noqa: SLF001 - single steps of a loop that otherwise needs signals and whole servers
"""The supervisor survives every failure of a worker process and counts crashes only for the right jobs."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from firelock import Firelock
from firelock.errors import StorageError, StorageUnavailable
from firelock.model.state import State
from firelock.plugins.hookspecs import ServerInfo
from firelock.server import supervisor as module
from firelock.server.session_renewal import SessionRenewal
from firelock.server.shared_memory import SharedMemory, share_memory
from firelock.server.supervisor import ServerOptions, Supervisor, _KnownProcess
from firelock.settings import Settings
from firelock.storage import ClaimRequest
from tests.core.fakes import FailingStorage, until
from tests.processes import state_of

PLACES = 5
ECHO = "import sys\nfor line in sys.stdin: sys.stdout.write(line); sys.stdout.flush()"
SETTINGS = Settings(heartbeat=600, session_timeout=3_600)


class Bench:
    """A supervisor with an open storage, whose worker processes are small programs."""

    def __init__(self):
        self.storage = FailingStorage()
        self.fire = Firelock(self.storage, settings=SETTINGS)
        self.printed = []
        self.supervisor = Supervisor(ServerOptions("shop:fire"), say=self.printed.append)
        self.keeper = SessionRenewal(
            self.storage, SETTINGS, ServerInfo("server-a", "host:a", "*", 1, 7),
            on_lost=lambda _: None, on_order=lambda _: None,
        )  # fmt: skip
        self.supervisor._storage, self.supervisor._sessions = self.storage, self.keeper
        self.supervisor._settings = SETTINGS
        self.children = []

    def child(self, code="input()"):
        """Start a worker process that runs this code; its standard input is the pipe of its orders."""
        read, write = os.pipe()
        output = subprocess.PIPE if code == ECHO else None
        process = subprocess.Popen([sys.executable, "-c", code], stdin=read, stdout=output)
        os.close(read)
        memory = share_memory()
        SharedMemory.allocate(memory, PLACES).close()
        child = _KnownProcess(0, process, memory, -1, os.fdopen(write, "w"), 0)
        self.supervisor._processes[process.pid] = child
        self.children.append(child)
        return child

    def with_session(self, code):
        """Start a worker process that has a session."""
        child = self.child(code)
        child.memory = SharedMemory.attach(child.descriptor, PLACES)
        self.supervisor._begin(child)
        return child

    def read_orders(self, child, number=1):
        """Return the next orders that a worker process echoes."""
        return [json.loads(child.popen.stdout.readline()) for _ in range(number)]

    def claimed(self, child):
        """Return a job that the worker process has claimed."""
        job = self.fire.task(name="noop")(lambda: None).enqueue()
        self.storage.claim(ClaimRequest(None, 1, child.session, self.storage.clock()))
        return job

    def events(self, number=1):
        """Handle this number of events, and wait for events that arrive late."""
        for _ in range(number):
            self.supervisor._do(self.supervisor._events.get(timeout=10))

    def close(self):
        for child in {*self.children, *self.supervisor._processes.values()}:
            child.popen.kill()
            child.popen.wait()
            if child.popen.stdout is not None:
                child.popen.stdout.close()
            with suppress(BrokenPipeError):  # unread orders; the pipe is closed anyway
                child.orders.close()
        for child in self.supervisor._processes.values():
            if child.memory is not None:
                child.memory.close()
            os.close(child.descriptor)
        self.fire.close()


@pytest.fixture
def bench(monkeypatch):
    """A supervisor that retries without a pause."""
    monkeypatch.setattr(module, "_TRY_AGAIN", 0.0)
    bench = Bench()
    yield bench
    bench.close()


def test_broken_pipe_of_a_dead_worker_process_is_handled(bench):
    """The session of a dead process ends and a replacement is planned, although its pipe breaks.

    The pipe still contains an order and breaks when it is closed.
    """
    child = bench.with_session("input()")
    child.popen.wait()
    child.orders.write("not sent yet")

    bench.supervisor._exited(child)

    assert {} == bench.supervisor._processes
    assert [0] == [place for _, place, _ in bench.supervisor._restarts]
    assert [False] == [record.is_alive for record in bench.storage.list_sessions()]


def test_failed_event_does_not_end_the_supervisor(bench, caplog):
    """The supervisor logs the error, and the worker processes continue to run."""

    def fails():
        raise ArithmeticError("unheard of")

    with caplog.at_level(logging.ERROR, "firelock.server.supervisor"):
        bench.supervisor._do(fails)

    assert "unheard of" in caplog.text


def test_job_that_ends_its_process_with_code_0_has_crashed(bench):
    """The server did not stop the process, so the running job has crashed, and another process starts."""
    child = bench.with_session("pass")
    job = bench.claimed(child)
    child.memory.start(0, job.id)
    child.popen.wait()

    bench.supervisor._exited(child)

    record = job.refresh().record()
    assert (State.ENQUEUED, 1) == (record.state, record.crashes)
    assert "exit code 0" in record.reason
    assert 1 == len(bench.supervisor._restarts)
    assert bench.supervisor._stops_at == module._NEVER


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("input()", 0), ("input(); input()", module.EXIT_FAILED)],
    ids=["in order", "killed"],
)
def test_stopped_server_stores_its_last_state(bench, code, exit_code):
    """A server that has stopped is not considered lost, even if it had to kill a worker process.

    The exit code reports a failure if a process was killed.
    """
    child = bench.with_session(code)
    bench.supervisor._stop()
    if exit_code:
        child.popen.kill()
    child.popen.wait()

    bench.supervisor._exited(child)

    (server,) = bench.fire.servers.list()
    assert (False, False) == (server.is_alive, server.is_lost)
    assert exit_code == bench.supervisor._exit_code


def test_session_ends_even_if_its_last_state_cannot_be_stored(bench):
    """Releasing the session's jobs matters more than its last state."""
    child = bench.with_session("input()")
    bench.supervisor._stop()
    child.popen.wait()
    bench.storage.fail("renew", StorageUnavailable("away"))

    bench.supervisor._exited(child)

    (server,) = bench.fire.servers.list()
    assert (False, True) == (server.is_alive, server.is_lost)


def test_worker_process_started_in_an_outage_waits_for_its_session(bench):
    """The server continues, and the session begins as soon as the storage is reachable."""
    child = bench.child("import sys; sys.stdin.read()")  # stays alive regardless of the number of its orders
    bench.storage.fail("begin_session", StorageUnavailable("away"), StorageUnavailable("away"))

    bench.supervisor._introduce(child, {"about": [], "places": PLACES, "workers": 1})
    assert child.session is None
    bench.events(2)

    assert child.session is not None
    assert bench.supervisor._stops_at == module._NEVER
    assert child.popen.poll() is None


def test_session_of_a_dead_process_ends_after_the_outage(bench):
    """If a process died during an outage, its jobs do not wait for the session's timeout.

    Its job was claimed but did not run, so no crash is counted.
    """
    child = bench.with_session("import os; input(); os._exit(1)")
    job = bench.claimed(child)
    child.popen.wait()
    bench.storage.fail("end_session", StorageUnavailable("away"))

    bench.supervisor._exited(child)
    assert State.PROCESSING == job.refresh().state
    bench.events()

    record = job.refresh().record()
    assert (State.ENQUEUED, 0) == (record.state, record.crashes)


def test_new_worker_process_of_a_quiet_server_is_quiet(bench):
    """A quiet server does not claim jobs again because of a restarted process."""
    bench.supervisor._obey("quiet")

    child = bench.with_session("import sys; sys.exit(0 if 'quiet' in input() + input() else 1)")

    assert 0 == child.popen.wait()


def test_worker_process_that_never_becomes_ready_is_killed(bench):
    """A process that hangs during the import of the app or before its report is killed.

    A process that waits for its session is not killed.
    """
    long_ago = time.monotonic() - SETTINGS.hang_timeout - 1
    hangs, waits, frozen, begins = (bench.child("while True: pass") for _ in range(4))
    for child in (hangs, waits, frozen, begins):
        child.started_at = long_ago
    for child in (waits, frozen, begins):
        child.memory = SharedMemory.attach(child.descriptor, PLACES)
    frozen.began_at, begins.began_at = long_ago, time.monotonic()

    bench.supervisor._tick()

    until(lambda: hangs.popen.poll() is not None and frozen.popen.poll() is not None)
    assert (None, None) == (waits.popen.poll(), begins.popen.poll())


def test_slow_start_of_a_worker_process_is_logged_once(bench, caplog):
    """The warning is needed because an import that hangs logs nothing.

    A process that has loaded its app is exempt.
    """
    slow, quick, begun = bench.child(), bench.child(), bench.child()
    slow.started_at = begun.started_at = time.monotonic() - 11
    begun.memory = SharedMemory.attach(begun.descriptor, PLACES)

    bench.supervisor._tick()
    bench.supervisor._tick()

    [line] = [record.getMessage() for record in caplog.records]
    assert line == (
        f"Worker process {slow.popen.pid} has not started after 11 s: it is importing shop:fire, or "
        "connecting to its storage. It will be killed after 300 s (hang_timeout)."
    )
    assert quick.popen.poll() is None


def test_kill_by_the_server_is_not_reported_as_out_of_memory(bench, caplog):
    """The kernel uses the same signal, so the log and the job's history name the server as the cause."""
    caplog.set_level(logging.INFO, "firelock.server.supervisor")
    child = bench.with_session("while True: pass")
    job = bench.claimed(child)
    child.memory.start(0, job.id)

    child.kill()
    child.popen.wait(10)
    bench.supervisor._exited(child)

    assert (
        f"Worker process {child.popen.pid} died (killed by its server); it was running {job.id}."
        in caplog.text
    )
    assert "out of memory" not in caplog.text


def test_outage_that_delays_sessions_is_logged_once(bench, caplog):
    """One line is logged at the beginning of the outage and one at its end.

    These lines appear both for the new session and for the end of the old one.
    """
    caplog.set_level(logging.INFO, "firelock.server.supervisor")
    dead, new = bench.with_session("pass"), bench.child("import sys; sys.stdin.read()")
    dead.popen.wait()
    away = [StorageUnavailable("away")] * 3
    bench.storage.fail("end_session", *away)
    bench.storage.fail("begin_session", *away)

    bench.supervisor._exited(dead)
    bench.supervisor._introduce(new, {"about": [], "places": PLACES, "workers": 1})
    bench.events(7)

    lines = [line.getMessage() for line in caplog.records if "ession" in line.getMessage()]
    assert [
        f"Session {dead.session} could not be ended; its jobs wait until it has ended: away",
        f"No new session yet for worker process {new.popen.pid}; retrying every second: away",
    ] == lines[:2]
    assert {
        f"Session {dead.session} has ended; its jobs are back in their queues.",
        f"Worker process {new.popen.pid} has a new session.",
    } == set(lines[2:])
    assert 4 == len(lines)


def test_failed_start_of_a_worker_process_is_retried(bench, monkeypatch):
    """While the system cannot start processes, the server waits and retries, and leaks no open files."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    open_files = len(list(Path("/dev/fd").iterdir()))
    bench.supervisor._restarts.append((0.0, 0, 2))

    bench.supervisor._tick()

    assert [(0, 2)] == [(place, deaths) for _, place, deaths in bench.supervisor._restarts]
    assert open_files == len(list(Path("/dev/fd").iterdir()))


def test_server_ends_if_its_first_worker_process_cannot_start(monkeypatch):
    """The server does not retry its first process, because the cause is a problem with the machine."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    printed = []

    code = Supervisor(ServerOptions("shop:fire"), say=printed.append).run()

    assert module.EXIT_FAILED == code
    assert ["firelock: cannot start a worker process: [Errno 2]"] == [line[:50] for line in printed]


def test_pause_grows_if_worker_processes_end_immediately(bench, monkeypatch, caplog):
    """No zombie process remains, and the log contains each exit and the pause."""
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    pids = []
    bench.supervisor._restarts.append((0.0, 0, 0))
    for further in [0] * 6 + [2_000, 0]:
        bench.supervisor._tick()
        pids += bench.supervisor._processes
        bench.events()
        ((_, place, deaths),) = bench.supervisor._restarts
        bench.supervisor._restarts[:] = [(0.0, place, deaths + further)]
        bench.events()  # the event that starts due processes
    pauses = [int(seconds) for seconds in re.findall(r"starting another in (\d+) s", caplog.text)]

    assert [0, 1, 2, 4, 8, 16, 30, 30] == pauses
    assert [""] * 8 == [state_of(pid) for pid in pids]
    assert f"Worker process {pids[0]} ended before it could run a job (exit code 1); starting" in caplog.text


@pytest.mark.parametrize(("worked", "deaths"), [(None, 4), (1.0, 4), (60.0, 0)])
def test_restart_pause_ignores_the_time_of_the_import(bench, worked, deaths):
    """A process that imports its app for a minute and then fails is not restarted without a pause."""
    child = bench.with_session("pass") if worked else bench.child("pass")
    child.quick_deaths, child.started_at = 3, time.monotonic() - 90
    child.popen.wait()
    child.began_at = worked and time.monotonic() - worked

    bench.supervisor._exited(child)

    assert [deaths] == [deaths for _, _, deaths in bench.supervisor._restarts]


@pytest.mark.parametrize("lacking", [1, 2], ids=["for its end", "for what it says"])
def test_worker_process_without_a_watching_thread_is_restarted(bench, monkeypatch, caplog, lacking):
    """Without a free thread, the process is killed and cleaned up, and a restart is planned."""
    start, starts = threading.Thread.start, iter(range(1, 100))

    def refuses(thread):
        if next(starts) == lacking:
            raise RuntimeError("can't start new thread")
        start(thread)

    open_files = len(list(Path("/dev/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuses)
        bench.supervisor._start_process(0, 0)
    (pid,) = bench.supervisor._processes
    bench.events()

    assert ("", [(0, 1)]) == (
        state_of(pid),
        [(place, deaths) for _, place, deaths in bench.supervisor._restarts],
    )
    assert f"Worker process {pid} cannot be monitored; killing it: can't start new thread" in caplog.text
    # the remaining file is the shared memory, which the next process uses
    assert open_files + 1 == len(list(Path("/dev/fd").iterdir()))


# ---- a worker process that has reached a limit -----------------------------------------------------------

READS = "import sys; sys.stdin.read()"


def replacement(bench, old):
    """Return the process that will replace `old`."""
    return next(child for child in bench.supervisor._processes.values() if child.replaces is old)


def test_worker_process_at_its_limit_drains_after_its_successor_has_started(bench):
    """The new process starts first.

    After it has its session, the old process is ordered to retire, and gets no later `resume` order.
    """
    old = bench.with_session(ECHO)
    bench.read_orders(old)
    bench.supervisor._replace(old, "has run 1,000 jobs")
    new = replacement(bench, old)
    assert (old.place, False) == (new.place, old.is_retired)

    new.memory = old.memory  # as if it had imported the app
    bench.supervisor._begin(new)
    new.memory = None

    assert [{"retire": True}] == bench.read_orders(old)
    assert (True, None) == (old.is_retired, new.replaces)


def test_oldest_of_too_many_retired_processes_is_stopped(bench, caplog):
    """A job that hangs in several retired processes must not keep all of them alive.

    The other retired processes continue.
    """
    children = [bench.child(ECHO) for _ in range(6)]
    elsewhere = bench.child(ECHO)
    elsewhere.place, elsewhere.is_retired = 1, True
    retired, stopped = {"retire": True}, {"retire": True, "stop": SETTINGS.grace}

    for child in children:
        bench.supervisor._retire(child)

    orders = []
    for child in children:
        number = 2 if child in children[:2] else 1
        orders.append(
            {name: value for order in bench.read_orders(child, number) for name, value in order.items()}
        )
    assert [stopped, stopped, retired, retired, retired, retired] == orders
    assert 2 == caplog.text.count("was replaced and still runs jobs, as do 4 that were replaced after it")


def test_retired_process_that_does_not_stop_is_killed(bench, monkeypatch):
    """Crashes are counted for the jobs of the killed process, as for any other killed process."""
    monkeypatch.setattr(module, "_STOP_MARGIN", -SETTINGS.grace)
    children = [bench.with_session("import time; time.sleep(600)") for _ in range(5)]
    oldest = children[0]
    job = bench.claimed(oldest)
    oldest.memory.start(0, job.id)
    for child in children:
        bench.supervisor._retire(child)

    bench.supervisor._tick()

    assert -signal.SIGKILL == oldest.popen.wait(10)
    bench.supervisor._exited(oldest)
    assert 1 == job.refresh().record().crashes
    assert [None] * 4 == [child.popen.poll() for child in children[1:]]


def test_status_shows_the_process_that_claims(bench):
    """Neither a starting successor nor a draining process makes the server unready."""
    old = bench.with_session(READS)
    bench.supervisor._replace(old, "has 900 MB")
    new = replacement(bench, old)
    (while_it_starts,) = bench.supervisor.status().processes

    new.memory = old.memory
    bench.supervisor._begin(new)
    (while_the_old_one_drains,) = bench.supervisor.status().processes
    new.memory = None

    assert (old.popen.pid, True) == (while_it_starts.pid, while_it_starts.has_session)
    assert (new.popen.pid, True) == (while_the_old_one_drains.pid, while_the_old_one_drains.has_session)


def test_worker_processes_are_replaced_one_at_a_time(bench):
    """The other replacements wait until the first successor has its session."""
    first, second = bench.with_session(READS), bench.with_session(READS)
    bench.supervisor._replace(first, "has run 1 job")
    bench.supervisor._replace(second, "has run 1 job")
    assert 3 == len(bench.supervisor._processes)

    replacement(bench, first).replaces = None
    bench.events()

    assert replacement(bench, second) is not None


def test_drained_process_has_no_second_successor(bench):
    """A retired process ends as ordered, and no crash is counted for a job that ran to completion."""
    old = bench.with_session("input(); input()")
    bench.supervisor._retire(old)
    old.popen.wait()

    bench.supervisor._exited(old)

    assert [] == bench.supervisor._restarts
    assert [False] == [record.is_alive for record in bench.storage.list_sessions()]


def test_existing_successor_replaces_a_process_that_dies(bench):
    """The existing successor takes the place of the dead process, so no third process starts.

    A crash is counted for the running job as usual.
    """
    old = bench.with_session("import os; input(); input(); os._exit(1)")
    bench.supervisor._replace(old, "has 900 MB")
    bench.supervisor._send_order(old, {"any": 1})
    old.popen.wait()
    new = replacement(bench, old)

    bench.supervisor._exited(old)

    assert (None, []) == (new.replaces, bench.supervisor._restarts)


def test_worker_process_continues_if_its_successor_cannot_start(bench, monkeypatch, caplog):
    """If the code can no longer be imported, the old process keeps running.

    The replacement is tried again later.
    """
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.0)
    old = bench.with_session(READS)
    bench.supervisor._replace(old, "has 900 MB")
    new = replacement(bench, old)
    new.popen.kill()
    new.popen.wait()
    bench.supervisor._exited(new)
    assert "before it could replace another one, which continues" in caplog.text
    assert (None, False, []) == (old.popen.poll(), old.is_retired, bench.supervisor._restarts)

    until(lambda: not bench.supervisor._events.empty())
    while not any(child.replaces is old for child in bench.supervisor._processes.values()):
        bench.events()

    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    replacement(bench, old).replaces = None
    bench.supervisor._replace(old, "has 900 MB")
    assert "Cannot start a worker process" in caplog.text


def test_stopping_server_replaces_no_worker_process(bench):
    """The worker processes of a stopping server end anyway."""
    old = bench.with_session(READS)
    bench.supervisor._stop()

    bench.supervisor._replace(old, "has 900 MB")

    assert [old] == list(bench.supervisor._processes.values())


# ---- the end of a worker process that an operator ordered ------------------------------------------------


def stored_states(bench, *children):
    """Return the stored states of the processes' sessions after a renewal."""
    bench.keeper.renew()
    stored = {one.session.id: one.renewal.state for one in bench.storage.list_sessions()}
    return [stored[child.session] for child in children]


def test_process_ended_by_an_operator_does_not_wait_for_its_successor(bench):
    """The jobs of the ended process get the grace time, and the other worker processes continue."""
    old, other = bench.with_session(ECHO), bench.with_session(READS)
    bench.read_orders(old)

    bench.supervisor._obey(f"end {old.session}")

    assert [{"retire": True}, {"stop": SETTINGS.grace}] == bench.read_orders(old, 2)
    assert ["ending", "running"] == stored_states(bench, old, other)
    (new,) = set(bench.supervisor._processes.values()) - {old, other}
    assert (old.place, None) == (new.place, new.replaces)

    bench.supervisor._obey(f"end {old.session}")  # the same order a second time

    assert 3 == len(bench.supervisor._processes)


def test_retired_process_ended_by_an_operator_has_one_successor(bench):
    """Before the operator's order, the jobs of the retired process had unlimited time."""
    old = bench.with_session(ECHO)
    bench.read_orders(old)
    bench.supervisor._retire(old)
    (before,) = stored_states(bench, old)

    bench.supervisor._obey(f"end {old.session}")

    assert [{"retire": True}, {"stop": SETTINGS.grace}] == bench.read_orders(old, 2)
    assert ("retired", ["ending"]) == (before, stored_states(bench, old))
    assert [old] == list(bench.supervisor._processes.values())


def test_starting_successor_replaces_a_process_ended_by_an_operator(bench):
    """When the old process ends as ordered, its successor has no process to retire."""
    old = bench.with_session(ECHO)
    bench.read_orders(old)
    bench.supervisor._replace(old, "has 900 MB")
    new = replacement(bench, old)

    bench.supervisor._obey(f"end {old.session}")

    assert [{"retire": True}, {"stop": SETTINGS.grace}] == bench.read_orders(old, 2)
    assert (None, [old, new]) == (new.replaces, list(bench.supervisor._processes.values()))


def test_order_to_end_an_ended_worker_process_does_nothing(bench, caplog):
    """An order to end a process arrives too late if another process has already replaced it."""
    caplog.set_level(logging.INFO)
    child = bench.with_session(ECHO)
    bench.read_orders(child)

    bench.supervisor._obey("end another-session")

    assert "session another-session, which has already ended" in caplog.text
    assert (["running"], [child]) == (stored_states(bench, child), list(bench.supervisor._processes.values()))


def test_new_session_of_a_retired_process_is_marked_as_retired(bench):
    """The free workers of a retired process must not count again because its session was lost."""
    old = bench.with_session(READS)
    bench.supervisor._retire(old)
    bench.keeper.forget(old.session)

    bench.supervisor._begin(old)

    assert ["retired"] == stored_states(bench, old)


def test_worker_processes_report_the_stop_of_their_server(bench):
    """Retired processes are included, because the server is judged by the last state of each session."""
    old = bench.with_session(READS)
    bench.supervisor._retire(old)

    bench.supervisor._stop()

    assert ["stopping"] == stored_states(bench, old)


# ---- the first worker process and its storage ------------------------------------------------------------


@pytest.fixture
def fresh(bench):
    """A supervisor that has not opened its storage yet."""
    bench.supervisor._storage = bench.supervisor._sessions = None
    yield bench
    if bench.supervisor._sessions is not None:
        bench.supervisor._sessions.stop()
        bench.supervisor._storage.close()


def ready(url):
    """Return the report that a worker process sends after it has imported its app."""
    return {
        "storage": url, "settings": SETTINGS.to_json(), "workers": 3, "queues": "mail:1",
        "about": ["Firelock server here"], "places": PLACES,
    }  # fmt: skip


def test_first_ready_worker_process_opens_the_storage(fresh, tmp_path):
    """The server prints its description, and the session contains the data that the process reported."""
    child = fresh.child()

    fresh.supervisor._introduce(child, ready(f"sqlite:///{tmp_path / 'jobs.db'}"))

    (record,) = fresh.supervisor._storage.list_sessions()
    assert ["Firelock server here"] == fresh.printed
    assert (child.session, child.popen.pid) == (record.session.id, record.session.pid)
    assert (3, "mail:1") == (record.session.workers, record.session.queues)
    assert (PLACES, module._NEVER) == (child.memory.workers, fresh.supervisor._stops_at)


@pytest.mark.parametrize(
    ("url", "code", "printed"),
    [
        ("memory://alone", module.EXIT_UNREACHABLE, "exists in one process only"),
        ("mongo://there", module.EXIT_USAGE, "mongo"),
    ],
)
def test_server_ends_if_the_storage_cannot_be_used(fresh, url, code, printed):
    """The server prints the reason in one line and sets the exit code; the worker process ends."""
    child = fresh.child("while True: pass")

    fresh.supervisor._introduce(child, ready(url))

    assert printed in fresh.printed[-1]
    assert -signal.SIGKILL == child.popen.wait(10)
    fresh.supervisor._exited(child)
    assert (code, []) == (fresh.supervisor._exit_code, fresh.supervisor._restarts)


@pytest.mark.parametrize(
    ("code", "answer", "printed"),
    [
        (1, module.EXIT_FAILED, []),
        (2, module.EXIT_USAGE, []),
        (3, module.EXIT_UNREACHABLE, []),
        (0, module.EXIT_FAILED, ["exit code 0"]),
        (9, module.EXIT_FAILED, ["exit code 9"]),
    ],
)
def test_server_ends_if_its_first_worker_process_ends_early(fresh, code, answer, printed):
    """If the app cannot be imported, for example, another process could not import it either.

    Either the process or the server has printed the reason.
    """
    child, other = fresh.child(f"raise SystemExit({code})"), fresh.child(ECHO)
    child.popen.wait()

    fresh.supervisor._exited(child)

    assert [{"stop": SETTINGS.grace}] == fresh.read_orders(other)
    assert (answer, []) == (fresh.supervisor._exit_code, fresh.supervisor._restarts)
    assert printed == [line.partition("(")[2].partition(")")[0] for line in fresh.printed]


def test_first_worker_process_killed_during_its_start_is_replaced(fresh, caplog):
    """A process that the system killed, for example for lack of memory, is replaced.

    If this happens again, there is a pause. The log reports the end of the process.
    """
    restarts = []
    for deaths in (0, 3):
        child = fresh.child("while True: pass")
        child.quick_deaths = deaths
        child.popen.kill()
        child.popen.wait()
        fresh.supervisor._exited(child)
        restarts += [restart[1:] for restart in fresh.supervisor._restarts]
        fresh.supervisor._restarts.clear()

    assert [(0, 1), (0, 4)] == restarts
    assert (module.EXIT_OK, []) == (fresh.supervisor._exit_code, fresh.printed)
    assert (
        "ended before it could run a job (SIGKILL; possibly out of memory); starting another" in caplog.text
    )


# ---- lost sessions ---------------------------------------------------------------------------------------


def test_worker_process_gets_one_session_after_a_loss(bench):
    """Both the process and the renewals report the loss, but only this process gets a session, and only once.

    A process that has a session keeps it.
    """
    hit, spared = bench.with_session("input()"), bench.with_session("input()")
    lost, kept = hit.session, spared.session

    bench.supervisor._replace_session(lost)
    new = hit.session
    bench.supervisor._replace_session(lost)
    bench.supervisor._begin_when_possible(hit, lost)

    assert (new, kept) == (hit.session, spared.session)
    assert {lost, new, kept} == {one.session.id for one in bench.storage.list_sessions()}
    assert lost != new


def test_stopping_server_begins_no_session(bench):
    """A process that becomes ready while the server stops would only have to end its new session."""
    child = bench.child("input()")
    bench.supervisor._stop()

    bench.supervisor._introduce(child, {"about": [], "places": PLACES, "workers": 1})

    assert child.session is None
    assert [] == bench.storage.list_sessions()


@pytest.mark.parametrize(
    ("error", "is_stopping"),
    [(StorageError("broken"), False), (StorageUnavailable("away"), True)],
    ids=["no hope", "no time"],
)
def test_session_that_cannot_be_ended_waits_for_its_timeout(bench, caplog, error, is_stopping):
    """The session waits for its timeout if a retry would fail too or the server is ending. This is logged."""
    child = bench.with_session("input()")
    if is_stopping:
        bench.supervisor._stop()
    child.popen.kill()
    child.popen.wait()
    bench.storage.fail("end_session", error)

    bench.supervisor._exited(child)

    assert f"Session {child.session} could not be ended" in caplog.text
    assert [True] == [one.is_alive for one in bench.storage.list_sessions()]


# ---- orders ----------------------------------------------------------------------------------------------


def test_dead_worker_process_does_not_block_an_order(bench):
    """The other worker processes still get the order."""
    gone, there = bench.child("pass"), bench.child(ECHO)
    gone.popen.wait()

    bench.supervisor._obey("quiet")

    assert [{"quiet": True}] == bench.read_orders(there)


def test_second_stop_signal_ends_the_grace_time_and_third_kills(bench):
    """A repeated signal means that the server must end immediately."""
    heeds, ignores = bench.child(ECHO), bench.child("while True: pass")

    bench.supervisor._stop()
    bench.supervisor._stop()
    assert [{"stop": SETTINGS.grace}, {"hurry": True}] == bench.read_orders(heeds, 2)
    assert ignores.popen.poll() is None
    bench.supervisor._stop()

    assert [-signal.SIGKILL] * 2 == [heeds.popen.wait(10), ignores.popen.wait(10)]


def test_repeated_order_to_stop_keeps_the_grace_time(bench):
    """The order can arrive twice, or after the signal. The first stop keeps its deadline."""
    bench.supervisor._obey("stop")
    deadline = bench.supervisor._stops_at

    bench.supervisor._obey("stop")

    assert (module.ServerMode.STOPPING, deadline) == (bench.supervisor._state, bench.supervisor._stops_at)


def test_quiet_server_resumes(bench):
    """The worker processes of a resumed server claim again, and later processes are not quiet."""
    child = bench.child(ECHO)

    bench.supervisor._obey("quiet")
    bench.supervisor._obey("resume")

    later = bench.with_session(ECHO)
    bench.supervisor._send_order(later, {"last": True})
    assert [{"quiet": True}, {"quiet": False}] == bench.read_orders(child, 2)
    assert [{"session": later.session}, {"last": True}] == bench.read_orders(later, 2)


def test_worker_process_that_does_not_end_in_time_is_killed(bench):
    """The server does not wait forever: it kills the process after the grace time and the margin."""
    child = bench.child("while True: pass")
    child.memory = SharedMemory.attach(child.descriptor, PLACES)
    bench.supervisor._stop()
    bench.supervisor._tick()
    assert child.popen.poll() is None
    bench.supervisor._stops_at = time.monotonic() - 1

    bench.supervisor._tick()

    assert -signal.SIGKILL == child.popen.wait(10)
