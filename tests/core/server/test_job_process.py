"""A job process: the data that is sent to it and returned, and how it ends."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from firelock import Firelock, JobContext, Retry
from firelock.model.state import State
from firelock.plugins.hookspecs import ServerInfo
from firelock.server.job_process import JobProcess, JobProcessPool, JobProcessSpec
from firelock.server.process_state import describe_exit
from firelock.server.run import CancelKind
from firelock.server.shared_memory import SharedMemory
from firelock.server.workers import ClaimedRun, DispatcherInbox, ProcessLimits, WorkerContext, Workers
from tests.core.fakes import Worker, unmeasured, until

SERVER = ServerInfo("server-a", "host:a", "*", 1, 7)

APP = """
import asyncio, os, signal, sys, threading, time
from firelock import Firelock, JobContext, RateLimited, Retry, RetryDecision, Snooze, hookimpl

class Deciding:
    @hookimpl
    def retry_decision(self, job, task, error):
        if job.args == ("plugin",):
            is_apart = os.getpid() != int(os.environ["SERVER_PID"])
            return RetryDecision.fail(f"{task.name} decided in {is_apart}")

    @hookimpl
    def job_context(self, job, task):
        return Noting(task.name)

    @hookimpl
    def worker_process_stopped(self, server):
        open(os.environ["STOPPED"], "w").write(server.name)

class Noting:
    def __init__(self, task):
        self.task = task

    def note(self, what):
        with open(os.environ["STOPPED"] + ".contexts", "a") as file:
            file.write(f"{what} {self.task} {threading.get_ident() == main_thread}\\n")

    def __enter__(self):
        self.note("enter")

    def __exit__(self, kind, error, traceback):
        self.note(f"exit {kind.__name__ if kind else None}")

    async def __aenter__(self):
        self.note("aenter")

    async def __aexit__(self, kind, error, traceback):
        self.note(f"aexit {kind.__name__ if kind else None}")

main_thread = threading.get_ident()

fire = Firelock("memory://own", plugins=[Deciding])

@fire.task(name="talk")
def talk(job: JobContext, word: str) -> str:
    print("this is no answer")
    os.write(1, b"nor is this\\n")
    job.log(word, level="warning")
    job.progress(1, 2, "half way")
    return f"{word} {os.getpid()} {job.attempt} {','.join(job.tags)} {job.meta.get('tenant')}"

@fire.task(name="atalk")
async def atalk(word: str) -> str:
    return f"{word}!"

@fire.task(name="limited")
def limited():
    raise RateLimited(20, key="smtp")

@fire.task(name="fail", retry=Retry(attempts=3))
def fail(word: str):
    raise ValueError(word)

@fire.task(name="sleep")
def sleep() -> None:
    while True:
        time.sleep(60)

@fire.task(name="die")
def die(number: int) -> None:
    os.kill(os.getpid(), number)

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

@fire.task(name="steps", retry=Retry(attempts=5))
def steps(context: JobContext) -> None:
    context.step("one", int)

@fire.task(name="says")
def says(context: JobContext) -> None:
    context.log("no such level", level="shout")

@fire.task(name="reports")
def reports(context: JobContext) -> None:
    context.progress(float("nan"), 1)
"""
MORE = """
from bench_app import fire

@fire.task(name="elsewhere")
def elsewhere() -> str:
    return "found"
"""
PLAIN = (
    "pid",
    "url",
    "dies",
    "says",
    "reports",
    "stops",
    "reads",
    "elsewhere",
    "limited",
    "steps",
)


def talk(job: JobContext, word: str) -> str: ...


class Bench:
    """An app in a file, a worker that claims its jobs, and the processes that a test starts."""

    def __init__(self, folder):
        self.app = folder / "bench_app.py"
        self.app.write_text(APP)
        (folder / "more_tasks.py").write_text(MORE)
        self.spec = f"{folder / 'bench_app.py'}:fire"
        self.fire = Firelock("memory://")
        self.tasks = {
            name: self.fire.task(name=name, executor="process", **options)(function)
            for name, function, options in (
                ("talk", talk, {}), ("atalk", lambda word: None, {}),
                ("fail", lambda word: None, {"retry": Retry(attempts=3)}), ("sleep", lambda: None, {}),
                ("die", lambda number: None, {}),
                *((name, lambda: None, {"retry": Retry(attempts=1)}) for name in PLAIN),
            )
        }  # fmt: skip
        self.worker = Worker(self.fire)
        self.processes = []

    def process(self, **options):
        """Start a new job process of the app."""
        self.processes.append(JobProcess(JobProcessSpec(self.spec, SERVER, **options)))
        return self.processes[-1]

    def claim(self, name, *args, **options):
        """Return a claimed job of the task."""
        task = self.tasks[name]
        (task.using(**options) if options else task).enqueue(*args)
        (job,) = self.worker.claim()
        return job

    def start(self, name, *args, **options):
        """Return a run of a new job of the task."""
        return self.worker.runner.prepare(self.claim(name, *args, **options), self.worker.holder)

    def run(self, process, run):
        """Return how the run ended in this process."""
        return process.run(run, self.worker.runner, self.worker.console)

    def end(self, process, name):
        """Return the transition that ends a run of this task in this process."""
        return self.run(process, self.start(name)).transition

    def close(self):
        for process in self.processes:
            process.kill()
            process.close()
        self.fire.close()


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A bench whose processes have ended after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERVER_PID", str(os.getpid()))
    monkeypatch.setenv("STOPPED", str(tmp_path / "stopped"))
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_steps_in_a_job_process_need_a_shared_storage(bench):
    """Memos that a process stores in its own memory would be lost with it."""
    transition = bench.end(bench.process(), "steps")

    assert State.FAILED == transition.to
    assert "runs in a separate process, which cannot reach memory://" in transition.error.message


def test_one_process_runs_several_jobs(bench, tmp_path):
    """Log lines and progress are sent back, but printed output is not. A closed process ends properly."""
    process = bench.process()
    options = {"tags": ["t"], "meta": {"tenant": "acme"}}
    ends = [bench.run(process, bench.start("talk", word, **options)) for word in ("one", "two")]
    job_ids = [ended.job.id for ended in ends]

    bench.worker.console.flush(bench.fire.storage)
    results = [ended.transition.result.strip('"').split() for ended in ends]
    alive = process.is_alive
    process.close()

    assert [("one", "1", "t", "acme"), ("two", "1", "t", "acme")] == [(one[0], *one[2:]) for one in results]
    assert results[0][1] == results[1][1] != str(os.getpid())
    assert [["one"], ["two"]] == [[line.text for line in bench.fire.storage.read_log(one)] for one in job_ids]
    assert ["half way"] * 2 == [one.progress.message for one in bench.fire.storage.get(job_ids)]
    assert (True, False, "host:a") == (alive, process.is_alive, (tmp_path / "stopped").read_text())


def test_job_process_returns_every_kind_of_outcome(bench):
    """The process returns results, failures, decisions of plugins, and the limit keys that a job blocks.

    A failure contains its traceback and the session that is checked when the failure is settled.
    """
    process = bench.process()
    coroutine = bench.run(process, bench.start("atalk", "hello")).transition
    failure = bench.run(process, bench.start("fail", "boom")).transition
    decided = bench.run(process, bench.start("fail", "plugin")).transition

    limited = bench.run(process, bench.start("limited"))

    assert (State.SUCCEEDED, '"hello!"') == (coroutine.to, coroutine.result)
    assert (State.SCHEDULED, ("smtp", limited.transition.due_at)) == (limited.transition.to, limited.blocks)
    assert (State.SCHEDULED, 1, "ValueError", bench.worker.holder.session) == (
        failure.to, failure.retries, failure.error.type, failure.session
    )  # fmt: skip
    assert "→ File" in failure.error.traceback
    assert (State.FAILED, "fail decided in True") == (decided.to, decided.reason)


@pytest.mark.parametrize(
    ("kind", "to", "reason"),
    [(CancelKind.TIMEOUT, State.SCHEDULED, "timed out after 5 s"), (CancelKind.STOP, State.ENQUEUED, "x")],
)
def test_process_of_a_cancelled_run_is_killed(bench, kind, to, reason):
    """The process is killed immediately, which is the reason for running the job in a process.

    The kind of cancellation determines how the job ends.
    """
    process, ends = bench.process(), []
    run = bench.start("sleep", timeout=5)
    running = threading.Thread(target=lambda: ends.append(bench.run(process, run)))
    running.start()
    until(lambda: run.started)

    run.cancel(kind, "x")
    running.join(20)

    assert to is ends[0].transition.to
    assert reason in ends[0].transition.reason
    assert not process.is_alive


def test_run_cancelled_before_its_start_does_not_start(bench):
    """The process of a run that is already cancelled is killed before it has read the job."""
    process, run = bench.process(), bench.start("sleep")
    run.cancel(CancelKind.LOST, "deleted")

    ended = bench.run(process, run)

    assert (State.ENQUEUED, "deleted") == (ended.transition.to, ended.transition.reason)


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGKILL, "SIGKILL; possibly out of memory")]
)
def test_crash_reason_names_the_signal(bench, number, name):
    """The death of the process counts as a crash of its job, and the reason contains the cause."""
    process, run = bench.process(), bench.start("die", int(number))

    ended = bench.run(process, run)

    assert (State.ENQUEUED, 1) == (ended.transition.to, ended.transition.crashes)
    assert f"its process died: {name}" in ended.transition.reason


def test_closing_a_process_that_runs_a_job_kills_it(bench):
    process = bench.process()
    running = threading.Thread(target=lambda: bench.run(process, bench.start("sleep")))
    running.start()
    until(lambda: process._is_ready)  # noqa: SLF001 - the process then has the job

    process.close()
    running.join(20)

    assert not process.is_alive


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "cause unknown"), (0, "exit code 0"), (3, "exit code 3"), (-11, "SIGSEGV"),
        (-9, "SIGKILL; possibly out of memory"), (-200, "signal 200"),
    ],
)  # fmt: skip
def test_exit_status_is_described_in_words(code, words):
    """Signals are named.

    SIGKILL without another explanation often means that the system ran out of memory.
    """
    assert words == describe_exit(code)


# ---- with the executors ----------------------------------------------------------------------------------


@pytest.fixture
def office(bench):
    """A worker context and its workers: one thread and one coroutine.

    Their processes load the bench's app.
    """
    board = SharedMemory.create(1)
    board.grant(1e9)
    context = WorkerContext(
        bench.worker.runner,
        bench.worker.console,
        board,
        DispatcherInbox(),
        JobProcessSpec(bench.spec, SERVER),
    )
    workers = Workers(context, bench.fire.registry, threads=1, coroutines=1)
    workers.start()
    yield context, workers
    workers.close(10)
    board.close()


def ended(desk, number):
    """Return the ends as soon as this many have arrived."""
    until(lambda: len(desk.inbox.ended) >= number, 30)
    return list(desk.inbox.ended)


def test_worker_reuses_its_process_and_replaces_a_dead_one(bench, office):
    """Jobs run one after another in one process; after a crash, the next job runs in a new process."""
    desk, threads = office
    jobs = [bench.claim("talk", word) for word in ("one", "two")]
    jobs += [bench.claim("die", 11), bench.claim("talk", "three")]

    threads.put([ClaimedRun(job, bench.worker.holder) for job in jobs])
    ends = ended(desk, 4)

    pids = [one.transition.result.split()[1] for one in ends if one.transition.result]
    assert [1, 1, 0, 1] == [one.transition.to is State.SUCCEEDED for one in ends]
    assert pids[0] == pids[1] != pids[2]
    assert [] == desk.memory.running()


def test_suspect_runs_alone(bench, office):
    """After two crashes, a job runs in a new process, so that only this job can cause the next crash.

    After that crash, the job fails.
    """
    desk, threads = office
    suspect = bench.claim("die", 11)
    suspect.crashes = 2
    innocent = bench.claim("atalk", "x")

    threads.put([ClaimedRun(suspect, bench.worker.holder), ClaimedRun(innocent, bench.worker.holder)])
    ends = ended(desk, 2)

    assert [State.FAILED, State.SUCCEEDED] == [one.transition.to for one in ends]
    assert 3 == ends[0].transition.crashes


@pytest.mark.parametrize(("crashes", "is_stored"), [(0, False), (2, True)])
def test_job_in_a_job_process_is_listed_as_running(bench, office, crashes, is_stored):
    """If the worker process dies, a crash is counted for the job.

    For a suspect, the start is stored as well.
    """
    desk, workers = office
    job = bench.claim("sleep")
    job.crashes = crashes

    workers.put([ClaimedRun(job, bench.worker.holder)])
    until(lambda: desk.memory.running() == [job.id], 30)
    if is_stored:
        until(lambda: bench.fire.jobs.get(job.id).record().started_at, 30)
    started_at = bench.fire.jobs.get(job.id).record().started_at
    (run,) = workers.runs()
    run.cancel(CancelKind.STOP, "the test has ended")
    ended(desk, 1)

    assert is_stored == (started_at is not None)
    assert [] == desk.memory.running()


def test_suspect_runs_even_if_its_start_cannot_be_stored(bench, office, caplog):
    """An outage must not prevent a claimed job from running."""
    desk, workers = office
    job = bench.claim("atalk", "x")
    job.crashes = 2
    bench.fire.storage.close()

    workers.put([ClaimedRun(job, bench.worker.holder)])

    assert State.SUCCEEDED is ended(desk, 1)[0].transition.to
    assert f"The start of job {job.id} could not be stored" in caplog.text


def test_process_above_the_memory_limit_is_not_reused(bench, office):
    """The job ends as usual, and the next job runs in another process."""
    desk, workers = office
    desk.limits = ProcessLimits(memory_bytes=1)

    workers.put([ClaimedRun(bench.claim("talk", word), bench.worker.holder) for word in ("one", "two")])

    first, second = (one.transition.result.split()[1] for one in ended(desk, 2))
    assert first != second


def test_number_of_idle_processes_is_limited(bench):
    """The most recently used process is used again. When the pool is closed, no process remains."""
    pool, info = JobProcessPool(JobProcessSpec(bench.spec, SERVER), keep=1), bench.tasks["talk"].info
    first, second = pool.take(info), pool.take(info)
    pool.give_back(first)
    pool.give_back(second)

    pool.tidy()
    alive = [first.is_alive, second.is_alive]
    third = pool.take(info)
    pool.close()
    pool.give_back(third)
    pool.tidy()

    assert [False, True] == alive
    assert second is third
    assert not second.is_alive


def test_outcome_of_a_suspect_does_not_wait_for_stopping_processes(bench):
    """The outcome of a suspect is passed on before its own process and surplus processes are stopped."""
    pool, info = JobProcessPool(JobProcessSpec(bench.spec, SERVER), keep=1), bench.tasks["talk"].info
    surplus, kept = pool.take(info), pool.take(info)
    pool.give_back(surplus)
    pool.give_back(kept)
    suspect = pool.take(info, is_new=True)

    pool.give_back(suspect, is_used_up=True)
    alive = [surplus.is_alive, suspect.is_alive]
    pool.tidy()

    assert [True, True] == alive
    assert [False, False] == [surplus.is_alive, suspect.is_alive]
    assert kept is pool.take(info)
    pool.give_back(kept, is_used_up=True)
    pool.close()


def test_process_that_died_while_idle_is_not_reused(bench):
    """A process that died while it was idle is replaced by another one."""
    pool, info = JobProcessPool(JobProcessSpec(bench.spec, SERVER)), bench.tasks["talk"].info
    dead = pool.take(info)
    pool.give_back(dead)
    dead.kill()

    alive = pool.take(info)
    pool.give_back(alive)
    pool.close()

    assert dead is not alive


def test_unknown_task_in_a_job_process_returns_an_error(bench):
    """The process returns an error that the task is not registered, and continues."""
    process = bench.process()

    ends = [bench.end(process, name) for name in ("elsewhere", "pid")]

    assert "is not registered on server host:a" in ends[0].reason
    assert State.SUCCEEDED is ends[1].to


# ---- logging in the job process --------------------------------------------------------------------------

LOGGING_APP = """
import logging
from firelock import Firelock, Retry

fire = Firelock("memory://")

@fire.task(executor="process", retry=Retry.never())
def work() -> None:
    logging.getLogger("shop").info("at work")
    raise ValueError("boom")
"""

LOGGING_HOST = """
import logging, sys
import logging_app
from firelock import JobFailed

def main():
    if sys.argv[1:]:
        logging.basicConfig(level=logging.INFO, format="HOST %(message)s")
    before = list(logging.getLogger().handlers), logging.getLogger().level
    with logging_app.fire.server(workers=1, async_workers=1):
        try:
            logging_app.work.enqueue().result(timeout=60)
        except JobFailed:
            print((logging.getLogger().handlers, logging.getLogger().level) == before)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize(("words", "lines"), [([], 0), (["configured"], 1)])
def test_job_processes_use_the_log_level_of_the_host(tmp_path, words, lines):
    """A server inside a program does not configure the program's logging.

    In the server's job processes, every log line has a format.
    """
    (tmp_path / "logging_app.py").write_text(LOGGING_APP)
    (tmp_path / "host.py").write_text(LOGGING_HOST)

    run = subprocess.run(
        [sys.executable, "host.py", *words], cwd=tmp_path, env=unmeasured(), capture_output=True, text=True,
        timeout=90, check=True,
    )  # fmt: skip

    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    assert "True\n" == run.stdout
    assert 1 == len(re.findall(f"(?m)^{stamp} ERROR firelock.jobs: Job .* ValueError: boom$", run.stderr))
    assert lines == len(re.findall(f"(?m)^{stamp} INFO shop: at work .job_id=.*$", run.stderr))


# ---- which failures count as crashes, and late kills ------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "why"),
    [("raise ValueError('no settings')", "no settings"), ("import os; os._exit(7)", "exit code 7")],
    ids=["error", "exit"],
)
def test_failed_load_of_the_app_is_not_a_crash(bench, code, why):
    """The job fails with the reason and its retry policy applies; the failure is not counted as a crash."""
    bench.app.write_text(code)

    end = bench.end(bench.process(), "pid")

    assert (State.SCHEDULED, 1, None) == (end.to, end.retries, end.crashes)
    assert "could not load the app" in end.error.message
    assert why in end.error.message


@pytest.fixture
def loading(bench, tmp_path):
    """Return a function that runs a job in a process whose app loads only after the test uses a pipe.

    Loading is complete when the test has opened the pipe and closed it.
    """
    pipe, running = tmp_path / "gate", []
    os.mkfifo(pipe)
    bench.app.write_text(f"open({str(pipe)!r}).read()\n{APP}")

    def begin(name, **options):
        process, run, ends = bench.process(), bench.start(name, **options), []
        running.append(threading.Thread(target=lambda: ends.append(bench.run(process, run))))
        running[-1].start()
        return run, ends, pipe

    yield begin
    for thread in running:
        thread.join(20)


def test_run_starts_after_its_process_has_loaded_the_app(bench, loading):
    """The timeout of a run counts from its start. Before that, the run only occupies its worker."""
    run, ends, pipe = loading("pid", timeout=30)
    with pipe.open("w"):  # opening waits for the process, which is then loading the app
        before, keeps_worker = run.started, run.busy_since > 0
        loaded_at = bench.fire.client.clock.now()
    until(lambda: ends)

    assert (0.0, True) == (before, keeps_worker)
    assert State.SUCCEEDED is ends[0].transition.to
    assert loaded_at <= ends[0].transition.started_at
    assert loaded_at <= run.started_at


@pytest.mark.parametrize("kind", [CancelKind.LOST, CancelKind.STOP])
def test_run_cancelled_while_its_process_loads_has_not_started(loading, kind):
    """The process is killed, and the job returns to its queue without an entry in its history."""
    run, ends, pipe = loading("pid")
    with pipe.open("w"):
        run.cancel(kind, "deleted")
        until(lambda: ends)

    transition = ends[0].transition
    assert (State.ENQUEUED, None, "deleted") == (transition.to, transition.started_at, transition.reason)
    assert (True, True) == (transition.gives_back, transition.is_silent)


GATED = """
import os
from firelock import Firelock, Settings

if gate := os.environ.get("GATE"):
    open(gate).read()

fire = Firelock("memory://gated", settings=Settings(heartbeat=300, session_timeout=900, sweep=300))

@fire.task(name="never", executor="process")
def never() -> None: ...
"""


def test_server_detects_a_deletion_while_the_process_loads(tmp_path, monkeypatch):
    """The server detects the deletion within a second, as for a running job.

    It does not wait for its next heartbeat. It then kills the process, and the cancelled batch ends, because
    this job was its last member.
    """
    (tmp_path / "gated_app.py").write_text(GATED)
    monkeypatch.syspath_prepend(tmp_path)
    fire = importlib.import_module("gated_app").fire
    os.mkfifo(tmp_path / "gate")
    monkeypatch.setenv("GATE", str(tmp_path / "gate"))

    with fire, fire.server(workers=1):
        with fire.batch("import") as batch:
            job = batch.add(fire.task_named("never"))
        with (tmp_path / "gate").open("w"):
            batch.delete()
            until(lambda: batch.refresh().state is State.DELETED)
        record = job.record()

    assert (State.DELETED, False) == (record.state, record.is_stopping)


def test_process_that_does_not_become_ready_is_killed(bench, tmp_path):
    """The job fails with the reason and its retry policy applies; the failure is not counted as a crash."""
    os.mkfifo(tmp_path / "gate")
    bench.app.write_text(f"open({str(tmp_path / 'gate')!r}).read()")
    process = bench.process(ready_seconds=0.2)

    end = bench.end(process, "pid")

    assert (State.SCHEDULED, 1, None) == (end.to, end.retries, end.crashes)
    assert "could not load the app: it was not ready after 0.2 s" in end.error.message
    assert not process.is_alive


def test_death_of_a_process_is_a_crash_of_its_job(bench):
    """The crash is counted for the job, which was the only one in the process."""
    end = bench.end(bench.process(), "dies")

    assert (State.ENQUEUED, 1) == (end.to, end.crashes)
    assert "exit code 3" in end.reason


def test_worker_survives_a_process_that_died_between_two_jobs(bench):
    """Sending a job to a dead process results in a broken pipe or in no reply.

    Both end the run normally.
    """
    process = bench.process()
    pid = int(bench.end(process, "pid").result)
    os.kill(pid, signal.SIGKILL)

    assert 1 == bench.end(process, "pid").crashes


def test_worker_survives_a_process_that_was_found_dead(bench):
    """Nothing can be sent to a process that was found dead.

    It never became ready, so no crash is counted for the job.
    """
    process = bench.process()
    process.kill()
    process._process.wait()  # noqa: SLF001 - from here on its pipe is broken

    end = bench.end(process, "pid")

    assert (State.SCHEDULED, None) == (end.to, end.crashes)
    assert "SIGKILL" in end.error.message


def test_coroutine_that_stops_its_event_loop_is_interrupted(bench):
    """After the interrupted coroutine, the process continues with the next job."""
    process = bench.process()

    end = bench.end(process, "stops")

    assert (State.SCHEDULED, None) == (end.to, end.crashes)
    assert "Event loop stopped" in end.error.message
    assert State.SUCCEEDED == bench.end(process, "pid").to


def test_standard_input_of_a_job_is_empty(bench):
    """A job cannot read the server's orders, so the next job arrives as usual."""
    process = bench.process()

    ends = [bench.end(process, name) for name in ("reads", "pid")]

    assert [State.SUCCEEDED] * 2 == [end.to for end in ends]
    assert '""' == ends[0].result


def test_late_kill_does_not_affect_the_next_job(bench):
    """A late timeout of an earlier run does not kill the process. The process continues with the next job."""
    process = bench.process()
    run = bench.start("pid")
    first = bench.end(process, "pid")
    bench.run(process, run)
    process._stop(run)  # noqa: SLF001 - called by a thread that has read `run.stop` just before the end

    assert process.is_alive
    assert first.result == bench.end(process, "pid").result


def test_killed_process_gets_no_other_job(bench):
    """The process is not used again, even if the reply arrived first and the process still seems alive."""
    process = bench.process()
    run = bench.start("pid")
    run.cancel(CancelKind.STOP, "server stopping")

    bench.run(process, run)

    assert not process.is_alive


def test_job_process_loads_the_app_with_the_server_options(bench, tmp_path):
    """A job process uses the server's storage and imports.

    Otherwise, jobs that a job enqueues would be lost and tasks would not be found.
    """
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    process = bench.process(storage=url, imports=["more_tasks"])

    ends = [bench.end(process, name) for name in ("url", "elsewhere")]

    assert [State.SUCCEEDED] * 2 == [end.to for end in ends]
    assert "jobs.db" in ends[0].result


@pytest.mark.parametrize(("name", "message"), [("says", "shout"), ("reports", "finite")])
def test_invalid_log_or_progress_argument_fails_only_the_job(bench, name, message):
    """An invalid argument of a job's log or progress fails the job, as in a thread, and is not a crash."""
    end = bench.end(bench.process(), name)

    assert (State.SCHEDULED, None) == (end.to, end.crashes)
    assert message in end.error.message
