"""A process of its own: what it is blamed for, and whom a late kill must not hit."""

from __future__ import annotations

import os
import signal

import pytest

from firelock import Firelock, Retry
from firelock.hookspecs import ServerInfo
from firelock.server.attempt import CancelKind
from firelock.server.job_process import JobProcess, JobProcessSpec
from firelock.values import State
from tests.core.fakes import Worker

APP = """
import asyncio
import os
import sys
from firelock import Firelock, JobContext

fire = Firelock("memory://own")

@fire.task(name="pid")
def pid() -> int:
    return os.getpid()

@fire.task(name="url")
def url() -> str:
    return fire.storage.url

@fire.task(name="stops")
async def stops() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.Event().wait()

@fire.task(name="dies")
def dies() -> None:
    os._exit(3)

@fire.task(name="reads")
def reads() -> str:
    return sys.stdin.read() + os.read(0, 100).decode()

@fire.task(name="says")
def says(context: JobContext) -> None:
    context.log("no such level", level="shout")

@fire.task(name="reports")
def reports(context: JobContext) -> None:
    context.progress(float("nan"), 1)
"""
MORE = """
from own_app import fire

@fire.task(name="elsewhere")
def elsewhere() -> str:
    return "found"
"""
NAMES = ("pid", "url", "dies", "says", "reports", "stops", "reads", "elsewhere")


class Bench:
    """An app in a file, a worker that has claimed its jobs, and the processes that a test started."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "own_app.py").write_text(APP)
        (folder / "more_tasks.py").write_text(MORE)
        self.fire = Firelock("memory://")
        self.tasks = {
            name: self.fire.task(name=name, retry=Retry(attempts=1))(lambda: None) for name in NAMES
        }
        self.worker = Worker(self.fire)
        self.processes = []

    def process(self, spec="own_app.py:fire", **options):
        server = ServerInfo("server-a", "host:a", "*", 1, 7)
        self.processes.append(JobProcess(JobProcessSpec(spec, server, **options)))
        return self.processes[-1]

    def prepared(self, name):
        """A run of a claimed job."""
        self.tasks[name].enqueue()
        (job,) = self.worker.claim()
        return self.worker.runner.prepare(job, self.worker.holder)

    def end(self, process, name):
        """The transition that ends a run of this task there."""
        return process.run(self.prepared(name), self.worker.runner, self.worker.console).transition

    def close(self):
        for process in self.processes:
            process.close()
        self.fire.close()


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A bench in a folder of its own, where its processes find the app."""
    monkeypatch.chdir(tmp_path)
    bench = Bench(tmp_path)
    yield bench
    bench.close()


@pytest.mark.parametrize(
    ("code", "why"),
    [("raise ValueError('no settings')", "no settings"), ("import os; os._exit(7)", "exit code 7")],
    ids=["error", "exit"],
)
def test_an_app_that_cannot_be_loaded_is_no_crash_of_the_job(bench, code, why):
    """The job fails with the reason, as its policy says, and nobody looks for a fault in the job."""
    (bench.folder / "own_app.py").write_text(code)

    end = bench.end(bench.process(), "pid")

    assert (State.SCHEDULED, 1, None) == (end.to, end.retries, end.crashes)
    assert "could not load the app" in end.error.message
    assert why in end.error.message


def test_a_process_that_dies_with_its_job_is_a_crash(bench):
    """The job ran there, alone."""
    end = bench.end(bench.process(), "dies")

    assert (State.ENQUEUED, 1) == (end.to, end.crashes)
    assert "exit code 3" in end.reason


def test_a_process_that_died_between_two_jobs_ends_no_worker(bench):
    """The job that is written to it meets a broken pipe, or silence: an end all the same."""
    process = bench.process()
    pid = int(bench.end(process, "pid").result)
    os.kill(pid, signal.SIGKILL)

    assert 1 == bench.end(process, "pid").crashes


def test_a_process_that_is_seen_to_be_gone_ends_no_worker_either(bench):
    """Nothing can be written to it; that it never got ready is no crash of the job."""
    process = bench.process()
    process.kill()
    process._process.wait()  # noqa: SLF001 - from here on its pipe is broken

    end = bench.end(process, "pid")

    assert (State.SCHEDULED, None) == (end.to, end.crashes)
    assert "SIGKILL" in end.error.message


def test_a_coroutine_that_stops_its_event_loop_is_interrupted(bench):
    """The process goes on with the next job."""
    process = bench.process()

    end = bench.end(process, "stops")

    assert (State.SCHEDULED, None) == (end.to, end.crashes)
    assert "Event loop stopped" in end.error.message
    assert State.SUCCEEDED == bench.end(process, "pid").to


def test_a_job_that_reads_its_input_finds_none(bench):
    """The orders of the server are not its business: the next job comes as ever."""
    process = bench.process()

    ends = [bench.end(process, name) for name in ("reads", "pid")]

    assert [State.SUCCEEDED] * 2 == [end.to for end in ends]
    assert '""' == ends[0].result


def test_a_late_kill_does_not_hit_the_next_job(bench):
    """The timeout of a run that ended meanwhile: the process goes on with the next job."""
    process = bench.process()
    run = bench.prepared("pid")
    first = bench.end(process, "pid")
    process.run(run, bench.worker.runner, bench.worker.console)
    process._stop(run)  # noqa: SLF001 - what a thread calls that has read `run.stop` just before the end

    assert process.is_alive
    assert first.result == bench.end(process, "pid").result


def test_a_killed_process_gets_no_other_job(bench):
    """Even where the job's answer came first, and the process is not seen to be dead yet."""
    process = bench.process()
    run = bench.prepared("pid")
    run.cancel(CancelKind.STOP, "server stopping")

    process.run(run, bench.worker.runner, bench.worker.console)

    assert not process.is_alive


def test_the_app_is_loaded_as_the_servers_command_line_says(bench, tmp_path):
    """With its storage and its imports, or jobs of a job would go astray and tasks be unknown."""
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    process = bench.process(storage=url, imports=["more_tasks"])

    ends = [bench.end(process, name) for name in ("url", "elsewhere")]

    assert [State.SUCCEEDED] * 2 == [end.to for end in ends]
    assert "jobs.db" in ends[0].result


@pytest.mark.parametrize(("name", "told"), [("says", "shout"), ("reports", "finite")])
def test_nonsense_said_by_a_job_fails_it_alone(bench, name, told):
    """As in a thread; it is no crash."""
    end = bench.end(bench.process(), name)

    assert (State.SCHEDULED, None) == (end.to, end.crashes)
    assert told in end.error.message
