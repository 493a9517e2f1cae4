"""`firelock dev`: a server and a dashboard in one terminal, which restart when the code changes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from firelock import Firelock
from firelock.model.state import State
from firelock.testing import eventually
from tests.end_to_end.terminal import PseudoTerminal
from tests.ports import free_port

SHOP = """
import time
from pathlib import Path
from firelock import Firelock

fire = Firelock("sqlite:///jobs.db")

@fire.task
def version() -> int:
    return {version}

@fire.task
def hold() -> int:
    while not Path("go").exists():
        time.sleep(0.02)
    return {version}
"""
IMPORTED = 'import sys; print("imported 20", file=sys.stderr)\n'
FIRELOCK = [sys.executable, "-m", "firelock"]
WITHOUT = "import sys; sys.modules[{module!r}] = None; from firelock.cli import main; sys.exit(main())"
DEADLINE = 60.0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a project."""
    (tmp_path / "dev_shop.py").write_text(SHOP.format(version=1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def app(folder):
    """An app on the project's storage."""
    with Firelock(f"sqlite:///{folder / 'jobs.db'}") as app:
        for name in ("version", "hold"):
            app.task(name=f"dev_shop.{name}", remote=True)(_version)
        yield app


def _version() -> int: ...


def processes_in(folder):
    """Return the processes with this working directory, except the current process.

    The result is empty if the system does not provide this information.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").readlink() == folder and int(entry.name) != os.getpid():
                found.append(entry.name)
    return found


@pytest.mark.heavy("starts a server and a dashboard, three times each")
def test_changed_code_is_loaded_and_no_job_is_lost(folder, app):
    """The command needs one terminal and prints one link.

    If a change breaks the code, an error is shown and the previous code keeps running. One Ctrl-C ends all
    processes.
    """
    port = free_port()
    command = [*FIRELOCK, "dev", "dev_shop:fire", "--port", str(port), "--workers", "2"]
    with PseudoTerminal(command, folder=folder) as terminal:
        seen = terminal.awaits(f"To sign in, open http://127.0.0.1:{port}/enter#")
        terminal.awaits("Running jobs from now on.")
        first = app.task_named("dev_shop.version").enqueue().result(timeout=DEADLINE)

        (folder / "dev_shop.py").write_text(SHOP.format(version=2) + "\ndef (\n")
        seen = terminal.awaits("The code cannot be imported; the previous code keeps running", since=seen)
        broken = terminal.text
        while_broken = app.task_named("dev_shop.version").enqueue().result(timeout=DEADLINE)

        held = app.task_named("dev_shop.hold").enqueue()
        eventually(lambda: held.refresh().state is State.PROCESSING, within=DEADLINE)
        # The new code is longer: Python considers compiled code current if size and second of the source are
        # equal.
        (folder / "dev_shop.py").write_text(SHOP.format(version=20) + IMPORTED)
        terminal.awaits("must reload its code", since=seen)
        eventually(
            lambda: 20 == app.task_named("dev_shop.version").enqueue().result(timeout=DEADLINE),
            within=DEADLINE,
        )
        (folder / "go").touch()
        ended = held.result(timeout=DEADLINE)
        eventually(lambda: is_answering(port), within=DEADLINE)
        servers = app.servers.list()

        terminal.press("\x03")
        code = terminal.ended()

    assert (1, 1, 1) == (first, while_broken, ended)
    assert 1 == len(servers)
    assert "dev_shop.py:18: SyntaxError" in broken
    assert [0, 1] == [held.record().crashes, held.record().attempt]
    assert 1 == terminal.text.count("To sign in, open")
    assert 2 == terminal.text.count("imported 20")  # by the server and the dashboard
    assert 0 == code
    eventually(lambda: not processes_in(folder))


def is_answering(port):
    """Return whether the dashboard responds again."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/nothing").close()
    except OSError as error:
        return isinstance(error, urllib.error.HTTPError)
    return True


@pytest.mark.heavy("starts a server")
def test_server_without_reload_ends_with_its_own_error(folder):
    """If the code is not reloaded, no later change could fix the error."""
    (folder / "dev_shop.py").write_text(
        "from firelock import Firelock\nfire = Firelock('sqlite:///jobs.db')\n"
    )

    ran = subprocess.run(
        [*FIRELOCK, "dev", "dev_shop:fire", "--no-dashboard", "--no-reload"], capture_output=True, text=True,
        timeout=DEADLINE, check=False,
    )  # fmt: skip

    assert 1 == ran.returncode
    assert "This server has no tasks to run." in ran.stdout + ran.stderr
    assert "The server has ended (exit code 2)." in ran.stdout


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("watchfiles", "watchfiles, which reloads changed code, is not installed."),
        ("firelock_dashboard", "No installed plugin offers a dashboard."),
    ],
)
def test_missing_package_is_reported(folder, module, message):
    """The error contains the command that installs the package, and the option that makes it unnecessary."""
    environment = {**os.environ, "FIRELOCK_PLUGINS": "-dashboard" * (module == "firelock_dashboard")}

    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(module=module), "dev", "dev_shop:fire"], capture_output=True,
        text=True, timeout=DEADLINE, check=False, env=environment,
    )  # fmt: skip

    assert 2 == ran.returncode
    assert f'firelock: {message}\n  Run pip install "firelock[dev]", or add --no-' in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("dev", "firelock dev needs an app."),
        ("dev dev_shop:fire --port 70000", "--port must be from 0 to 65535, got 70000."),
        ("dev dev_shop:fire --watch nowhere", "nowhere'."),
    ],
)
def test_invalid_option_is_refused_before_the_start(folder, run, words, message):
    """The error is one sentence with a hint."""
    ran = run(words)

    assert (2, "") == (ran.code, ran.out)
    assert message in ran.error


def test_port_in_use_is_reported_before_the_start(folder, run):
    """The error is reported before a server is started."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        ran = run(f"dev dev_shop:fire --port {port}")

    assert 2 == ran.code
    assert f"Cannot listen on port {port} of 127.0.0.1: " in ran.error
