"""A process of its own for a job: for `executor="process"`, and for a job suspected of killing its process.

The process imports the app by the name its server was started with and says that it is ready, or why not. It
gets one job after another as a line of JSON, and answers each with its log lines and its transition. When it
dies, exactly one job is to blame; when it never got ready, none is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import attrs

from firelock.console import Console, check_level, check_progress
from firelock.errors import ConfigurationError
from firelock.hookspecs import ServerInfo
from firelock.job import ClaimedJob, ErrorInfo, State
from firelock.lifecycle import HELD, Holder, Transition
from firelock.outcome import JobCancelled
from firelock.server.lifeline import die_with_parent
from firelock.server.loading import load_app, load_module
from firelock.server.runner import Ended, ProcessDied, Run, Runner
from firelock.server.surroundings import Surroundings, keep_streams_open, log_to_stderr

if TYPE_CHECKING:
    from firelock.app import Firelock

__all__ = ["IsolatedProcess", "describe_exit"]


class IsolatedProcess:
    """The server's side of one such process. Used by one worker thread; a run's `stop` may come from any.

    Args:
        app_spec: where the app stands.
        server: for hooks.
        storage: a URL that takes the place of the app's own.
        imports: modules with more tasks.
        surroundings: the folder and the environment that it starts in, whatever jobs have made of them.
    """

    def __init__(
        self,
        app_spec: str,
        server: ServerInfo,
        *,
        storage: str | None = None,
        imports: Sequence[str] = (),
        surroundings: Surroundings | None = None,
    ) -> None:
        before = surroundings or Surroundings()
        level = logging.getLogger().getEffectiveLevel()  # there it is as here, whoever chose it
        self._app = {"storage": storage, "imports": list(imports), "log_level": level}
        self._is_ready = False
        self._lock = threading.Lock()
        self._current: Run | None = None  # whose `stop` may kill
        self._is_killed = False
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "firelock.server.isolated", app_spec, str(os.getpid()),
             json.dumps(attrs.asdict(server))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            cwd=before.folder,
            env=before.environment,
        )  # fmt: skip
        out, back = self._process.stdin, self._process.stdout
        if out is None or back is None:  # pragma: no cover - both are pipes: Popen was told so
            raise AssertionError(self._process)
        self._out, self._back = out, back

    @property
    def is_alive(self) -> bool:
        """Tell whether the process runs and goes on running."""
        return not self._is_killed and self._process.poll() is None

    def kill(self) -> None:
        """The process is dead, and what it started with it."""
        self._is_killed = True
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._process.kill()

    def _stop(self, run: Run) -> None:
        """The process is dead, if it is this run's still: a late call must not kill the next job's."""
        with self._lock:
            if self._current is run:
                self.kill()

    def close(self) -> None:
        """The process has ended: in order if it is idle."""
        with contextlib.suppress(OSError):  # a job that it did not live to read is still in the buffer
            self._out.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._back.close()

    def run(self, run: Run, runner: Runner, console: Console) -> Ended:
        """Return the end of the run; a process that dies without a word is a crash of its job.

        One that never got as far as the job is none: that is a failure, which says so.
        """
        runner.start(run)
        with self._lock:
            self._current = run
        run.stop = lambda: self._stop(run)
        if run.cancelled is not None:
            self._stop(run)
        try:
            answer = self._exchange(run, console)
        except (OSError, ValueError):
            answer = None
        with self._lock:
            self._current = None
        run.stop = None
        if answer is not None and "transition" in answer:
            transition = _read_transition(answer["transition"])
            return Ended(run.job, transition, int(answer["duration"]), bool(answer["frees_children"]))
        self.close()
        if run.cancelled is not None:
            return runner.raised(run, JobCancelled(run.context.cancel_reason))
        how = describe_exit(self._process.returncode)
        if self._is_ready:
            return runner.crashed(run, f"its process died: {how}")
        why = how if answer is None else answer["unready"]
        return runner.interrupted(run, ProcessDied(f"the process for this job could not load the app: {why}"))

    def _exchange(self, run: Run, console: Console) -> dict[str, Any] | None:
        if not self._is_ready:
            _write(self._out, self._app)
            said = json.loads(self._back.readline() or "null")
            if said is None or "unready" in said:
                return said
            self._is_ready = True
        holder = [run.holder.session, run.holder.server]
        _write(self._out, {"job": attrs.asdict(run.job), "holder": holder})
        for line in self._back:
            said = json.loads(line)
            if "log" in said:
                console.log(run.job.id, run.job.attempt, *said["log"])
            elif "progress" in said:
                console.progress(run.job.id, *said["progress"])
            else:
                return dict(said)
        return None


def _write(pipe: IO[bytes], words: Mapping[str, Any]) -> None:
    pipe.write(json.dumps(words).encode() + b"\n")
    pipe.flush()


def describe_exit(code: int | None) -> str:
    """Return how a process ended, for people: its signal's name or its exit code."""
    if code is None:
        return "cause unknown"
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "; out of memory, perhaps" if -code == signal.SIGKILL else ""
    return f"{name}{hint}"


# ---- the process's own side ------------------------------------------------------------------------------


class _PipeConsole(Console):
    """Sends every line at once: the process may die with its job."""

    def __init__(self, say: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__(lambda: 0)
        self._say = say

    def log(self, job_id: str, attempt: int, level: str, text: str) -> None:  # noqa: ARG002 - the server knows them
        check_level(level)  # here, where it fails the job alone
        self._say({"log": [level, str(text)]})

    def progress(self, job_id: str, done: float, total: float, message: str | None) -> None:  # noqa: ARG002
        check_progress(done, total)
        self._say({"progress": [done, total, message]})


def _write_transition(transition: Transition) -> dict[str, Any]:
    fields: dict[str, Any] = attrs.asdict(transition)
    del fields["from_states"]
    return fields


def _read_transition(fields: dict[str, Any]) -> Transition:
    error = fields.pop("error")
    to = State(fields.pop("to"))
    return Transition(from_states=HELD, to=to, error=None if error is None else ErrorInfo(**error), **fields)


def _serve(app: Firelock, jobs: IO[bytes], say: Callable[[Mapping[str, Any]], None]) -> None:
    console = _PipeConsole(say)
    runner, surroundings = Runner(app, console), Surroundings()
    for line in jobs:
        order = json.loads(line)
        fields = order["job"]
        job = ClaimedJob(**{**fields, "tags": tuple(fields["tags"])})
        prepared = runner.prepare(job, Holder(*order["holder"]))
        if isinstance(prepared, Run):
            prepared = _run(runner, prepared)
            surroundings.restore()
        say(
            {
                "transition": _write_transition(prepared.transition),
                "duration": prepared.duration,
                "frees_children": prepared.frees_children,
            }
        )


def _run(runner: Runner, run: Run) -> Ended:
    if not run.info.is_async:
        return runner.run(run)
    import asyncio  # noqa: PLC0415 - loaded when first used

    try:
        return asyncio.run(runner.arun(run))
    except BaseException as error:  # noqa: BLE001 - the job has stopped its event loop, say
        return runner.interrupted(run, error)


def main() -> int:
    """Serve jobs until the pipe ends."""
    app_spec, parent, server_text = sys.argv[1:]
    die_with_parent(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides when a job ends
    # What a task prints must not be taken for an answer: the answers keep the pipe, stdout becomes stderr.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    keep_streams_open()
    lock = threading.Lock()

    def say(words: Mapping[str, Any]) -> None:
        with lock:
            _write(answers, words)

    server = ServerInfo(**json.loads(server_text))
    try:
        app = _load(app_spec, **json.loads(sys.stdin.buffer.readline()))
        app.plugins.worker_process_started(server)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, the server has to know
        told = str(error) if isinstance(error, ConfigurationError) else f"{type(error).__name__}: {error}"
        sys.stderr.write(f"firelock: {told}\n")
        say({"unready": told})
        return 2
    say({"ready": True})
    _serve(app, sys.stdin.buffer, say)
    app.plugins.worker_process_stopped(server)
    app.close()
    return 0


def _load(app_spec: str, *, storage: str | None, imports: Sequence[str], log_level: int) -> Firelock:
    log_to_stderr(log_level)
    app = load_app(app_spec, storage=storage)
    for name in imports:
        load_module(name)
    return app


if __name__ == "__main__":
    sys.exit(main())
