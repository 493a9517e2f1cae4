"""`firelock demo` in this process, and what it says when its server fails it."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from firelock.cli import main
from firelock.cli.demo import _stop
from firelock.plugins import open_storage
from firelock.storage import JobFilter
from tests.end_to_end.cli_run import run

DEADLINE = 90.0
STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
)


class Terminal(io.StringIO):
    """Standard output that a person looks at."""

    def isatty(self):
        return True


@pytest.fixture
def folder(monkeypatch):
    """A folder for the demo's files, its path short enough for the sockets beside a database."""
    with tempfile.TemporaryDirectory(prefix="fl-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def stored(url):
    storage = open_storage(url)
    try:
        return {job.id: str(job.state) for job in storage.find(JobFilter(), limit=500).jobs}
    finally:
        storage.close()


def server_of(database):
    """Return the process id of the server, which is the parent of what runs the jobs."""
    storage = open_storage(f"sqlite:///{database}")
    (child,) = [record.session.pid for record in storage.list_sessions()]
    storage.close()
    found = subprocess.run(
        ["ps", "-o", "ppid=", "-p", str(child)], capture_output=True, text=True, check=True
    )
    return int(found.stdout)


def test_a_kept_demo_on_a_terminal_names_its_file(folder, monkeypatch):
    """A person sees the jobs end, and which commands find them afterwards; those that are named do."""
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "120"), ("LINES", "40")):
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)

    code = main(["demo", "--seconds", "3", "--keep"])

    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    (url,) = re.findall(r"export FIRELOCK_STORAGE=(\S+)", shown)
    (failed,) = re.findall(r"firelock jobs requeue (\S+)", shown)
    assert code == 0
    assert "━" * 58 + "  over" in shown
    assert "firelock server firelock.cli.demo_app:fire" in shown
    assert not Path(f"{url.removeprefix('sqlite:///')}-wal").exists()  # nobody has it open any more
    assert stored(url)[failed] == "failed"


def test_a_demo_whose_server_does_not_start_says_so(folder, monkeypatch, capsys):
    """The exit code of the server is told, and nothing stays behind."""
    monkeypatch.setenv("PYTHONHASHSEED", "no number")  # with which no interpreter starts

    ran = run(capsys, "demo")

    assert ran.code == 1
    assert ran.error == (
        "firelock: The demo's server ended with exit code 1.\n  Its log is in server.log; --keep keeps it.\n"
    )
    assert list(folder.iterdir()) == []


def test_a_demo_whose_server_dies_ends(folder):
    """Whoever kills the server ends the demo with a sentence, not with a table of what will never run."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "firelock", "demo", "--seconds", "60"],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in demo.stdout:
        if "succeeded" in line:
            break

    os.kill(server_of(next(folder.glob("*/demo.db"))), signal.SIGKILL)
    _, error = demo.communicate(timeout=DEADLINE)

    assert demo.returncode == 1
    assert error == (
        "firelock: The demo's server ended with exit code -9.\n  Its log is in server.log; --keep keeps it.\n"
    )


def test_a_server_that_does_not_stop_is_killed():
    """Where telling it to stop is not enough, nothing is left alive all the same."""
    server = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    server.stdout.readline()

    _stop(server, limits=(0.0, 0.0))

    server.stdout.close()
    assert server.returncode == -signal.SIGKILL
