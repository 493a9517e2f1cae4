"""The status of a server for monitoring (alive, ready, started, metrics), and the port that serves it.

The status is read from the supervisor's memory. A probe calls neither a hook nor the storage, so probes are
cheap, and a hanging storage does not delay a response.
"""

from __future__ import annotations

import logging
import os
import platform
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

import attrs

from firelock.errors import ConfigurationError
from firelock.model.metrics import METRICS_TYPE, MetricFamily, metrics_text
from firelock.model.text import number_of
from firelock.plugins.loader import installed_version
from firelock.server.job_counters import Counted, job_families
from firelock.server.session_renewal import ROUND_TRIPS
from firelock.server.shared_memory import NO_WORKERS, SharedMemory, WorkerCounts

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
_HTTP_OK, _BAD_REQUEST, _NOT_FOUND, _NOT_ALLOWED, _TOO_LARGE, _BROKEN, _UNAVAILABLE = (
    200, 400, 404, 405, 431, 500, 503,
)  # fmt: skip
_REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip
_PLAIN = "text/plain; charset=utf-8"
_TIMEOUT = 2.0  # maximum number of seconds for a request and its response
_CONNECTION_LIMIT = 128  # maximum number of connections; if there are more, the oldest is closed
_BACKLOG = 256
_LONGEST_HEAD = 8 * 1024
_PAUSE = 0.1  # seconds to pause after a connection error

# ---- status ----------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class ProcessStatus:
    """The current status of a numbered worker process of a server. Durations are in seconds."""

    place: int  # the number of the worker process, starting at 0
    pid: int | None = None  # None if the process has ended and another one is about to start
    age: float = 0.0  # duration since the process started
    has_loaded: bool = False  # whether it has imported the app
    waited: float | None = None  # duration since its first session began; None before that
    workers: WorkerCounts = NO_WORKERS  # all zeros before the first report
    silence: float | None = None  # duration since its last report; None before the first report
    turned: float | None = None  # duration since its dispatcher's last iteration; None before the first
    failing: float | None = (
        None  # duration since the storage began to refuse its claims and outcomes; None if it accepts them
    )
    has_session: bool = False  # whether its session is valid, so that it may start jobs
    has_begun: bool = False  # whether a process with this number has had a session
    cpu_seconds: float = 0.0  # total of all processes that have had this number
    rss_bytes: int = 0
    starts_in: float = 0.0  # seconds until the next process starts, if this one has ended
    starts: int = 1  # number of processes that were started with this number
    crashed_jobs: int = 0  # number of jobs that were running when a process with this number died

    @property
    def silent_for(self) -> float:
        """The number of seconds for which an expected report has been missing; see the setting hang_timeout.

        A worker process that has imported the app waits for its session, which it gets as soon as the storage
        is available. This wait does not count, because reports are expected only after it.
        """
        if self.silence is not None:
            return self.silence
        return (self.waited or 0.0) if self.has_loaded else self.age


def reported(status: ProcessStatus, memory: SharedMemory) -> ProcessStatus:
    """Return the status, completed with the values that the worker process shares; CPU times are added up.

    Raises:
        ValueError: If the memory is unmapped.
    """
    now, report, turned_at = time.monotonic(), memory.last_report(), memory.last_turn()
    failing_since = memory.failing_since()
    return attrs.evolve(
        status,
        has_loaded=True,
        workers=report.workers,
        silence=now - report.at if report.at else None,
        turned=now - turned_at if turned_at else None,
        failing=now - failing_since if failing_since else None,
        has_session=status.has_session and memory.has_right(),
        cpu_seconds=status.cpu_seconds + report.cpu_seconds,
        rss_bytes=report.rss_bytes,
    )


@attrs.frozen(kw_only=True)
class ServerStatus:
    """The current status of a server. Durations are in seconds."""

    name: str
    mode: str  # running, quiet, stopping or hurrying
    processes: tuple[ProcessStatus, ...]  # the worker processes, in the order of their numbers
    turned: float = 0.0  # duration since the last iteration of the supervisor's loop
    reached: float | None = None  # duration since the storage last replied; None if it has never replied
    round_trips: tuple[int, ...] = ()  # number of renewals in each bucket of ROUND_TRIPS
    round_trip_seconds: float = 0.0  # total time of all renewals
    hang_timeout: float  # the setting: seconds without a report after which a process is considered dead
    heartbeat: float


@attrs.frozen
class Check:
    """The result of one check."""

    name: str
    is_ok: bool
    text: str  # the result as one readable line

    def __str__(self) -> str:
        """Return the result as one line of a page."""
        return f"{'ok' if self.is_ok else 'failed'} {self.name}: {self.text}"


def liveness(status: ServerStatus) -> list[Check]:
    """Return whether every loop is still running; otherwise the server must be restarted.

    A worker process counts as alive while it is being replaced, imports its app, waits for its session or
    stops. The storage is not checked, because a new process could not reach it either.
    """
    loop = _turning("supervisor", status.turned, status.hang_timeout, "")
    return [loop, *(_is_process_alive(process, status) for process in status.processes)]


def _is_process_alive(process: ProcessStatus, status: ServerStatus) -> Check:
    name, limit = f"worker process {process.place}", status.hang_timeout
    if process.pid is None:
        return Check(name, True, f"it has ended; another one starts in {process.starts_in:.0f} s")
    if process.silence is None and process.has_loaded and process.waited is None:
        return Check(name, True, "it waits for its session, which begins when the storage responds")
    silent = process.silent_for
    if process.silence is None:
        return Check(name, silent <= limit, f"it has been starting for {silent:.1f} s (maximum: {limit:g} s)")
    if silent > limit:
        return Check(name, False, f"it has not reported for {silent:.0f} s (maximum: {limit:g} s)")
    if process.turned is None:
        return _turning(name, process.waited or 0.0, limit, "")
    return _turning(name, process.turned, limit, _in_words(process.workers))


def _in_words(workers: WorkerCounts) -> str:
    """Return how many workers are busy, as the second part of a sentence."""
    kinds = [f"{workers.busy_threads} of {number_of(workers.threads, 'thread')}"]
    if workers.coroutines:
        kinds.append(f"{workers.busy_coroutines} of {number_of(workers.coroutines, 'coroutine')}")
    stuck = workers.stuck_threads + workers.stuck_coroutines
    late = f", {stuck} of them with a timed-out job" if stuck else ""
    return f", {' and '.join(kinds)} busy{late}"


def _turning(name: str, turned: float, limit: float, more: str) -> Check:
    if turned <= limit:
        return Check(name, True, f"its loop turned {turned:.1f} s ago{more}")
    return Check(name, False, f"its loop has not turned for {turned:.0f} s (maximum: {limit:g} s){more}")


def readiness(status: ServerStatus) -> list[Check]:
    """Return whether the server claims jobs.

    A server claims jobs if the storage accepts claims, at least one session is valid, and the server is not
    draining.
    """
    mode = Check("mode", status.mode == "running", status.mode)
    if status.mode == "quiet":
        mode = Check("mode", False, "draining: the server is quiet and claims no jobs")
    elif not mode.is_ok:
        mode = Check("mode", False, "draining: the server is stopping")
    alive = sum(process.has_session for process in status.processes)
    processes = number_of(len(status.processes), "worker process", "worker processes")
    session = Check("session", alive > 0, f"{alive} of {processes} may start jobs")
    return [_storage(status), session, mode]


def _storage(status: ServerStatus) -> Check:
    limit = 2 * status.heartbeat
    if status.reached is None:
        return Check("storage", False, "it has not been reached yet")
    is_lately = status.reached <= limit
    text = f"it responded {status.reached:.1f} s ago"
    failing = [process.failing for process in status.processes if process.has_session]
    seconds = [each for each in failing if each is not None]
    if is_lately and seconds and len(seconds) == len(failing):
        return Check("storage", False, f"{text}, but has refused claims for {min(seconds):.1f} s")
    return Check("storage", is_lately, text if is_lately else f"{text} (maximum: {limit:g} s)")


def startup(status: ServerStatus) -> list[Check]:
    """Return whether the server has started, that is, whether all its worker processes have had a session."""
    return [
        Check(
            f"worker process {process.place}",
            process.has_begun,
            "it has started" if process.has_begun else "it has not begun to run jobs yet",
        )
        for process in status.processes
    ]


def probe_pages(
    status: Callable[[], ServerStatus], counted: Callable[[], Counted]
) -> dict[str, Callable[[], ProbeAnswer]]:
    """Return the pages of a server by path.

    Args:
        status: returns the current status of the server.
        counted: returns the counts of the `Prometheus` plugins in its processes.
    """

    def metrics() -> ProbeAnswer:
        families = [*server_families(status()), *job_families(counted())]
        return ProbeAnswer(_HTTP_OK, metrics_text(families), METRICS_TYPE)

    return {
        "/livez": lambda: ProbeAnswer.of(liveness(status())),
        "/readyz": lambda: ProbeAnswer.of(readiness(status())),
        "/startupz": lambda: ProbeAnswer.of(startup(status())),
        "/metrics": metrics,
    }


# ---- metrics ---------------------------------------------------------------------------------------------


def server_families(status: ServerStatus) -> list[MetricFamily]:
    """Return the status of a server, with its supervisor and its worker processes, as metrics."""
    ready = all(check.is_ok for check in readiness(status))
    mode = MetricFamily("firelock_server_mode", "gauge", "1 for the current mode of the server.")
    for name in ("running", "quiet", "stopping"):
        mode.add(float(name == status.mode.replace("hurrying", "stopping")), mode=name)
    families = [
        MetricFamily("firelock_build_info", "gauge", "Always 1, with the versions as labels.").add(
            1, version=installed_version(), python=platform.python_version()
        ),
        MetricFamily("firelock_server_ready", "gauge", "1 if /readyz returns 200.").add(float(ready)),
        mode,
        MetricFamily(
            "firelock_storage_roundtrip_seconds",
            "histogram",
            "Durations of session renewals, one per heartbeat.",
        ).add_histogram(
            ROUND_TRIPS, status.round_trips or (0,) * (len(ROUND_TRIPS) + 1), status.round_trip_seconds
        ),
    ]
    if status.reached is not None:
        families.append(
            MetricFamily(
                "firelock_storage_age_seconds", "gauge", "Seconds since the storage last responded."
            ).add(round(status.reached, 3))
        )
    return [*families, *_process_families(status.processes)]


def _process_families(processes: Sequence[ProcessStatus]) -> list[MetricFamily]:
    up = MetricFamily("firelock_worker_process_up", "gauge", "1 if the worker process has a living session.")
    starts = MetricFamily(
        "firelock_worker_process_starts_total", "counter", "Processes started in this place."
    )
    crashed = MetricFamily(
        "firelock_worker_process_crashed_jobs_total",
        "counter",
        "Jobs that were running when their worker process died.",
    )
    slots = MetricFamily("firelock_worker_process_worker_slots", "gauge", "Threads and coroutines, by state.")
    stuck = MetricFamily(
        "firelock_worker_process_stuck_workers",
        "gauge",
        "Workers that are occupied by a timed-out job.",
    )
    parked = MetricFamily(
        "firelock_worker_process_parked_ends",
        "gauge",
        "Ends that wait for rows which other transactions have locked.",
    )
    cpu = MetricFamily(
        "firelock_worker_process_cpu_seconds_total", "counter", "CPU time of all processes in this place."
    )
    memory = MetricFamily("firelock_worker_process_resident_memory_bytes", "gauge", "Memory of the process.")
    turned = MetricFamily(
        "firelock_worker_process_turn_age_seconds", "gauge", "Seconds since the dispatcher's last turn."
    )
    for process in processes:
        place = str(process.place)
        up.add(float(process.has_session), process=place)
        starts.add(process.starts, process=place)
        crashed.add(process.crashed_jobs, process=place)
        workers = process.workers
        slots.add(workers.busy, process=place, state="busy")
        idle = workers.threads + workers.coroutines - workers.busy
        slots.add(max(0, idle), process=place, state="idle")
        stuck.add(workers.stuck_threads, process=place, kind="thread")
        stuck.add(workers.stuck_coroutines, process=place, kind="coroutine")
        parked.add(workers.parked, process=place)
        cpu.add(round(process.cpu_seconds, 3), process=place)
        memory.add(process.rss_bytes, process=place)
        if process.turned is not None:
            turned.add(round(process.turned, 3), process=place)
    return [up, starts, crashed, slots, stuck, parked, cpu, memory, turned]


# ---- the port --------------------------------------------------------------------------------------------


@attrs.frozen
class ProbeAnswer:
    """The response to a request for one path."""

    status: int
    text: str
    content_type: str = _PLAIN

    @classmethod
    def of(cls, checks: Iterable[Check]) -> ProbeAnswer:
        """Return the checks as lines: status 200 if all are ok, otherwise 503."""
        given = list(checks)
        is_ok = all(check.is_ok for check in given)
        return cls(_HTTP_OK if is_ok else _UNAVAILABLE, "".join(f"{check}\n" for check in given))


@attrs.define(eq=False)
class _Caller:
    """A connection on which one request is received and one response is sent."""

    connection: socket.socket
    deadline: float  # monotonic
    head: bytes = b""
    answer: memoryview | None = None  # the part of the response that has not been sent


class ProbeListener:
    """A thread that responds to GET and HEAD requests for a few paths; its errors affect nothing else.

    It listens as soon as it is created. Each connection is for one request, and may last two seconds.
    Connections do not wait for each other: a slow connection only occupies its descriptor, and the oldest
    connection is closed if there are too many.

    Raises:
        ConfigurationError: If the port cannot be used.
    """

    def __init__(self, host: str, port: int, pages: Mapping[str, Callable[[], ProbeAnswer]]) -> None:
        self._pages = pages
        self._is_over = False
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except (OSError, UnicodeError) as error:
            number = error.errno if isinstance(error, OSError) else None
            why = os.strerror(number) if number and number > 0 else error  # negative if no host is found
            raise ConfigurationError(
                f"Cannot listen for probes at {self.url}: {why}. Set another port with --probe-port, set "
                "another address with --probe-host, or stop the program that listens there."
            ) from error
        self._socket.setblocking(False)
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._callers: dict[int, _Caller] = {}  # connections by descriptor, oldest first
        self._thread = threading.Thread(target=self._run, name="firelock-probes", daemon=True)
        self._thread.start()

    @property
    def paths(self) -> list[str]:
        """The paths that can be requested."""
        return list(self._pages)

    def close(self) -> None:
        """Stop listening and close all connections."""
        self._is_over = True
        with suppress(OSError):
            self._wake.send(b"x")
        if self._thread is not threading.current_thread():
            self._thread.join(_TIMEOUT)
        self._wake.close()

    def _run(self) -> None:
        try:
            while not self._is_over:
                try:
                    self._turn()
                except Exception:
                    log.exception("Unexpected error at the probe port; continuing.")
                    time.sleep(_PAUSE)
        finally:
            for caller in list(self._callers.values()):
                self._close(caller)
            self._selector.close()
            self._socket.close()
            self._woken.close()

    def _turn(self) -> None:
        first = next(iter(self._callers.values()), None)
        left = None if first is None else max(0.0, first.deadline - time.monotonic())
        for key, _ in self._selector.select(left):
            if key.fileobj is self._socket:
                self._accept()
            elif isinstance(key.data, _Caller):
                self._go_on(key.data)
        now = time.monotonic()
        for caller in list(self._callers.values()):
            if caller.deadline > now:
                break
            self._close(caller)

    def _accept(self) -> None:
        """Accept every waiting connection; if there are too many, close the oldest."""
        while True:
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptor is free, so close a connection
                if not self._callers:
                    time.sleep(_PAUSE)
                    return
                self._close(next(iter(self._callers.values())))
                return
            connection.setblocking(False)
            if len(self._callers) >= _CONNECTION_LIMIT:
                self._close(next(iter(self._callers.values())))
            caller = _Caller(connection, time.monotonic() + _TIMEOUT)
            self._callers[connection.fileno()] = caller
            self._selector.register(connection, selectors.EVENT_READ, caller)

    def _go_on(self, caller: _Caller) -> None:
        """Read or write as much as possible without waiting."""
        if self._callers.get(caller.connection.fileno()) is not caller:  # it was closed in this iteration
            return
        try:
            if caller.answer is None and not self._read(caller):
                return
            assert caller.answer is not None  # noqa: S101 - `_read` has set it
            caller.answer = caller.answer[caller.connection.send(caller.answer) :]
            if caller.answer:
                self._selector.modify(caller.connection, selectors.EVENT_WRITE, caller)
                return
        except BlockingIOError:
            if caller.answer is not None:
                self._selector.modify(caller.connection, selectors.EVENT_WRITE, caller)
            return
        except OSError:
            pass  # the client has disconnected
        self._close(caller)

    def _read(self, caller: _Caller) -> bool:
        """Read a part of the request; return whether the request is complete and its response ready.

        Raises:
            OSError: If the client has closed the connection, or nothing can be read now.
        """
        received = caller.connection.recv(4096)
        if not received:
            raise ConnectionError("the client has disconnected")
        caller.head += received
        if b"\r\n\r\n" in caller.head:
            caller.answer = memoryview(_text_of(*self._answer(caller.head)))
        elif len(caller.head) > _LONGEST_HEAD:
            caller.answer = memoryview(_text_of(*self._answer(None)))
        return caller.answer is not None

    def _close(self, caller: _Caller) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(caller.connection)
        self._callers.pop(caller.connection.fileno(), None)
        caller.connection.close()

    def _answer(self, head: bytes | None) -> tuple[ProbeAnswer, bool]:
        """Return the response, and whether its body must be sent."""
        if head is None:
            return ProbeAnswer(_TOO_LARGE, "The request is too long.\n"), True
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        target, _, version = rest.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not target.startswith(b"/"):
            return ProbeAnswer(_BAD_REQUEST, "This is not a valid HTTP request.\n"), True
        if method not in {b"GET", b"HEAD"}:
            return ProbeAnswer(_NOT_ALLOWED, "Only GET and HEAD are supported.\n"), True
        path, is_get = target.partition(b"?")[0].decode("latin-1"), method == b"GET"
        page = self._pages.get(path)
        if page is None:
            return ProbeAnswer(_NOT_FOUND, f"Not found. Available paths: {', '.join(self._pages)}.\n"), is_get
        try:
            return page(), is_get
        except Exception:
            log.exception("Probe %s failed.", path)
            return ProbeAnswer(_BROKEN, "The probe failed; see the server's log.\n"), is_get


def _text_of(answer: ProbeAnswer, with_text: bool) -> bytes:
    """Return the bytes of the response."""
    body = answer.text.encode("utf-8", "backslashreplace")
    lines = [
        f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    if answer.status == _NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body if with_text else b"")
