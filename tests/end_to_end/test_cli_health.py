"""Monitoring of a server: its probe port, `firelock health`, and the notifications to a service manager."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from firelock import Firelock
from firelock.testing import eventually
from tests.ports import HOST, free_port

SHOP = """
import os

from firelock import Firelock
from firelock.integrations.prometheus import Prometheus

fire = Firelock("sqlite:///jobs.db", plugins=[Prometheus()])

@fire.task
def add(left: int, right: int) -> int:
    return left + right

@fire.task
def kill(once: str) -> None:
    try:
        os.close(os.open(once, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), 9)
"""
DEADLINE = 90.0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with an application."""
    (tmp_path / "health_shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def serve(folder):
    """Return a function that starts a server in the folder; it is killed at the end of the test."""
    started = []

    def start(*words, **environment):
        process = subprocess.Popen(
            [sys.executable, "-m", "firelock", "server", "health_shop:fire", "--workers", "2", *words],
            cwd=folder, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def get(port, path):
    """Return the status and text of a page; the status is 0 if no server listens."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except (OSError, urllib.error.URLError):
        return 0, ""


@pytest.mark.heavy("real servers, whose worker processes are killed or replaced")
def test_probes_from_start_to_end_of_a_server(folder, serve, run):
    """While a killed worker process is replaced, the server stays alive and ready.

    After SIGTERM, it drains. The service manager gets the same information.
    """
    port = free_port()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify"))
        manager.settimeout(DEADLINE)
        server = serve(
            "--processes", "2", "--probe-port", str(port),
            NOTIFY_SOCKET=str(folder / "notify"), WATCHDOG_USEC="3000000",
        )  # fmt: skip
        received = [manager.recv(100).decode()]
        while received[-1] != "READY=1":
            received.append(manager.recv(100).decode())
        assert set(received) <= {"WATCHDOG=1", "READY=1"}
        assert manager.recv(100).decode() == "WATCHDOG=1"

        eventually(lambda: get(port, "/readyz")[0] == 200, within=DEADLINE)
        assert get(port, "/startupz") == (
            200,
            "ok worker process 0: it has started\nok worker process 1: it has started\n",
        )
        eventually(lambda: get(port, "/livez")[1].count(" thread busy") == 2, within=DEADLINE)
        healthy = run("health --json --probe-port", port)
        alive = run("health --live --probe-host 0.0.0.0 --probe-port", port)

        children = [int(pid) for pid in re.findall(r"^\d+", ps_children(server.pid), re.MULTILINE)]
        os.kill(children[0], signal.SIGKILL)
        answers = set()

        def is_replaced():
            answers.update((path, get(port, path)[0]) for path in ("/livez", "/readyz"))
            starts = [
                sample(port, "firelock_worker_process_starts_total", process=place) for place in ("0", "1")
            ]
            return set(starts) == {1.0, 2.0} and "2 of 2 worker processes" in get(port, "/readyz")[1]

        eventually(is_replaced, within=DEADLINE)

        server.send_signal(signal.SIGTERM)
        while received[-1] != "STOPPING=1":
            received.append(manager.recv(100).decode())
        out, error = server.communicate(timeout=DEADLINE)

    assert server.returncode == 0, error
    assert answers == {("/livez", 200), ("/readyz", 200)}  # the other worker process runs jobs
    assert f"probes: http://{HOST}:{port} (/livez /readyz" in out
    assert (healthy.code, healthy.json["is_ok"]) == (0, True)
    assert [check["name"] for check in healthy.json["checks"]] == ["storage", "session", "mode"]
    assert (alive.code, "ok supervisor: its loop turned" in alive.out) == (0, True)


@pytest.mark.heavy("real servers")
@pytest.mark.parametrize("named_by", ["option", "environment", "settings"])
@pytest.mark.parametrize("plugins", ["", ", plugins=[Prometheus()]"], ids=["no plugin", "plugin"])
def test_jobs_are_counted_if_a_probe_port_is_set(folder, serve, named_by, plugins):
    """Each job is counted once, with and without the Prometheus plugin."""
    port = free_port()
    settings = f", settings=Settings(probe_port={port})" if named_by == "settings" else ""
    text = SHOP.replace(", plugins=[Prometheus()]", plugins + settings)
    text = text.replace("import Firelock", "import Firelock, Settings")
    (folder / "health_shop.py").write_text(text)
    words = ["--probe-port", str(port)] if named_by == "option" else []
    environment = {"FIRELOCK_PROBE_PORT": str(port)} if named_by == "environment" else {}
    with Firelock(f"sqlite:///{folder / 'jobs.db'}") as app:
        add = app.task(name="health_shop.add")(lambda left, right: left + right)
        serve(*words, **environment)

        for job in add.enqueue_many([(1, number) for number in range(20)]):
            job.result(timeout=DEADLINE)

        eventually(lambda: finished(port, "add") == 20.0, within=DEADLINE)


@pytest.mark.heavy("real servers, whose worker processes are killed or replaced")
def test_counters_survive_their_worker_process(folder, serve):
    """A job kills its worker process.

    The counts of the dead process remain, the new process adds to them, and no counter decreases.
    """
    port = free_port()
    with Firelock(f"sqlite:///{folder / 'jobs.db'}") as app:
        add = app.task(name="health_shop.add")(lambda left, right: left + right)
        kill = app.task(name="health_shop.kill")(lambda once: None)
        server = serve("--probe-port", str(port))
        for job in add.enqueue_many([(1, number) for number in range(20)]):
            job.result(timeout=DEADLINE)
        eventually(lambda: finished(port, "add") == 20.0, within=DEADLINE)
        cpu = sample(port, "firelock_worker_process_cpu_seconds_total", process="0")

        kill.enqueue(str(folder / "killed")).result(timeout=DEADLINE)
        add.enqueue(1, 2).result(timeout=DEADLINE)
        eventually(lambda: (finished(port, "add"), finished(port, "kill")) == (21.0, 1.0), within=DEADLINE)

        assert sample(port, "firelock_worker_process_starts_total", process="0") == 2.0
        assert sample(port, "firelock_worker_process_crashed_jobs_total", process="0") == 1.0
        assert sample(port, "firelock_worker_process_cpu_seconds_total", process="0") >= cpu
        assert sample(port, "firelock_server_ready") == 1.0
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=DEADLINE)

    assert server.returncode == 0


@pytest.mark.heavy("real servers, whose worker processes are killed or replaced")
def test_replaced_worker_processes_lose_no_counts(folder, serve):
    """While the old process drains, the old and the new process both count jobs, each in its own memory.

    A worker process checks once a second whether it must be replaced, so it may run any number of jobs until
    then.
    """
    port, seen = free_port(), []
    with Firelock(f"sqlite:///{folder / 'jobs.db'}") as app:
        add = app.task(name="health_shop.add")(lambda left, right: left + right)
        server = serve("--probe-port", str(port), "--max-jobs-per-process", "20")

        def is_replaced_twice():
            add.enqueue(1, len(seen)).result(timeout=DEADLINE)
            seen.append(finished(port, "add") or 0.0)
            return sample(port, "firelock_worker_process_starts_total", process="0") == 3.0

        eventually(is_replaced_twice, within=DEADLINE)
        eventually(lambda: finished(port, "add") == float(len(seen)), within=DEADLINE)

        assert seen == sorted(seen)
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=DEADLINE)

    assert server.returncode == 0


def sample(port, name, **labels):
    """Return the value of a sample of /metrics, or None."""
    families = text_string_to_metric_families(get(port, "/metrics")[1])
    return next(
        (one.value for each in families for one in each.samples if (one.name, one.labels) == (name, labels)),
        None,
    )


def finished(port, task):
    """Return how many jobs of a task have succeeded, according to /metrics."""
    return sample(
        port, "firelock_jobs_finished_total", queue="default", task=f"health_shop.{task}", outcome="succeeded"
    )


def ps_children(pid):
    """Return the child processes of a process, one per line; each line begins with the process id."""
    return subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True
    ).stdout.replace(" ", "")


def test_health_reads_the_port_from_the_environment(run, monkeypatch):
    """If no process listens, the exit code is 3.

    If the server is not ready, the exit code is 1 and the output contains the reasons.
    """
    from firelock.server.probes import Check, ProbeAnswer, ProbeListener

    port = free_port()
    monkeypatch.setenv("FIRELOCK_PROBE_PORT", str(port))
    refused = run("health")
    listener = ProbeListener(
        HOST, port, {"/readyz": lambda: ProbeAnswer.of([Check("mode", False, "draining")])}
    )
    try:
        unready, strange = run("health"), run("health --live")
    finally:
        listener.close()

    assert (refused.code, f"No server responds to probes at {HOST}:{port}" in refused.error) == (3, True)
    assert (unready.code, unready.out) == (1, "failed mode: draining\n")
    assert (strange.code, "does not have /livez: 404" in strange.error) == (3, True)


def test_health_without_a_port_explains_how_to_set_one(run, folder):
    """The error is shown if no option, variable or project setting contains a port."""
    ran = run("health")

    assert ran.code == 2
    assert "No probe port is set" in ran.error
    assert "--probe-port 8081 or FIRELOCK_PROBE_PORT=8081" in ran.error


def test_project_file_sets_the_probe_port(run, folder):
    """The command and the server read the same setting in [tool.firelock]."""
    port = free_port()
    (folder / "pyproject.toml").write_text(
        f'[tool.firelock]\nprobe_port = {port}\nprobe_host = "127.0.0.1"\n'
    )

    assert f"at 127.0.0.1:{port}" in run("health").error


def test_port_in_use_prevents_the_start(serve):
    """The error is a sentence that is printed before any process of the app starts."""
    port = free_port()
    with socket.create_server((HOST, port)):
        server = serve("--probe-port", str(port))
        out, error = server.communicate(timeout=DEADLINE)

    assert server.returncode == 2
    assert f"Cannot listen for probes at http://{HOST}:{port}: Address already in use" in out + error


def test_settings_of_the_app_set_the_probe_port(folder, serve):
    """The supervisor gets the port from the first worker process."""
    port = free_port()
    (folder / "health_shop.py").write_text(
        SHOP.replace("import Firelock\n", "import Firelock, Settings\n").replace(
            '"sqlite:///jobs.db"', f'"sqlite:///jobs.db", settings=Settings(probe_port={port})'
        )
    )
    server = serve()

    eventually(lambda: get(port, "/readyz")[0] == 200, within=DEADLINE)
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=DEADLINE)

    assert server.returncode == 0
