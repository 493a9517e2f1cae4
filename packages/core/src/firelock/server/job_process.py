"""A job process, for `executor="process"` and for a job that is suspected of killing its process.

The process imports the app by the name with which its server was started, and reports that it is ready, or
why it is not. It receives one job after another as a line of JSON, and replies to each with the job's log
lines and its transition. If a job ends within a transaction of its task, the process reports this before the
transaction can commit, and waits until its server has recorded it. If the process dies, at most one job can
be the cause; if it dies before it is ready, none can. If its server dies, the process and all programs that
it started end, even in the middle of a job: see `process_groups`.
"""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import attrs

from firelock.context import Console, check_level, check_progress
from firelock.errors import ConfigurationError, JobCancelled
from firelock.model.dependencies import Edge, On
from firelock.model.job import ClaimedJob, ErrorInfo, Transition
from firelock.model.lifecycle import HELD, JOB_PROCESS_DIED
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.plugins.hookspecs import ServerInfo
from firelock.server.job_counters import count_in
from firelock.server.loading import load_in_job_process
from firelock.server.logs import LogFormat, log_to_stderr, report_exit
from firelock.server.process_groups import GroupGuard
from firelock.server.process_state import (
    describe_exit,
    die_with_parent,
    enable_loggers,
    importing,
    keep_streams_open,
    resident_bytes,
)
from firelock.server.run import Completion, EndedRun, JobRunner, ProcessDied, ProcessState, Run
from firelock.task import MAIN_MODULES

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from firelock.options import TaskInfo
    from firelock.runtime import Runtime

log = logging.getLogger(__name__)

_NOTED = b"noted\n"  # the server's reply to a completion: the only line that it sends while a job runs
_ORDERLY_END = 2.0  # seconds within which an idle process must end
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.05  # seconds between two checks of whether the process has ended
_MEANWHILE = frozenset({"log", "progress", "completed"})  # messages that a process sends while its job runs


@attrs.frozen
class JobProcessSpec:
    """The parameters with which a job process is started."""

    app_spec: str  # the name of the app
    server: ServerInfo  # the server, as passed to hooks
    storage: str | None = None  # a URL that replaces the app's own storage
    imports: tuple[str, ...] = ()  # additional modules that contain tasks
    log_format: str = LogFormat.TEXT  # the format of its server's log
    log_meta: tuple[str, ...] = ()  # the meta values in its server's log
    state: ProcessState = attrs.Factory(ProcessState)  # the state at its start, unaffected by jobs
    ready_seconds: float = 300.0  # seconds after which it is killed if it has not loaded the app


class JobProcess:
    """The server's side of a job process. One worker uses it; a run's `stop` can come from any thread."""

    def __init__(self, spec: JobProcessSpec) -> None:
        self.spec = spec
        self._is_ready = False
        self._lock = threading.Lock()
        self._current: Run | None = None  # the run whose `stop` may kill the process
        self._is_killed = False
        self._is_late = False  # whether the process was killed because it was not ready in time
        self._process = subprocess.Popen(  # noqa: S603 - Firelock's own interpreter and module
            [sys.executable, "-m", "firelock.server.job_process", spec.app_spec, str(os.getpid()),
             json.dumps(attrs.asdict(spec.server))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            cwd=spec.state.folder,
            env=spec.state.environment,
        )  # fmt: skip
        out, back = self._process.stdin, self._process.stdout
        if out is None or back is None:  # pragma: no cover - both are pipes, as requested from Popen
            raise AssertionError(self._process)
        self._out, self._back = out, back
        _started.add(self)
        try:
            _groups.add(self._process.pid)
        except OSError:
            self.kill()
            self.close()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether the process is running and was not killed."""
        return not self._is_killed and not self._has_ended()

    def _has_ended(self) -> bool:
        """Return whether the process has ended; the programs in its group are killed before it is reaped."""
        if self._process.returncode is None:
            if _is_running(self._process):
                return False
            _groups.kill(self._process.pid)
        return self._process.poll() is not None

    def rss_bytes(self) -> int:
        """Return the memory of the process in bytes; 0 if the system does not report it."""
        return resident_bytes(self._process.pid)

    def let_go(self) -> None:
        """Close the pipe in a forked copy of the server, so that the pipe is closed when the server ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._out.fileno(), inheritable=False)
        os.close(nowhere)

    def kill(self) -> None:
        """Kill the process and all programs that it started."""
        self._is_killed = True
        if self._process.returncode is None:  # otherwise, another process may already have the same id
            _groups.kill(self._process.pid)
            self._process.kill()

    def _stop(self, run: Run) -> None:
        """Kill the process if this run still uses it; a late call must not affect the next job."""
        with self._lock:
            if self._current is run:
                self.kill()

    def dismiss(self) -> None:
        """Do not give the process any more jobs; it ends when it is idle, and `close` waits for its end."""
        _started.discard(self)
        with contextlib.suppress(OSError):  # the buffer may contain a job that the process has not read
            self._out.close()

    def close(self) -> None:
        """End the process and the programs that its jobs have left running; it can end normally if idle."""
        self.dismiss()
        deadline, pause = time.monotonic() + _ORDERLY_END, _FIRST_PAUSE
        while not self._has_ended():
            if time.monotonic() > deadline:
                self.kill()
                self._process.wait()
                break
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._back.close()

    def run(
        self, run: Run, runner: JobRunner, console: Console, on_start: Callable[[], None] | None = None
    ) -> EndedRun:
        """Return the outcome of the run, which is a crash if the process dies without a reply.

        The run starts when the process has loaded the app. If loading fails or takes too long, the job fails
        for this reason according to its policy, and no crash is counted. If the run is cancelled before it
        starts, the job returns to its queue as a job that never started.

        Args:
            run: the prepared run, which has not started.
            runner: the runner of this process.
            console: receives the log lines of the job.
            on_start: called when the run starts, before the process gets the job.
        """
        run.loading_since = time.monotonic()
        with self._lock:
            self._current = run
        run.stop = lambda: self._stop(run)
        if run.cancelled is not None:
            self._stop(run)
        answer, unready = None, None
        try:
            unready = self._load()
            if self._is_ready:
                runner.start(run)
                if on_start is not None:
                    on_start()
                answer = self._exchange(run, console)
        except (OSError, ValueError):
            answer = None
        with self._lock:
            self._current = None
        run.stop = None
        if answer is not None:
            transition = _read_transition(answer["transition"])
            blocks = answer["blocks"]
            return EndedRun(
                run.job, transition, int(answer["duration"]), run.completion,
                blocks=None if blocks is None else (blocks[0], blocks[1]),
            )  # fmt: skip
        self.close()
        if run.cancelled is not None and run.started:
            return runner.raised(run, JobCancelled(run.context.cancel_reason))
        if run.cancelled is not None:
            return runner.passed_over(run, run.context.cancel_reason)
        how = describe_exit(self._process.returncode)
        if self._is_ready:
            return runner.crashed(run, JOB_PROCESS_DIED.format(how=how))
        why = unready or how
        return runner.interrupted(run, ProcessDied(f"the process for this job could not load the app: {why}"))

    def _load(self) -> str | None:
        """Wait until the process is ready; if it reports an error or takes too long, return the reason."""
        if self._is_ready:
            return None
        spec, level = self.spec, logging.getLogger().getEffectiveLevel()  # the same level as in this process
        words = {"storage": spec.storage, "imports": spec.imports, "path": spec.state.path}
        logs = {"log_level": level, "log_format": spec.log_format, "log_meta": spec.log_meta}
        limit = threading.Timer(spec.ready_seconds, self._give_up)
        limit.daemon = True
        limit.start()
        try:
            _write(self._out, {**words, **logs})
            reply = json.loads(self._back.readline() or "null")
        finally:
            limit.cancel()
        with self._lock:
            if self._is_late:
                return f"it was not ready after {spec.ready_seconds:g} s"
            self._is_ready = reply is not None and "unready" not in reply
        return None if reply is None else reply.get("unready")

    def _give_up(self) -> None:
        """Kill the process if it is still not ready."""
        with self._lock:
            if not self._is_ready:
                self._is_late = True
                self.kill()

    def _exchange(self, run: Run, console: Console) -> dict[str, Any] | None:
        holder = [run.holder.session, run.holder.server]
        _write(self._out, {"job": attrs.asdict(run.job), "holder": holder})
        for line in self._back:
            reply = json.loads(line)
            if "log" in reply:
                console.log(run.job.id, run.job.attempt, *reply["log"])
            elif "progress" in reply:
                console.progress(run.job.id, *reply["progress"])
            elif "completed" in reply:
                if reply["run"] == [run.job.id, run.job.fence]:  # ignore threads of earlier jobs
                    run.completion = _read_completion(reply["completed"])
                self._out.write(_NOTED)
                self._out.flush()
            else:
                return dict(reply)
        return None


def _write(pipe: IO[bytes], words: Mapping[str, Any]) -> None:
    pipe.write(json.dumps(words).encode() + b"\n")
    pipe.flush()


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a child process runs. If the system allows it, the process is not reaped."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13, Windows
        return process.poll() is None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:  # the application reaps all children of the process itself
        return False


# The job processes whose pipes this process holds.
_started: weakref.WeakSet[JobProcess] = weakref.WeakSet()
_groups = GroupGuard()


def _let_go_of_all() -> None:
    for process in list(_started):
        process.let_go()
    _started.clear()
    _groups.let_go()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows cannot fork
    os.register_at_fork(after_in_child=_let_go_of_all)


class JobProcessPool:
    """The job processes of one server; the next worker that needs a process gets an idle one.

    One thread starts all of the processes. This thread lives as long as any of them, because on Linux a
    process is killed when the thread that started it ends.

    Args:
        spec: the parameters with which the processes are started.
        keep: the number of idle processes to keep; surplus ones are closed, starting with those that have
            been idle the longest.
    """

    def __init__(self, spec: JobProcessSpec, *, keep: int | None = None) -> None:
        self._spec = spec
        self._keep = keep or os.cpu_count() or 1
        self._lock = threading.Lock()
        self._idle: list[JobProcess] = []  # the processes in the order of their last use
        self._lent = 0
        self.surplus: list[JobProcess] = []  # the processes that `tidy` closes
        self._starter: ThreadPoolExecutor | None = None
        self._is_closed = False
        self._is_logged = False

    def take(self, info: TaskInfo, *, is_new: bool = False) -> JobProcess:
        """Return an idle or a new process for a job of this task; call `give_back` afterwards.

        Raises:
            OSError: If the system cannot start a process.
        """
        spec = self._spec_for(info)
        with self._lock:
            for process in () if is_new else reversed(self._idle):
                if process.spec == spec and process.is_alive:
                    self._idle.remove(process)
                    self._lent += 1
                    return process
            if self._starter is None:
                from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - loaded when first used

                self._starter = ThreadPoolExecutor(1, thread_name_prefix="firelock-processes")
            started = self._starter.submit(JobProcess, spec)
        process = started.result()
        with self._lock:
            self._lent += 1
        return process

    def give_back(self, process: JobProcess, *, is_used_up: bool = False) -> None:
        """Keep the idle process if it is alive and can be used again; `tidy` closes surplus processes."""
        with self._lock:
            self._lent -= 1
            self._idle.append(process)
            alive = [each for each in self._idle if each.is_alive and not (is_used_up and each is process)]
            kept = [] if self._is_closed else alive[-self._keep :]
            self.surplus += [each for each in self._idle if each not in kept]
            self._idle = kept

    def tidy(self) -> None:
        """Close surplus processes. This may take a moment, so call it after the job has been handed over."""
        with self._lock:
            surplus, self.surplus = self.surplus, []
        for process in surplus:
            process.dismiss()
        for process in surplus:
            process.close()
        with self._lock:
            if self._is_closed and not self._lent and self._starter is not None:
                self._starter.shutdown(wait=False)
                self._starter = None

    def close(self) -> None:
        """End idle processes; a process in use ends when it is given back."""
        with self._lock:
            self._is_closed = True
            self.surplus += self._idle
            self._idle = []
        self.tidy()

    def _spec_for(self, info: TaskInfo) -> JobProcessSpec:
        """Return the spec for a job of this task; only a task of the running script needs the script."""
        spec, script = self._spec, running_script()
        if script is None:
            return spec
        holds_app = spec.app_spec.startswith(f"{script.place}:")
        if info.function.__module__ in MAIN_MODULES and not holds_app:
            spec = attrs.evolve(spec, imports=(*spec.imports, script.place))
        if not self._is_logged and (holds_app or script.place in spec.imports):
            self._is_logged = True
            log.log(
                logging.INFO if script.is_guarded() else logging.WARNING,
                "Each job process runs %s again from the top, because it defines tasks or the app. Put code "
                'that must run only once below `if __name__ == "__main__":`, or move the tasks and the app '
                "to a module.",
                script.file,
            )
        return spec


@attrs.frozen
class RunningScript:
    """The running program, in a form with which another process can find it."""

    place: str  # the name of its module if it was started with `python -m`, otherwise its file
    file: str

    def is_guarded(self) -> bool:
        """Return whether an `if` at its top level checks `__name__`, so that an import skips some code."""
        try:
            tree = ast.parse(Path(self.file).read_bytes())
        except (OSError, SyntaxError, ValueError):
            return False
        return any(
            isinstance(name, ast.Name) and name.id == "__name__"
            for statement in tree.body
            if isinstance(statement, ast.If)
            for name in ast.walk(statement.test)
        )


def running_script() -> RunningScript | None:
    """Return the running program; None if it is not a Python file, as in an interactive session."""
    main = sys.modules["__main__"]
    file, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if not file or not file.endswith(".py"):
        return None
    path = str(Path(file).resolve())
    return RunningScript(spec.name if spec is not None and spec.name else path, path)


# ---- in the job process ----------------------------------------------------------------------------------


class _PipeConsole(Console):
    """A console that sends each line immediately, because the process may die with its job."""

    def __init__(self, send: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__(lambda: 0)
        self._send = send

    def log(self, job_id: str, attempt: int, level: str, text: str) -> None:  # noqa: ARG002 - not sent
        check_level(level)  # checked here, so that only this job fails
        self._send({"log": [level, str(text)]})

    def progress(self, job_id: str, done: float, total: float, message: str | None) -> None:  # noqa: ARG002
        check_progress(done, total)
        self._send({"progress": [done, total, message]})


def _write_transition(transition: Transition) -> dict[str, Any]:
    fields: dict[str, Any] = attrs.asdict(transition)
    del fields["from_states"]
    return fields


def _read_transition(fields: dict[str, Any]) -> Transition:
    error = fields.pop("error")
    to = State(fields.pop("to"))
    parents = tuple(Edge(one["parent_id"], On(one["on"])) for one in fields.pop("parents"))
    return Transition(
        from_states=HELD,
        to=to,
        error=None if error is None else ErrorInfo(**error),
        parents=parents,
        **fields,
    )


def _write_completion(completion: Completion) -> dict[str, Any]:
    return {
        "transition": _write_transition(completion.transition),
        "duration": completion.duration,
        "frees_children": completion.frees_children,
    }


def _read_completion(fields: dict[str, Any]) -> Completion:
    return Completion(_read_transition(fields["transition"]), fields["duration"], fields["frees_children"])


class _Orders:
    """The lines from the server. A thread reads them, so the end of the pipe is noticed even during a job.

    The end of the pipe means that the server has ended, or no longer needs this process. If the process is
    idle, it ends normally. If it is running a job, it is killed, because the job may immediately run again
    elsewhere.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_at_work = False
        self._noted = threading.Semaphore(0)
        self._sending = threading.Lock()
        threading.Thread(target=self._read, args=(pipe,), name="firelock-orders", daemon=True).start()

    def _read(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            if line == _NOTED:
                self._noted.release()
                continue
            with self._lock:
                self._is_at_work = True
            self._lines.put(line)
        with self._lock:
            if self._is_at_work:
                os.killpg(0, signal.SIGKILL)  # kills this process and all programs that it started
        self._lines.put(None)

    def send_and_wait(self, send: Callable[[], None]) -> None:
        """Send a message and wait for the server's confirmation; if the server ends first, exit."""
        with self._sending:
            send()
            self._noted.acquire()

    def rest(self) -> None:
        """Record that the last line was handled.

        Call this before the reply is sent, because the pipe may be closed after that.
        """
        with self._lock:
            self._is_at_work = False

    def __iter__(self) -> Iterator[bytes]:
        """Yield one line after another until the pipe is closed."""
        while (line := self._lines.get()) is not None:
            yield line


def _serve(runtime: Runtime, jobs: _Orders, send: Callable[[Mapping[str, Any]], None]) -> None:
    def completed(run: Run) -> None:
        completion = run.completion
        assert completion is not None  # noqa: S101 - the runner has just set it
        words = {"run": [run.job.id, run.job.fence], "completed": _write_completion(completion)}
        jobs.send_and_wait(lambda: send(words))

    console = _PipeConsole(send)
    runner = JobRunner(runtime, console, is_apart=True, on_completed=completed)
    state = ProcessState()
    loop = _Loop(runner)
    for line in jobs:
        order = json.loads(line)
        fields = order["job"]
        job = ClaimedJob(**{**fields, "tags": tuple(fields["tags"])})
        prepared = runner.prepare(job, ClaimHolder(*order["holder"]))
        if isinstance(prepared, Run):
            prepared = loop.run(prepared) if prepared.info.is_async else runner.run(prepared)
            state.restore()
        send(
            {
                "transition": _write_transition(prepared.transition),
                "duration": prepared.duration,
                "blocks": prepared.blocks,
            }
        )

    loop.close()
    runner.resources.close()


@attrs.define(eq=False)
class _Loop:
    """A new event loop for each async job, as with `asyncio.run`; kept while a resource is open on it."""

    _runner: JobRunner
    _asyncio: asyncio.Runner | None = None

    def run(self, run: Run) -> EndedRun:
        """Run an `async def` task and return the outcome; cancel asyncio tasks that it leaves running."""
        import asyncio  # noqa: PLC0415 - loaded when first used

        kept = self._asyncio = self._asyncio or asyncio.Runner()
        try:
            return kept.run(self._arun(run))
        except BaseException as error:  # noqa: BLE001 - for example, the job has stopped its event loop
            return self._runner.interrupted(run, error)
        finally:
            if not self._runner.resources.has_async or kept.get_loop().is_closed():
                self._asyncio = None
                kept.close()

    async def _arun(self, run: Run) -> EndedRun:
        import asyncio  # noqa: PLC0415 - loaded by now

        ended = await self._runner.arun(run)
        left = asyncio.all_tasks() - self._runner.resources.keepers - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return ended

    def close(self) -> None:
        """Close the resources on the loop, then close the loop."""
        if self._asyncio is not None:
            self._asyncio.run(self._runner.resources.aclose())
            self._asyncio.close()


def main() -> int:
    """Run jobs until the pipe is closed."""
    app_spec, parent, server_text = sys.argv[1:]
    count_in(None)
    die_with_parent(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides when a job ends
    # The output of a task must not be mistaken for a reply, and a task must not read the server's lines.
    # Therefore only this code uses the pipes, stdout becomes stderr, and stdin is empty.
    orders, answers = _Orders(os.fdopen(os.dup(0), "rb")), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a descriptor is needed
        os.dup2(nothing.fileno(), 0)
    keep_streams_open()
    lock = threading.Lock()

    def send(words: Mapping[str, Any]) -> None:
        if _MEANWHILE.isdisjoint(words):  # the last message about a job
            orders.rest()
        with lock:
            _write(answers, words)

    server = ServerInfo(**json.loads(server_text))
    first = next(iter(orders), None)
    if first is None:  # the server no longer needs this process
        return 0
    words = json.loads(first)
    style = LogFormat(words.pop("log_format"))
    try:
        log_to_stderr(words.pop("log_level"), style, words.pop("log_meta"))
        sys.path[:] = words.pop("path")
        with importing():
            app = load_in_job_process(app_spec, **words)
        app.runtime.plugins.worker_process_started(server)
        enable_loggers()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the server must be notified of any error
        description = (
            str(error) if isinstance(error, ConfigurationError) else f"{type(error).__name__}: {error}"
        )
        report_exit(description, style)
        send({"unready": description})
        return 2
    send({"ready": True})
    _serve(app.runtime, orders, send)
    app.runtime.plugins.worker_process_stopped(server)
    app.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
