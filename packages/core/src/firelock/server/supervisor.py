"""The supervisor, which renews a server's sessions and keeps its worker processes running.

The supervisor does not import the application or run jobs, so a job that blocks an interpreter cannot cause
the loss of a session. It notices when a worker process exits, so the jobs of that process return to their
queues immediately, before the lease expires.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from typing import Any

import attrs

from firelock.control.servers import ENDING, RETIRED, session_to_end
from firelock.errors import (
    ConfigurationError,
    FirelockError,
    SchemaMismatch,
    StorageError,
    StorageUnavailable,
)
from firelock.model.ids import new_id
from firelock.model.lifecycle import Moved
from firelock.plugins.hookspecs import ServerInfo
from firelock.plugins.loader import open_storage
from firelock.server.job_counters import Counted, read_counters, summed
from firelock.server.logs import LogFormat
from firelock.server.probes import (
    LOOPBACK,
    ProbeListener,
    ProcessStatus,
    ServerStatus,
    liveness,
    probe_pages,
    reported,
)
from firelock.server.process_state import describe_exit
from firelock.server.session_renewal import SessionRenewal
from firelock.server.shared_memory import NO_WORKERS, SharedMemory, share_memory
from firelock.server.systemd import SystemdNotifier
from firelock.settings import Settings
from firelock.storage import Feature, Storage

log = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE = 0, 1, 2, 3
_REPORTED_EXITS = {EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE}
_TICK = 1.0
_MOST_RETIRED = 4  # maximum number of replaced processes that still run jobs, per worker process
_STOP_MARGIN = 20.0  # worker processes that run this many seconds after the grace period are killed
_SHORT_LIFE, _LONGEST_PAUSE = 5.0, 30.0
_DOUBLINGS = 10  # maximum number of doublings; enough for the longest pause, and within the range of a float
_TRY_AGAIN = 1.0
_LONG_START = 10.0  # seconds after which a worker process that has not started is logged
_NEVER = float("inf")


@attrs.frozen
class ServerOptions:
    """The options of a server from the command line."""

    app_spec: str
    queues: str | None = None
    workers: int | None = None
    async_workers: int | None = None
    processes: int = 1
    name: str | None = None
    imports: tuple[str, ...] = ()
    storage: str | None = None  # a URL that replaces the app's own storage
    is_verbose: bool = False  # whether all processes log at the most detailed level
    log_format: str = LogFormat.TEXT
    log_meta: Sequence[str] = ()  # names of meta values that log records of a job contain
    max_jobs_per_process: int = 0  # 0 to use the app's own settings
    max_memory_per_process: int = 0  # MB; 0 to use the app's own settings
    probe_port: int = 0  # 0 to use the app's own settings
    probe_host: str = LOOPBACK


@attrs.frozen(kw_only=True)
class WorkerProcessOptions(ServerOptions):
    """The options that are passed to a worker process when it starts."""

    place: int  # its number among the worker processes of its server
    server_id: str
    server_name: str
    is_first: bool  # whether it must describe the server, because no worker process has done so yet
    counts_jobs: bool = False  # whether to count jobs without a plugin, because /metrics shows the counts


class ServerMode(StrEnum):
    """The requested mode of a server."""

    RUNNING = "running"
    QUIET = "quiet"
    STOPPING = "stopping"
    HURRYING = "hurrying"  # stopping without waiting for jobs


@attrs.define(eq=False)
class _Place:
    """The shared data of all worker processes that replace one another under the same number."""

    has_begun: bool = False  # whether one of these processes has had a session
    starts: int = 0
    cpu_seconds: float = 0.0  # total of the worker processes that have ended
    crashed_jobs: int = 0


@attrs.define(eq=False)
class _KnownProcess:
    place: int
    popen: subprocess.Popen[bytes]
    descriptor: int  # the descriptor of the shared memory
    counters: int  # descriptor of the memory for job counts, used by no other process at the same time
    orders: Any  # the writing end of the pipe for orders
    quick_deaths: int  # number of consecutive processes that died soon after their start
    started_at: float = attrs.Factory(time.monotonic)
    began_at: float | None = None  # time when it received its first session
    session: str | None = None
    memory: SharedMemory | None = None  # set when it has imported the app and knows its number of workers
    workers: int = 0
    replaces: _KnownProcess | None = None  # the process that drains when this one works; None after that
    is_retired: bool = False  # whether it drains because it has been replaced
    ends_by: float = _NEVER  # monotonic time at which it is killed
    is_slow: bool = False  # whether its slow start was logged
    is_killed: bool = False  # whether this supervisor has killed it

    def kill(self) -> None:
        """Kill the process."""
        self.is_killed = True
        self.popen.kill()

    def describe_exit(self, code: int) -> str:
        """Return a readable description of how the process ended."""
        return "killed by its server" if self.is_killed and code < 0 else describe_exit(code)


class Supervisor:
    """The main process of `firelock server`. `run()` returns its exit code."""

    def __init__(self, options: ServerOptions, *, say: Callable[[str], None]) -> None:
        self._options = options
        self._say = say
        self._id = new_id()
        self._name = options.name or f"{socket.gethostname()}:{os.getpid()}"
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._processes: dict[int, _KnownProcess] = {}
        self._restarts: list[tuple[float, int, int]] = []  # (time, process number, quick deaths)
        self._storage: Storage | None = None
        self._settings = Settings()
        self._sessions: SessionRenewal | None = None  # None until a worker process has reported the storage
        self._state = ServerMode.RUNNING
        self._stops_at = _NEVER
        self._exit_code = EXIT_OK
        self._probes: ProbeListener | None = None
        self._counters: list[int] = []  # memories in which worker processes have counted jobs
        self._spare_counters: list[
            int
        ] = []  # memories without a process; the next worker process continues their counts
        self._watched = (
            threading.Lock()
        )  # held while a worker process is removed from the list and its CPU time is added
        self._places = [_Place() for _ in range(options.processes)]
        self._turned_at = time.monotonic()
        self._manager = SystemdNotifier.of_environment()

    @property
    def _is_stopping(self) -> bool:
        return self._state in {ServerMode.STOPPING, ServerMode.HURRYING}

    # ---- the loop ----------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run the server until SIGTERM, SIGINT or an order stops it; return the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._events.put(self._stop))
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, lambda *_: self._events.put(lambda: self._obey("quiet")))
        if hasattr(signal, "SIGHUP"):  # also sent when a terminal is closed
            hang_up = self._stop if _is_in_terminal() else self._reload
            signal.signal(signal.SIGHUP, lambda *_: self._events.put(hang_up))
        try:
            self._listen_for_probes(self._options.probe_port)
        except ConfigurationError as error:
            self._say(f"firelock: {error}")
            return EXIT_USAGE
        try:
            for place in range(self._options.processes):
                self._start_process(place, 0)
        except (OSError, ConfigurationError) as error:
            self._say(f"firelock: cannot start a worker process: {error}")
            self._exit_code = EXIT_FAILED
            self._stop()
        while self._processes or (self._restarts and not self._is_stopping):
            with contextlib.suppress(queue.Empty):
                self._do(self._events.get(timeout=_TICK))
            self._do(self._tick)
        self._close()
        if self._sessions is not None:
            log.info("Stopped, with exit code %d.", self._exit_code)
        return self._exit_code

    def _close(self) -> None:
        if self._sessions is not None:
            self._sessions.stop()
        if self._storage is not None:
            self._storage.close()
        if self._probes is not None:
            self._probes.close()
        for descriptor in self._counters:
            os.close(descriptor)

    @staticmethod
    def _do(event: Callable[[], None]) -> None:
        """Handle the event; log any error, because all worker processes would end if this loop ended."""
        try:
            event()
        except Exception:
            log.exception("Unexpected error in the supervisor; continuing.")

    def _later(self, event: Callable[[], None], seconds: float | None = None) -> None:
        timer = threading.Timer(_TRY_AGAIN if seconds is None else seconds, lambda: self._events.put(event))
        timer.daemon = True
        timer.start()

    def _tick(self) -> None:
        now = self._turned_at = time.monotonic()
        if self._manager.is_due(now) and all(check.is_ok for check in liveness(self.status())):
            self._manager.notify("WATCHDOG=1")
        for restart in [restart for restart in self._restarts if restart[0] <= now]:
            self._restarts.remove(restart)
            if not self._is_stopping:
                self._start_again(restart[1], restart[2])
        for process in list(self._processes.values()):
            silence = _status_of(ProcessStatus(place=process.place), process).silent_for
            if silence > self._settings.hang_timeout:
                log.error(
                    "Worker process %d has not reported for %.0f s; killing it.",
                    process.popen.pid,
                    silence,
                )
                process.kill()
            elif now > min(self._stops_at, process.ends_by):
                log.error("Worker process %d did not end in time; killing it.", process.popen.pid)
                process.kill()
            elif process.memory is None and not process.is_slow and now - process.started_at > _LONG_START:
                process.is_slow = True
                log.warning(
                    "Worker process %d has not started after %.0f s: it is importing %s, or connecting to "
                    "its storage. It will be killed after %g s (hang_timeout).",
                    process.popen.pid, now - process.started_at, self._options.app_spec,
                    self._settings.hang_timeout,
                )  # fmt: skip

    # ---- start of worker processes -----------------------------------------------------------------------

    def _start_again(self, place: int, quick_deaths: int) -> None:
        try:
            self._start_process(place, quick_deaths)
        except (OSError, ConfigurationError) as error:
            log.error("Cannot start a worker process; retrying in %.0f s: %s", _LONGEST_PAUSE, error)
            self._restarts.append((time.monotonic() + _LONGEST_PAUSE, place, quick_deaths))

    def _start_process(self, place: int, quick_deaths: int, replaces: _KnownProcess | None = None) -> None:
        """Start a process. After it has reported its storage and settings, it receives its session.

        Raises:
            OSError: If the system cannot start the process or create the necessary pipes.
            ConfigurationError: If the system does not provide shared memory.
        """
        options = WorkerProcessOptions(
            **attrs.asdict(self._options), place=place, server_id=self._id, server_name=self._name,
            is_first=place == 0 and self._sessions is None,
            counts_jobs=self._options.probe_port > 0,
        )  # fmt: skip
        with contextlib.ExitStack() as undo:
            descriptor = _shared(undo)
            counters = self._spare_counters[-1] if self._spare_counters else _shared(undo)
            orders_read, orders_write = _pipe(undo)
            reports_read, reports_write = _pipe(undo)
            popen = subprocess.Popen(  # noqa: S603 - Firelock's own interpreter and module
                [sys.executable, "-m", "firelock.server.worker_process", str(os.getpid()), str(orders_read),
                 str(reports_write), str(descriptor), str(counters), json.dumps(attrs.asdict(options))],
                pass_fds=(orders_read, reports_write, descriptor, counters),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # so that only the supervisor receives a terminal's interrupt
            )  # fmt: skip
            undo.pop_all()
        if self._spare_counters:
            self._spare_counters.pop()
        else:
            self._counters.append(counters)
        os.close(orders_read)
        os.close(reports_write)
        process = _KnownProcess(
            place, popen, descriptor, counters, os.fdopen(orders_write, "w"), quick_deaths,
            replaces=replaces,
        )  # fmt: skip
        self._places[place].starts += 1
        self._processes[popen.pid] = process
        self._watch(process, reports_read)

    def _watch(self, process: _KnownProcess, reports: int) -> None:
        """Start threads that read the process's reports and wait until it ends; if they fail, kill it."""
        exits = threading.Thread(target=self._await_exit, args=(process,), daemon=True)
        try:
            exits.start()
            threading.Thread(target=self._listen, args=(process, reports), daemon=True).start()
        except RuntimeError as error:
            log.error("Worker process %d cannot be monitored; killing it: %s", process.popen.pid, error)
            os.close(reports)
            process.popen.kill()
            if exits.ident is None:
                self._await_exit(process)

    def _listen(self, process: _KnownProcess, reports: int) -> None:
        with os.fdopen(reports) as lines:
            for line in lines:
                report = json.loads(line)
                if "ready" in report:
                    self._events.put(lambda ready=report["ready"]: self._introduce(process, ready))  # type: ignore[misc]
                elif "session_lost" in report:
                    self._events.put(lambda lost=report["session_lost"]: self._replace_session(lost))  # type: ignore[misc]
                elif "worn" in report:
                    self._events.put(lambda why=report["worn"]: self._replace(process, why))  # type: ignore[misc]

    def _await_exit(self, process: _KnownProcess) -> None:
        process.popen.wait()
        self._events.put(lambda: self._exited(process))

    def _introduce(self, process: _KnownProcess, ready: dict[str, Any]) -> None:
        """Create the session of a worker process that has imported the app; the first reports the storage."""
        is_first = self._sessions is None
        try:
            process.memory, process.workers = (
                SharedMemory.attach(process.descriptor, ready["places"]),
                ready["workers"],
            )
            if is_first:
                self._open(ready)
                self._listen_for_probes(self._settings.probe_port)
            for line in ready["about"]:  # only process 0 reports this, even if another is ready first
                self._say(line)
            if ready["about"] and self._probes is not None:
                self._say(f"  probes: {self._probes.url} ({' '.join(self._probes.paths)})")
            if is_first:
                self._begin(process)
        except FirelockError as error:
            self._say(f"firelock: {error}")
            self._exit_code = exit_code_of(error)
            self._stop()
            process.popen.kill()
            return
        if not is_first:
            self._begin_when_possible(process, None)

    def _open(self, ready: dict[str, Any]) -> None:
        storage = open_storage(ready["storage"])
        if Feature.SHARED not in storage.features:
            raise StorageError(
                f"{storage.url} exists in one process only, and worker processes of a server are separate "
                "processes. Use sqlite:///jobs.db, or run fire.server() in the process that enqueues."
            )
        self._storage = storage
        self._settings = Settings.from_json(ready["settings"])
        self._sessions = SessionRenewal(
            storage, self._settings,
            ServerInfo(self._id, self._name, ready["queues"], ready["workers"], os.getpid()),
            on_lost=lambda session: self._events.put(lambda: self._replace_session(session)),
            on_order=lambda order: self._events.put(lambda: self._obey(order)),
        )  # fmt: skip
        self._sessions.mark(self._state)
        self._sessions.start()

    # ---- sessions ----------------------------------------------------------------------------------------

    def _begin(self, process: _KnownProcess) -> None:
        if self._sessions is None or process.memory is None or self._is_stopping:
            return  # the server is stopping
        process.session = self._sessions.begin(process.memory, pid=process.popen.pid, workers=process.workers)
        if process.is_retired:  # its previous session was lost
            self._mark(process)
        self._send_order(process, {"session": process.session})
        process.began_at = process.began_at or time.monotonic()
        self._places[process.place].has_begun = True
        if all(place.has_begun for place in self._places):
            self._manager.notify("READY=1")
        if self._state is ServerMode.QUIET:
            self._send_order(process, {"quiet": True})
        if process.replaces is not None:
            self._retire(process.replaces)
            process.replaces = None

    def _begin_when_possible(
        self, process: _KnownProcess, previous: str | None, *, is_repeat: bool = False
    ) -> None:
        """Create a new session for the worker process; if the storage is unreachable, try again later."""
        if process.session != previous or process.popen.poll() is not None:
            return
        try:
            self._begin(process)
        except StorageError as error:
            if not is_repeat:
                log.warning(
                    "No new session yet for worker process %d; retrying every second: %s",
                    process.popen.pid,
                    error,
                )
            self._later(lambda: self._begin_when_possible(process, previous, is_repeat=True))
            return
        if is_repeat and process.session != previous:
            log.info("Worker process %d has a new session.", process.popen.pid)

    def _replace_session(self, lost: str) -> None:
        """Replace a lost session; if its worker process is alive, it drops its claims and gets a new one."""
        if self._sessions is None:
            return
        self._sessions.forget(lost)
        for process in self._processes.values():
            if process.session == lost:
                self._begin_when_possible(process, lost)

    def _end_session(
        self, process: _KnownProcess, running: Collection[str], *, is_repeat: bool = False
    ) -> None:
        sessions, session = self._sessions, process.session
        if sessions is None or session is None:
            return
        code = process.popen.returncode
        is_in_order = code == EXIT_OK and not running
        reason = "server stopped"
        if not is_in_order:
            died = Moved.WORKER_DIED_ALONE if len(running) == 1 else Moved.WORKER_DIED
            reason = died.format(how=process.describe_exit(code))
        try:
            taken = sessions.end(session, running, reason=reason)
        except StorageUnavailable as error:
            if not is_repeat:
                log.warning(
                    "Session %s could not be ended; its jobs wait until it has ended: %s", session, error
                )
            if not self._is_stopping:
                self._later(lambda: self._end_session(process, running, is_repeat=True))
            return
        except StorageError as error:
            log.warning(
                "Session %s could not be ended, so its jobs wait until it expires: %s", session, error
            )
            return
        if is_repeat:
            log.info("Session %s has ended; its jobs are back in their queues.", session)
        if taken.crashed:
            self._places[process.place].crashed_jobs += len(taken.crashed)
            log.warning(
                "Worker process %d died (%s); it was running %s.",
                process.popen.pid,
                process.describe_exit(code),
                ", ".join(taken.crashed),
            )

    # ---- end of a worker process -------------------------------------------------------------------------

    def _exited(self, process: _KnownProcess) -> None:
        """Return the jobs of an ended worker process to their queues; if it died, count their crashes."""
        code = process.popen.returncode
        with self._watched:
            del self._processes[process.popen.pid]
            if process.memory is not None:
                self._places[process.place].cpu_seconds += process.memory.last_report().cpu_seconds
        self._spare_counters.append(process.counters)
        with contextlib.suppress(OSError):  # the buffer may contain an order that the process has not read
            process.orders.close()
        running = [] if process.memory is None else process.memory.running()
        # A job can also make its process exit with code 0. This is normal only after an order to stop.
        is_ordered = self._is_stopping or process.is_retired
        self._end_session(process, () if is_ordered and code == EXIT_OK else running)
        if process.memory is not None:
            process.memory.close()
        os.close(process.descriptor)
        if self._is_stopping:
            if code != EXIT_OK and self._exit_code == EXIT_OK:
                self._exit_code = EXIT_FAILED  # the worker process did not exit normally
        elif self._sessions is not None:
            self._replace_ended(process, code, was_running=bool(running))
        elif code < 0:  # killed, for example because memory ran out, so it has not reported a reason
            self._restart(process, code, was_running=False)
        else:
            if code not in _REPORTED_EXITS:
                self._say(
                    f"firelock: a worker process ended ({describe_exit(code)}) before it had imported "
                    f"{self._options.app_spec}; another one would end in the same way."
                )
            self._exit_code = code if code in {EXIT_USAGE, EXIT_UNREACHABLE} else EXIT_FAILED
            self._stop()

    def _replace_ended(self, process: _KnownProcess, code: int, *, was_running: bool) -> None:
        """Start another worker process, unless the ended one has already been or will be replaced."""
        successor = next((other for other in self._processes.values() if other.replaces is process), None)
        if successor is not None:
            successor.replaces = None  # there is no process to drain
        elif process.replaces is not None:
            old = process.replaces
            log.warning(
                "Worker process %d ended (%s) before it could replace another one, which continues.",
                process.popen.pid,
                process.describe_exit(code),
            )
            self._later(lambda: self._replace(old, "must still be replaced"), _LONGEST_PAUSE)
        elif not process.is_retired:
            self._restart(process, code, was_running=was_running)

    # ---- replacement of a worker process that has reached a limit or runs old code -----------------------

    def _reload(self) -> None:
        """Replace all worker processes, so that they import the current code; retry failed starts now."""
        if (
            self._sessions is None
        ):  # the first worker process describes the server, so it must finish its start
            self._later(self._reload)
            return
        for process in list(self._processes.values()):
            self._replace(process, "must reload its code")
        self._restarts = [(0.0, place, 0) for _, place, _ in self._restarts]

    def _replace(self, process: _KnownProcess, why: str) -> None:
        """Start a replacement, one at a time; the replaced process drains when the new one can run jobs.

        With this order, the number of workers never decreases, and a worker process continues if its
        successor cannot start.
        """
        if self._is_stopping or process.is_retired or process.popen.poll() is not None:
            return
        if process.session is None or any(other.replaces for other in self._processes.values()):
            self._later(lambda: self._replace(process, why))
            return
        log.info("Worker process %d %s; starting another in its place.", process.popen.pid, why)
        try:
            self._start_process(process.place, 0, replaces=process)
        except (OSError, ConfigurationError) as error:
            log.error("Cannot start a worker process; retrying in %.0f s: %s", _LONGEST_PAUSE, error)
            self._later(lambda: self._replace(process, why), _LONGEST_PAUSE)

    def _retire(self, process: _KnownProcess) -> None:
        """Let the worker process stop claiming jobs, and end after its last job.

        Its jobs may take as long as they need until too many other processes have been retired after it.
        Without this limit, jobs that hang could keep any number of retired processes alive.
        """
        process.is_retired = True
        self._mark(process)
        self._send_order(process, {"retire": True})
        draining = [
            one
            for one in self._processes.values()  # in the order in which the processes were started
            if one.place == process.place and one.is_retired and one.ends_by == _NEVER
        ]
        for oldest in draining[:-_MOST_RETIRED]:
            log.warning(
                "Worker process %d was replaced and still runs jobs, as do %d that were replaced after it; "
                "its jobs have %g s to end before they return to their queues.",
                oldest.popen.pid, _MOST_RETIRED, self._settings.grace,
            )  # fmt: skip
            self._cut_short(oldest)

    def _cut_short(self, process: _KnownProcess) -> None:
        """Wait for the jobs of a retired worker process until the grace period ends; then requeue them."""
        grace = self._settings.grace
        process.ends_by = time.monotonic() + grace + _STOP_MARGIN
        self._mark(process)
        self._send_order(process, {"stop": grace})

    def _mark(self, process: _KnownProcess) -> None:
        """Mark the session of a retired worker process as retired."""
        if self._sessions is not None and process.session is not None:
            self._sessions.mark_leaving(process.session, RETIRED if process.ends_by == _NEVER else ENDING)

    def _end_process(self, session: str) -> None:
        """Replace and end the worker process of a session for an operator; its jobs get the grace period.

        The process does not wait for its successor, which might be unable to start.
        """
        process = next((one for one in self._processes.values() if one.session == session), None)
        if process is None or process.popen.poll() is not None:
            log.info(
                "Ignoring an order to end the worker process of session %s, which has already ended.", session
            )
            return
        if process.ends_by != _NEVER:
            return
        log.warning(
            "Ending worker process %d because of an order: it claims no more jobs, and its running jobs have "
            "%g s to end before they return to their queues.",
            process.popen.pid, self._settings.grace, extra={"session": session},
        )  # fmt: skip
        successor = next((one for one in self._processes.values() if one.replaces is process), None)
        if successor is not None:
            successor.replaces = None  # there is no process to retire
        if not process.is_retired:
            self._retire(process)
            if successor is None:
                self._start_again(process.place, 0)
        if process.ends_by == _NEVER:
            self._cut_short(process)

    def _restart(self, process: _KnownProcess, code: int, *, was_running: bool) -> None:
        """Start another worker process.

        If a job may have killed the previous process, start the next one immediately, because the number of
        crashes is limited. If a process ends before it can run jobs, or soon after that, the next one starts
        after a growing pause. It does not matter how long the start of the process took.
        """
        worked = 0.0 if process.began_at is None else time.monotonic() - process.began_at
        deaths = process.quick_deaths + 1 if worked < _SHORT_LIFE and not was_running else 0
        pause = 0.0 if deaths <= 1 else min(_LONGEST_PAUSE, 2.0 ** min(deaths - 2, _DOUBLINGS))
        early = "before it could run a job " if process.began_at is None else ""
        log.warning(
            "Worker process %d ended %s(%s); starting another in %.0f s.",
            process.popen.pid, early, process.describe_exit(code), pause,
        )  # fmt: skip
        self._restarts.append((time.monotonic() + pause, process.place, deaths))
        self._events.put(lambda: None)

    # ---- monitoring --------------------------------------------------------------------------------------

    def _listen_for_probes(self, port: int) -> None:
        """Serve the probes on this port, unless they are already served; do nothing if the port is 0.

        Raises:
            ConfigurationError: If the port cannot be used.
        """
        if port and self._probes is None:
            self._probes = ProbeListener(
                self._options.probe_host, port, probe_pages(self.status, self._counted)
            )

    def status(self) -> ServerStatus:
        """Return the current status of the server from memory. Thread-safe."""
        now, sessions = time.monotonic(), self._sessions
        waiting = {place: at - now for at, place, _ in list(self._restarts)}
        with self._watched:
            processes = tuple(
                self._status_of(number, place, waiting.get(number, 0.0))
                for number, place in enumerate(self._places)
            )
        return ServerStatus(
            name=self._name,
            mode=str(self._state),
            processes=processes,
            turned=now - self._turned_at,
            reached=None if sessions is None or sessions.reached_at is None else now - sessions.reached_at,
            round_trips=() if sessions is None else tuple(sessions.round_trips),
            round_trip_seconds=0.0 if sessions is None else sessions.round_trip_seconds,
            hang_timeout=self._settings.hang_timeout,
            heartbeat=self._settings.heartbeat,
        )

    def _status_of(self, number: int, place: _Place, starts_in: float) -> ProcessStatus:
        status = ProcessStatus(
            place=number, has_begun=place.has_begun, starts_in=max(0.0, starts_in), starts=place.starts,
            crashed_jobs=place.crashed_jobs, cpu_seconds=place.cpu_seconds,
        )  # fmt: skip
        here = [process for process in list(self._processes.values()) if process.place == number]
        here.sort(key=lambda process: process.session is not None and not process.is_retired)
        for process in here:  # if there are two, the one that claims jobs is last; their CPU times are added
            status = _status_of(status, process)
        return status

    def _counted(self) -> Counted:
        """Return the counts of all worker processes, including those that have ended."""
        return summed(map(read_counters, list(self._counters)))

    # ---- orders ------------------------------------------------------------------------------------------

    def _send_order(self, process: _KnownProcess, order: dict[str, Any]) -> None:
        try:
            process.orders.write(json.dumps(order) + "\n")
            process.orders.flush()
        except OSError:
            log.debug("Worker process %d ended before it received the order %s.", process.popen.pid, order)

    def _enter(self, state: ServerMode, order: dict[str, Any]) -> None:
        self._state = state
        if self._is_stopping:
            self._manager.notify("STOPPING=1")
        if self._sessions is not None and state is not ServerMode.HURRYING:
            self._sessions.mark(state)
        for process in self._processes.values():
            self._send_order(process, order)

    def _stop(self) -> None:
        """Stop normally; on the second call, hand jobs back immediately; on the third, kill the processes."""
        if not self._is_stopping:
            self._stops_at = time.monotonic() + self._settings.grace + _STOP_MARGIN
            if self._sessions is not None:
                log.info(
                    "Stopping: claiming no more jobs; running jobs have %g s to end.", self._settings.grace
                )
            self._enter(ServerMode.STOPPING, {"stop": self._settings.grace})
        elif self._state is ServerMode.STOPPING:
            self._stops_at = time.monotonic() + _STOP_MARGIN
            log.info("Stop requested again: handing back running jobs immediately.")
            self._enter(ServerMode.HURRYING, {"hurry": True})
        else:
            log.warning("Stop requested a third time: killing all worker processes.")
            for process in self._processes.values():
                process.kill()

    def _obey(self, order: str) -> None:
        """Carry out an operator's order; a stopping server ignores it."""
        if self._is_stopping:
            return
        session = session_to_end(order)
        if session is not None:
            self._end_process(session)
        elif order == "stop":
            self._stop()
        else:
            is_quiet = order == "quiet"
            log.info("Quiet: claiming no jobs until resumed." if is_quiet else "Claiming jobs again.")
            self._enter(ServerMode.QUIET if is_quiet else ServerMode.RUNNING, {"quiet": is_quiet})


def _status_of(status: ProcessStatus, process: _KnownProcess) -> ProcessStatus:
    """Return the status, completed with the data of this worker process."""
    now = time.monotonic()
    status = attrs.evolve(
        status, pid=process.popen.pid, age=now - process.started_at, has_session=process.session is not None,
        has_loaded=process.memory is not None,
        waited=None if process.began_at is None else now - process.began_at,
        silence=None, turned=None, workers=NO_WORKERS, rss_bytes=0,
    )  # fmt: skip
    return status if process.memory is None else reported(status, process.memory)


def _is_in_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _shared(undo: contextlib.ExitStack) -> int:
    descriptor = share_memory()
    undo.callback(os.close, descriptor)
    return descriptor


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        undo.callback(os.close, end)
    return ends


def exit_code_of(error: FirelockError) -> int:
    """Return the exit code of a server that cannot start.

    A schema mismatch counts as a usage error, because it lasts until a person upgrades or migrates.
    """
    is_unreachable = isinstance(error, StorageError) and not isinstance(error, SchemaMismatch)
    return EXIT_UNREACHABLE if is_unreachable else EXIT_USAGE


def share(total: int, places: int, place: int) -> int:
    """Return how many of a server's workers a worker process gets: an equal share; the first get one more."""
    return max(1, total // places + (1 if place < total % places else 0))
