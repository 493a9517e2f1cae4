"""A process of its own for a job: for `executor="process"`, and for a job suspected of killing its process.

The process imports the app by the name its server was started with, gets one job after another as a line of
JSON, and answers each with its log lines and its transition. When it dies, exactly one job is to blame.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any

import attrs

from firelock.console import Console
from firelock.errors import ConfigurationError
from firelock.hookspecs import ServerInfo
from firelock.job import ClaimedJob, ErrorInfo, State
from firelock.lifecycle import HELD, Holder, Transition
from firelock.outcome import JobCancelled
from firelock.server.lifeline import die_with_parent
from firelock.server.loading import load_app
from firelock.server.runner import Ended, Run, Runner

if TYPE_CHECKING:
    from firelock.app import Firelock

__all__ = ["IsolatedProcess", "describe_exit"]


class IsolatedProcess:
    """The server's side of one such process. Used by one worker thread; `kill` may come from any."""

    def __init__(self, app_spec: str, server: ServerInfo) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "firelock.server.isolated", app_spec, str(os.getpid()),
             json.dumps(attrs.asdict(server))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip

    @property
    def is_alive(self) -> bool:
        """Tell whether the process runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """The process is dead, and what it started with it."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._process.kill()

    def close(self) -> None:
        """The process has ended: in order if it is idle."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def run(self, run: Run, runner: Runner, console: Console) -> Ended:
        """Return the end of the run; a process that dies without a word is a crash of its job."""
        runner.start(run)
        run.stop = self.kill
        if run.cancelled is not None:
            self.kill()
        try:
            answer = self._exchange(run, console)
        except (BrokenPipeError, ValueError):
            answer = None
        run.stop = None
        if answer is not None:
            return Ended(run.job, _read_transition(answer["transition"]), int(answer["duration"]))
        self.close()
        if run.cancelled is not None:
            return runner.raised(run, JobCancelled(run.context.cancel_reason))
        return runner.crashed(run, f"its process died: {describe_exit(self._process.returncode)}")

    def _exchange(self, run: Run, console: Console) -> dict[str, Any] | None:
        out, back = self._process.stdin, self._process.stdout
        if out is None or back is None:  # both are pipes: Popen was told so
            raise AssertionError(self._process)
        holder = [run.holder.session, run.holder.server]
        out.write(json.dumps({"job": attrs.asdict(run.job), "holder": holder}).encode() + b"\n")
        out.flush()
        for line in back:
            said = json.loads(line)
            if "log" in said:
                console.log(run.job.id, run.job.attempt, *said["log"])
            elif "progress" in said:
                console.progress(run.job.id, *said["progress"])
            else:
                return dict(said)
        return None


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
        self._say({"log": [level, str(text)]})

    def progress(self, job_id: str, done: float, total: float, message: str | None) -> None:  # noqa: ARG002
        self._say({"progress": [done, total, message]})


def _write_transition(transition: Transition) -> dict[str, Any]:
    fields: dict[str, Any] = attrs.asdict(transition)
    del fields["from_states"]
    return fields


def _read_transition(fields: dict[str, Any]) -> Transition:
    error = fields.pop("error")
    to = State(fields.pop("to"))
    return Transition(from_states=HELD, to=to, error=None if error is None else ErrorInfo(**error), **fields)


def _serve(app: Firelock, jobs: IO[bytes], answers: IO[bytes]) -> None:
    lock = threading.Lock()

    def say(words: Mapping[str, Any]) -> None:
        with lock:
            answers.write(json.dumps(words).encode() + b"\n")
            answers.flush()

    console = _PipeConsole(say)
    runner = Runner(app, console)
    for line in jobs:
        order = json.loads(line)
        fields = order["job"]
        job = ClaimedJob(**{**fields, "tags": tuple(fields["tags"])})
        prepared = runner.prepare(job, Holder(*order["holder"]))
        if isinstance(prepared, Run):
            prepared = _run(runner, prepared)
        say({"transition": _write_transition(prepared.transition), "duration": prepared.duration})


def _run(runner: Runner, run: Run) -> Ended:
    if not run.info.is_async:
        return runner.run(run)
    import asyncio  # noqa: PLC0415 - loaded when first used

    return asyncio.run(runner.arun(run))


def main() -> int:
    """Serve jobs until the pipe ends."""
    app_spec, parent, server_text = sys.argv[1:]
    die_with_parent(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides when a job ends
    # What a task prints must not be taken for an answer: the answers keep the pipe, stdout becomes stderr.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        app = load_app(app_spec)
    except ConfigurationError as error:
        sys.stderr.write(f"firelock: {error}\n")
        return 2
    server = ServerInfo(**json.loads(server_text))
    app.plugins.worker_process_started(server)
    _serve(app, sys.stdin.buffer, answers)
    app.plugins.worker_process_stopped(server)
    app.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
