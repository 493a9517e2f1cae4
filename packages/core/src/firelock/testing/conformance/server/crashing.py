"""Servers that lose what they run: by a lost session, and by SIGKILL where there are processes to kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from firelock.context import JobContext
from firelock.job import Job
from firelock.lifecycle import Moved
from firelock.storage import ClaimRequest, Feature
from firelock.testing.conformance.kit import requires
from firelock.testing.conformance.server.own_process import GATE, HOLD, RUNNING, hold
from firelock.testing.conformance.server.stage import PATIENCE, ServerFixtures, Stage
from firelock.testing.waiting import eventually
from firelock.values import State

__all__ = ["CrashingDuty"]

_STARTING = 30.0  # seconds for interpreters to start on a busy machine


class Start(Protocol):
    """Starts a server process with these settings."""

    def __call__(self, **settings: float) -> subprocess.Popen[bytes]:
        """Return the supervisor's process."""
        ...


class CrashingDuty(ServerFixtures):
    """A job outlives its server, and only one of its runs counts."""

    def test_the_late_end_of_a_lost_run_is_refused(self, stage: Stage) -> None:
        """A server whose session ended cannot finish what another one runs by then."""
        gates, runs = {"first": threading.Event(), "second": threading.Event()}, list[str]()

        def twice() -> str:
            name = "second" if runs else "first"
            runs.append(name)
            gates[name].wait(PATIENCE)
            return name

        job = stage.app.task(name="kit.twice")(twice).enqueue()
        zombie = stage.serve(workers=1)
        session = str(stage.when(job, lambda record: bool(runs) and record.session is not None).session)

        taken = stage.app.storage.end_session(session, [job.id], reason="lost")
        stage.serve(stage.another_app(), workers=1)
        eventually(lambda: len(runs) == 2)
        gates["first"].set()
        zombie.stop(grace=PATIENCE)

        assert [job.id] == taken.crashed
        assert State.PROCESSING == stage.record(job).state
        gates["second"].set()
        record = stage.ended(job)
        assert (State.SUCCEEDED, '"second"', 1) == (record.state, record.result, record.crashes)
        assert [State.ENQUEUED, State.ENQUEUED, State.SUCCEEDED] == stage.states(job)

    def test_a_server_whose_session_was_lost_goes_on_with_another(self, stage: Stage) -> None:
        """It is told to stop what it ran, and claims again by a new session."""
        started, told, runs = threading.Event(), list[bool](), list[int]()

        def rests(context: JobContext) -> None:
            runs.append(context.fence)
            if len(runs) == 1:
                started.set()
                eventually(lambda: context.cancelled)
                told.append(True)
                context.raise_if_cancelled()

        job = stage.app.task(name="kit.rests")(rests).enqueue()
        stage.serve(workers=2)
        assert started.wait(PATIENCE)
        session = str(stage.record(job).session)

        stage.app.storage.end_session(session, [job.id], reason="lost")

        assert State.SUCCEEDED == stage.ended(job).state
        eventually(lambda: told)
        assert runs == sorted(set(runs))
        assert session != stage.record(job).session

    def test_what_a_server_does_not_know_that_it_holds_is_handed_back(self, stage: Stage) -> None:
        """A storage that failed over may give a job to a session that has long ended it: somebody asks.

        If this fails: the job is processing for as long as the server lives, and nobody runs it.
        """
        job = stage.app.task(name="kit.elsewhere", queue="elsewhere")(lambda: None).enqueue()
        stage.serve(workers=1, queues=["default"])
        eventually(lambda: any(one.is_alive for one in stage.app.storage.list_sessions()))
        (session,) = [one.session.id for one in stage.app.storage.list_sessions() if one.is_alive]

        claimed = stage.app.storage.claim(ClaimRequest(["elsewhere"], 1, session, stage.app.storage.clock()))

        assert [job.id] == [one.id for one in claimed.jobs]
        record = stage.when(job, lambda record: record.state is State.ENQUEUED)
        assert (0, 0) == (record.attempt, record.crashes)

    # ---- processes ---------------------------------------------------------------------------------------

    @pytest.fixture
    def start_server(self, stage: Stage, tmp_path: Path) -> Iterator[Start]:
        """Yield a function that starts a server in processes of its own; they end with the test."""
        processes: list[subprocess.Popen[bytes]] = []

        def start(**settings: float) -> subprocess.Popen[bytes]:
            url = stage.app.storage.connect_url
            with (tmp_path / f"server-{len(processes)}.log").open("wb") as log:
                process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    [sys.executable, "-m", "firelock.testing.conformance.server.own_process", url],
                    env=_environment(settings), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip
            processes.append(process)
            return process

        yield start
        for process in processes:
            process.kill()
            process.wait(PATIENCE)

    def _held(self, stage: Stage, gate: str) -> Job[None]:
        return stage.app.task(name=HOLD)(hold).enqueue(gate)

    @requires(Feature.SHARED)
    def test_jobs_of_a_killed_child_are_back_without_waiting_for_its_session(
        self, stage: Stage, start_server: Start
    ) -> None:
        """Its supervisor sees it die; the job runs again, and its history says what killed the first run."""
        job = self._held(stage, "child")
        start_server(session_timeout=600, heartbeat=1, sweep=300, poll=0.2)
        eventually(lambda: _times_started(job) == 1, within=_STARTING)
        (server,) = [one for one in stage.app.servers.list() if one.is_alive]

        os.kill(server.sessions[0].session.pid, signal.SIGKILL)

        eventually(lambda: _times_started(job) == 2, within=_STARTING)
        stage.app.storage.put_record(GATE, "child", "{}")
        record = stage.ended(job)
        assert (State.SUCCEEDED, 1, 1) == (record.state, record.attempt, record.crashes)
        assert "SIGKILL" in str(job.history()[1].reason)

    @requires(Feature.SHARED)
    def test_jobs_of_a_killed_server_are_back_after_its_session(
        self, stage: Stage, start_server: Start
    ) -> None:
        """Nobody is left to see it die; another server finds the session expired and takes its jobs."""
        job = self._held(stage, "server")
        settings = {"session_timeout": 3, "heartbeat": 0.5, "sweep": 0.2, "poll": 0.2}
        doomed = start_server(**settings)
        eventually(lambda: _times_started(job) == 1, within=_STARTING)

        doomed.kill()
        start_server(**settings)

        eventually(lambda: _times_started(job) >= 2, within=_STARTING)
        stage.app.storage.put_record(GATE, "server", "{}")
        record = stage.ended(job)
        assert State.SUCCEEDED == record.state
        assert Moved.SESSION_LOST in [entry.reason for entry in job.history()]

    @requires(Feature.SHARED)
    def test_a_server_process_that_is_told_to_stop_lets_its_jobs_end(
        self, stage: Stage, start_server: Start
    ) -> None:
        """SIGTERM: the running job ends, another one is not begun, and the exit code is 0."""
        job = self._held(stage, "stop")
        server = start_server(grace=60, heartbeat=0.5)
        eventually(lambda: _times_started(job) == 1, within=_STARTING)

        server.send_signal(signal.SIGTERM)
        eventually(
            lambda: [one.sessions[0].renewal.state for one in stage.app.servers.list()] == ["stopping"]
        )
        later = self._held(stage, "stop")
        stage.app.storage.put_record(GATE, "stop", "{}")

        assert 0 == server.wait(_STARTING)
        record = stage.record(job)
        assert (State.SUCCEEDED, 1, 0) == (record.state, record.attempt, record.crashes)
        assert (State.ENQUEUED, 0) == ((waiting := stage.record(later)).state, waiting.attempt)


def _environment(settings: Mapping[str, float]) -> dict[str, str]:
    chosen = {f"FIRELOCK_{name.upper()}": str(value) for name, value in settings.items()}
    return {**os.environ, **chosen}


def _times_started(job: Job[None]) -> int:
    return [line.text for line in job.log()].count(RUNNING)
