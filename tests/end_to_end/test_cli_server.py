"""`firelock server` and `migrate` on a database file, with real processes and signals."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest

from firelock import Firelock, JobFailed
from firelock.storage import ClaimRequest, JobFilter, NewSession
from firelock.testing import eventually

SHOP = """
from firelock import Firelock

fire = Firelock("sqlite:///jobs.db")

@fire.task
def add(left: int, right: int) -> int:
    return left + right
"""
PID = """
import os

@fire.task
def process() -> int:
    return os.getpid()
"""
DEADLINE = 90.0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with an application."""
    (tmp_path / "cli_shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def serve(folder):
    """Return a function that starts a server in the folder; it is killed at the end of the test."""
    started = []

    def start(*words, output=subprocess.PIPE, **environment):
        process = subprocess.Popen(
            [sys.executable, "-m", "firelock", "server", *words],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def stop(process):
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=DEADLINE)
    return process.returncode, out, error


def test_server_runs_jobs_until_sigterm(folder, serve):
    """The server prints its settings, runs enqueued jobs, and exits with code 0 on SIGTERM."""
    with Firelock(f"sqlite:///{folder / 'jobs.db'}") as app:
        add = app.task(name="cli_shop.add")(lambda left, right: left + right)
        server = serve("cli_shop:fire", "--name", "s1", "--workers", "2", "--queues", "default:2,mail:1")

        result = add.enqueue(2, 3).result(timeout=DEADLINE)
        code, out, error = stop(server)

    assert result == 5
    assert code == 0
    assert "Firelock server s1: 2 workers, queues default:2,mail:1, 1 task" in out
    assert "jobs.db" in out
    assert "Traceback" not in error
    assert "Stopping: claiming no more jobs; running jobs have 25 s to end." in error
    assert error.rstrip().endswith("Stopped, with exit code 0.")


def closed_pipe():
    """Return the end of a pipe to which nothing can be written."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize(
    "output",
    [closed_pipe, lambda: os.open("/dev/full", os.O_WRONLY)],
    ids=["a closed pipe", "a full disk"],
)
def test_server_runs_jobs_if_standard_output_cannot_be_written(folder, serve, output):
    """The lines about the start of the server are logged instead of printed."""
    descriptor = output()
    with Firelock(f"sqlite:///{folder / 'jobs.db'}") as app:
        add = app.task(name="cli_shop.add")(lambda left, right: left + right)
        server = serve("cli_shop:fire", "--name", "s1", output=descriptor, PYTHONUNBUFFERED="")
        os.close(descriptor)

        result = add.enqueue(2, 3).result(timeout=DEADLINE)
        code, _, error = stop(server)

    assert (result, code) == (5, 0)
    assert "Cannot write to standard output" in error
    assert "Firelock server s1: " in error
    assert "Traceback" not in error


def test_project_file_sets_app_and_settings_of_the_server(folder, serve, run):
    """All processes of the server use the app and the settings in pyproject.toml."""
    (folder / "pyproject.toml").write_text(
        '[tool.firelock]\napp = "cli_shop:fire"\nsession_timeout = 7\nheartbeat = 2\n'
    )
    server = serve()

    def sessions():
        ran = run("servers list --json --storage sqlite:///jobs.db")
        return [one["sessions"][0] for one in ran.json["servers"]]

    eventually(sessions, within=DEADLINE)
    timeout = sessions()[0]["session"]["timeout_seconds"]
    code, _, _ = stop(server)

    assert (timeout, code) == (7.0, 0)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("", 2, "needs an app"),
        ("cli_shop:fire --queues 'a b'", 2, "Queue name must be 1 to 64 characters"),
        ("cli_shop:fire --workers 0", 2, "must be an integer from 1 to 10,000"),
        (
            "cli_shop:nothing",
            2,
            "Module cli_shop has no 'nothing'; its app is named 'fire': cli_shop:fire.",
        ),
        ("no_such_shop:fire", 2, "No module 'no_such_shop'"),
        (
            "cli_shop:fire --storage sqlite:////no/such/folder/jobs.db",
            3,
            "the folder /no/such/folder does not exist",
        ),
    ],
)
def test_failed_start_prints_the_reason(serve, words, code, message):
    """The server writes a sentence to standard error and exits with the code for this kind of error."""
    server = serve(*shlex.split(words))

    _, error = server.communicate(timeout=DEADLINE)

    assert server.returncode == code
    assert message in error
    assert "Traceback" not in error


# Runs a program with a maximum file size of 0, so it can neither write to its files nor map memory in them.
NO_FILES = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere this limit is not the shared memory's")
def test_lack_of_memory_for_the_workers_prevents_the_start(folder, run):
    """The server exits with a sentence that contains the numbers. Otherwise, jobs would be killed later."""
    server = subprocess.run(
        [sys.executable, "-c", NO_FILES, "-m", "firelock", "server", "cli_shop:fire", "--workers", "8"],
        cwd=folder, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip

    assert server.returncode == 2
    message = r"firelock: Not enough shared memory for 108 workers \(\d,\d{3} bytes\): File too large"
    assert re.search(message, server.stderr), server.stderr
    assert "Traceback" not in server.stderr


# ---- migrate ---------------------------------------------------------------------------------------------


def test_migrate_creates_the_schema_once(run, folder):
    """The first run lists its migrations, and the second run reports that there is nothing to do."""
    storage = ["--storage", f"sqlite:///{folder / 'new.db'}"]

    before = run("migrate status", *storage)
    first = run("migrate", *storage)
    second = run("migrate up", *storage, "--json")

    assert (before.code, before.out) == (1, "The storage has no schema yet; this release needs 2.\n")
    assert first.code == 0
    assert first.out.splitlines()[0].startswith("done  ")
    assert second.json == {"migrations": [], "found": 2, "wanted": 2, "is_current": True}


def test_doctor_reports_a_new_database_without_an_error(run, folder):
    """The doctor reports that there is no schema yet, and does not create one."""
    ran = run("doctor --storage", f"sqlite:///{folder / 'new.db'}")

    assert ran.code == 0
    assert "The storage has no schema yet" in ran.out


LOGGING = """
import logging

from firelock import Firelock, Retry

fire = Firelock("sqlite:///jobs.db")

@fire.task(retry=Retry.fixed(0, attempts=1))
def here(word: str) -> None:
    logging.getLogger("shop").info("at work here")
    logging.getLogger("shop").debug("in detail here")
    raise ValueError("boom here")

@fire.task(executor="process", retry=Retry.fixed(0, attempts=1))
def apart(word: str) -> None:
    logging.getLogger("shop").info("at work apart")
    logging.getLogger("shop").debug("in detail apart")
    raise ValueError("boom apart")
"""


@pytest.fixture
def output_of_failures(folder, serve):
    """Return a function that returns a server's output about failing jobs.

    One job fails in the server, and one in its own process.
    """

    def run(*words):
        (folder / "cli_logging.py").write_text(LOGGING)
        with Firelock(f"sqlite:///{folder / 'jobs.db'}") as app:
            server = serve("cli_logging:fire", "--workers", "1", *words)
            for name in ("here", "apart"):
                job = app.task(name=f"cli_logging.{name}", remote=True)(lambda word: None).enqueue(
                    "topsecret"
                )
                with pytest.raises(JobFailed):
                    job.result(timeout=DEADLINE)
            return stop(server)[2]

    return run


@pytest.mark.parametrize("is_verbose", [False, True])
def test_jobs_in_the_server_and_in_job_processes_log_alike(output_of_failures, is_verbose):
    """INFO lines, failures, and, with `--verbose`, DEBUG lines are all logged in the same format."""
    error = output_of_failures(*["--verbose"] * is_verbose)

    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    job = r" \[job_id=\S+ task=\S+ queue=default attempt=[12]\]"
    for place in ("here", "apart"):
        for times, line in (
            (2, f"{stamp} INFO shop: at work {place}{job}"),
            (2 * is_verbose, f"{stamp} DEBUG shop: in detail {place}{job}"),
            (1, f"{stamp} WARNING firelock.jobs: .* boom {place}"),
            (1, f"{stamp} ERROR firelock.jobs: .* boom {place}"),
            (1, f"ValueError: boom {place}"),
        ):
            assert times == len(re.findall(f"(?m)^{line}$", error)), line
    assert "topsecret" not in error


def test_project_file_can_disable_lines_about_failed_jobs(folder, output_of_failures):
    """The setting applies to the server and to job processes. The tasks' own log lines are kept."""
    (folder / "pyproject.toml").write_text("[tool.firelock]\nlog_failures = false\n")

    error = output_of_failures()

    assert "INFO shop: at work apart" in error
    assert "firelock.jobs" not in error


LOUD = """
import logging
import threading
import warnings

from firelock import Firelock

fire = Firelock("sqlite:///jobs.db")


@fire.task(name="work", executor="process")
def work(word: str) -> None:
    warnings.warn("old", stacklevel=1)
    logging.getLogger("shop").warning("at %s", word, extra={"order": 7})


@fire.task(name="fall")
def fall() -> None:
    thread = threading.Thread(target=lambda: 1 / 0, name="aside")
    thread.start()
    thread.join()
    logging.getLogger("shop").warning("here")
"""


def test_server_logs_json(folder, serve):
    """Each line is a JSON object, whether the server, a job in a thread or process, or Python logged it."""
    (folder / "loud_shop.py").write_text(LOUD)
    with Firelock(f"sqlite:///{folder / 'jobs.db'}") as app:
        work = app.task(name="work", executor="process")(lambda word: None)
        fall = app.task(name="fall")(lambda: None)
        words = ("--log-format", "json", "--log-meta", "request_id, tenant", "--workers", "1")
        server = serve("loud_shop:fire", *words)
        meta = {"request_id": "r1", "traceparent": "t"}
        apart, within = work.using(meta=meta).enqueue("once"), fall.using(meta=meta).enqueue()

        apart.result(timeout=DEADLINE)
        within.result(timeout=DEADLINE)
        _, out, error = stop(server)

    lines = [json.loads(line) for line in error.splitlines()]
    (at,) = [line for line in lines if line["message"] == "at once"]
    (here,) = [line for line in lines if line["message"] == "here"]
    (uncaught,) = [line for line in lines if line["logger"] == "python"]
    assert "" == out
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    assert ("shop", "WARNING", 7) == (at["logger"], at["level"], at["order"])
    assert (apart.id, "work", "default", 1) == tuple(at[name] for name in FIELDS)
    assert (within.id, "fall", "default", 1) == tuple(here[name] for name in FIELDS)
    assert ["r1", "r1"] == [at["request_id"], here["request_id"]]
    assert not {"traceparent", "tenant"} & {*at, *here}
    assert "ZeroDivisionError" == uncaught["exception"]["type"]
    assert any(line["logger"] == "py.warnings" and line["job_id"] == apart.id for line in lines)
    assert any(line["message"].startswith("Firelock server ") for line in lines)


FIELDS = ("job_id", "task", "queue", "attempt")


def test_failed_start_is_reported_in_json(folder, serve):
    """The error about a failed start is a JSON object too."""
    server = serve("nowhere:fire", "--log-format", "json")

    out, error = server.communicate(timeout=DEADLINE)

    (record,) = [json.loads(line) for line in error.splitlines()]
    assert (2, "") == (server.returncode, out)
    assert ("CRITICAL", "No module 'nowhere' in this folder") == (record["level"], record["message"][:34])


def test_worker_process_is_replaced_after_max_jobs_per_process(folder, serve):
    """No job is lost, run twice or counted as crashed, and another process continues."""
    (folder / "cli_shop.py").write_text(SHOP + PID)
    with Firelock(f"sqlite:///{folder / 'jobs.db'}") as app:
        process = app.task(name="cli_shop.process")(lambda: None)
        server = serve("cli_shop:fire", "--workers", "1", "--max-jobs-per-process", "5")

        pids = [process.enqueue().result(timeout=DEADLINE) for _ in range(5)]
        eventually(lambda: process.enqueue().result(timeout=DEADLINE) != pids[0], within=DEADLINE)
        code, _, error = stop(server)
        jobs = app.storage.find(JobFilter(), limit=500).jobs

    assert (0, 1) == (code, len(set(pids)))
    assert {("succeeded", 1, 0)} == {(str(job.state), job.attempt, job.crashes) for job in jobs}
    assert "jobs; starting another in its place" in error


@pytest.mark.heavy("starts two processes of a server, one after the other")
def test_server_reloads_its_code_on_sighup(folder, serve):
    """The server continues to run: later jobs run the new code, no job is lost and no crash is counted.

    The new code is longer, because Python considers compiled code up to date if the source has the same size
    and the same second of modification.
    """
    with Firelock(f"sqlite:///{folder / 'jobs.db'}") as app:
        add = app.task(name="cli_shop.add", remote=True)(lambda left, right: left + right)
        server = serve("cli_shop:fire", "--workers", "2")
        before = add.enqueue(2, 3).result(timeout=DEADLINE)
        (folder / "cli_shop.py").write_text(SHOP.replace("left + right", "left * right * 1"))

        server.send_signal(signal.SIGHUP)
        after = eventually(
            lambda: (got := add.enqueue(2, 3).result(timeout=DEADLINE)) == 6 and got, within=DEADLINE
        )
        servers, crashes = app.servers.list(), [job.record().crashes for job in app.jobs.find(limit=500)]
        code, _, error = stop(server)

    assert (5, 6, 0, 1, {0}) == (before, after, code, len(servers), set(crashes))
    assert "must reload its code; starting another in its place." in error


def test_worker_process_of_a_job_that_does_not_stop_is_ended(run, request):
    """The job's id identifies the process, and an audit entry is added.

    A job that is not running has no worker process.
    """
    with Firelock(f"memory://{request.node.name}") as app:
        noop = app.task(name="noop")(lambda: None)
        waiting, deaf = noop.using(priority=-1).enqueue(), noop.enqueue()
        now = app.storage.clock()
        app.storage.begin_session(NewSession("session-a", "server-a", "web-1", "host", 7, now, 600.0))
        app.storage.claim(ClaimRequest(None, 1, "session-a", now))
        deaf.delete()
        where = ("--storage", app.storage.url)

        ended = run(f"servers end-process {deaf.id}", *where)
        refused = run(f"servers end-process {waiting.id}", *where)
        app.storage.end_session("session-a", (), reason="server stopped")
        over = run(f"servers end-process {deaf.id}", *where)

        assert f"{deaf.id}  worker process ends\n" == ended.out
        assert '"end session-a"' == app.storage.get_record("server_order", "server-a").value
        (entry,) = app.audit.list()
        assert ("server.end_process", "web-1", 7) == (entry.action, entry.target, entry.detail["pid"])
        assert f"No worker process runs job {waiting.id}." in refused.error
        assert f"No worker process runs job {deaf.id}." in over.error
