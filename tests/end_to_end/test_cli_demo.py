"""`firelock demo`: it shows every kind of job, in a terminal or a browser, and leaves no files."""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from pathlib import Path
from urllib.error import HTTPError

import attrs
import pytest

from firelock.cli import main
from firelock.cli.called import program_of_shell
from firelock.cli.demo import Happened, LiveView, Moment, stop
from firelock.cli.screen import Screen
from firelock.model.job import JobRecord, Progress
from firelock.model.state import State
from firelock.plugins.loader import open_storage
from firelock.storage import JobFilter
from tests.end_to_end.cli_run import Terminal

DEMO = [sys.executable, "-m", "firelock", "demo"]
DEADLINE = 90.0
STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
)
COLOURS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture
def folder(monkeypatch):
    """A folder for the demo's files, with a path short enough for the sockets next to a database."""
    with tempfile.TemporaryDirectory(prefix="fl-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 120 columns and 30 lines."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "120"), ("LINES", "30")):
        monkeypatch.setenv(name, value)
    return Terminal()


@pytest.fixture
def interruptible():
    """Make new programs react to SIGINT, even if the tests ignore it.

    The tests ignore it, for example, if a shell's `&` started them.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def begun(*words, until="succeeded"):
    """Return a running demo after its first line of output that contains `until`."""
    demo = subprocess.Popen(
        [*DEMO, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in demo.stdout:
        if until in line:
            return demo
    raise AssertionError(demo.communicate())


# ---- the demo --------------------------------------------------------------------------------------------


def test_demo_shows_all_kinds_of_jobs(folder, run):
    """The kinds are fire-and-forget, delayed, recurring and continuation.

    One job recovers and one fails. The file is deleted when the demo ends.
    """
    ran = run("demo --seconds 3")

    assert (ran.code, ran.error) == (0, "")
    rows = {line.partition("  ")[0]: line.split()[-1] for line in ran.out.splitlines() if line}
    for kind in ("fire-and-forget", "bulk, one round trip", "delayed", "continuation", "recurring"):
        assert rows[kind] == "succeeded"
    for kind in (
        "batch, continuation",
        "steps, waits for signal",
        "sends the signal",
        "fails, then recovers",
    ):
        assert rows[kind] == "succeeded"
    assert rows["fails permanently"] == "failed"
    assert "retry 2 of 3: CardDeclined" in ran.out
    assert "report sent to owner@shop.example" in ran.out
    assert list(folder.iterdir()) == []


def test_file_of_a_kept_demo_can_be_opened(folder, run):
    """With --keep, the file is kept, its jobs match the output of --json, and no server continues to run."""
    ran = run("demo --seconds 3 --keep --json")

    answer = ran.json
    storage = open_storage(f"sqlite:///{answer['file']}")
    stored = storage.find(JobFilter(), limit=500).jobs
    alive = [record for record in storage.list_sessions() if record.is_alive]
    storage.close()
    assert {job["id"]: job["state"] for job in answer["jobs"]} == {job.id: str(job.state) for job in stored}
    assert Counter(job.state for job in stored)["failed"] == 1
    assert alive == []
    assert Path(answer["file"]).is_relative_to(folder)


def test_kept_demo_on_a_terminal_prints_its_file(folder, terminal, monkeypatch):
    """The output shows the final states of the jobs and the commands that show them later."""
    monkeypatch.setattr("sys.stdout", terminal)

    code = main(["demo", "--seconds", "3", "--keep"])

    shown = COLOURS.sub("", terminal.getvalue())
    (file,) = re.findall(r"export FIRELOCK_STORAGE=sqlite:///(\S+)", shown)
    assert code == 0
    assert "━" * 58 + "  done" in shown
    assert "firelock server firelock.cli.demo_shop:fire" in shown
    assert re.search(r"firelock jobs requeue \S+", shown)
    assert Path(file).exists()
    assert not Path(f"{file}-wal").exists()  # no program still has the file open


def drawn(terminal, *scenes):
    """Return the lines of the last picture of a live view, without colours."""
    view = LiveView(Screen(out=terminal))
    with view.open():
        for one in scenes:
            terminal.seek(0)
            terminal.truncate()
            view.show(one)
        return COLOURS.sub("", terminal.getvalue()).replace("\r", "").splitlines()


def test_live_view_keeps_its_height_and_escapes_control_characters(terminal):
    """The view has the same number of lines for any number of events.

    Control characters in task names, messages and logs are visible.
    """
    job = JobRecord("job-1", "shop.\x1b[2J", "{}", "json", State.PROCESSING, "default", 0, 0)
    running = [(job, Progress(6.0, 8.0, 0, "\x1b]0;title\x07")), (job, None)] * 5
    events = [Happened(float(number), "log", "shop.task", "\x9b1A\u202e") for number in range(40)]
    quiet = Moment(5.0, 10.0, {State.ENQUEUED: 12}, [], [], is_last=False)
    busy = attrs.evolve(quiet, seconds=12.5, running=running, events=events)

    lines = drawn(terminal, quiet, busy)

    assert len(lines) == len(drawn(terminal, quiet)) < 30
    assert "  12 enqueued   0 processing" in lines[1]
    assert f"   {'━' * 58}  10.0 of 10 s" == lines[3]
    assert "━" * 18 + "─" * 6 in lines[5]
    text = "\n".join(lines)
    assert [] == [character for character in text if not character.isprintable() and character != "\n"]
    for shown in ("\\x1b[2J", "\\x1b]0;title\\x07", "\\x9b1A\\u202e"):
        assert shown in text


@pytest.mark.parametrize(
    ("called", "on_path", "printed"),
    [
        ("firelock", True, ["firelock"]),
        ("firelock", False, ["{folder}/firelock"]),
        ("__main__.py", True, ["firelock"]),
        ("__main__.py", False, ["{folder}/python", "-m", "firelock"]),
        ("pytest", False, ["firelock"]),
    ],
)
def test_printed_commands_are_quoted_for_the_shell(tmp_path, monkeypatch, called, on_path, printed):
    """A command contains the quoted path of the called program, or only its name if it is on PATH."""
    place = tmp_path / "a folder"
    place.mkdir()
    (place / "firelock").write_text("#!/bin/sh\n")
    (place / "firelock").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(place / "python"))
    monkeypatch.setattr("sys.argv", [str(place / called), "demo"])
    monkeypatch.setenv("PATH", str(place) if on_path else str(tmp_path / "nowhere"))

    assert [word.format(folder=place) for word in printed] == shlex.split(program_of_shell())


# ---- in a browser ----------------------------------------------------------------------------------------


def read(terminal):
    """Return the new output on a terminal, or an empty string if no program has it open."""
    try:
        return os.read(terminal, 65_536).decode()
    except OSError:
        return ""


@pytest.mark.usefixtures("interruptible")
def test_demo_with_a_dashboard_runs_until_ctrl_c(folder):
    """On a terminal, the link is printed and no browser is opened. Ctrl-C ends all processes cleanly."""
    ours, its = pty.openpty()
    demo = subprocess.Popen(
        [*DEMO, "--dashboard", "--no-browser"], stdout=its, stderr=its, start_new_session=True
    )
    os.close(its)
    printed = ""
    while "To sign in, open" not in printed:
        more = read(ours)
        assert more, printed
        printed += more
    printed = COLOURS.sub("", printed)
    address = re.search(r"Dashboard at (http://127\.0\.0\.1:\d+/)", printed)[1]
    with pytest.raises(HTTPError) as refused:  # a visitor without a session
        urllib.request.urlopen(address, timeout=30)

    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does
    code = demo.wait(DEADLINE)
    printed = os.read(ours, 65_536).decode()
    os.close(ours)

    assert code == 0
    assert b"Sign in with a link" in refused.value.read()
    assert "The shop is closed; " in printed
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "case",
    [
        (
            "--dashboard",
            "-dashboard",
            'The dashboard is not installed; run pip install "firelock[sql,dashboard]".',
        ),
        ("--dashboard --json", "", "runs until Ctrl-C and shows its output in a browser."),
        ("--port 80", "", "--port and --no-browser require --dashboard."),
        (
            "",
            "-sql",
            'The demo stores its jobs in an SQLite file, which needs pip install "firelock[sql]".',
        ),
    ],
)
def test_missing_package_or_invalid_options_are_reported(folder, run, monkeypatch, case):
    """The error is one sentence that names the package to install, or the options that cannot be combined."""
    words, plugins, message = case
    monkeypatch.setenv("FIRELOCK_PLUGINS", plugins)

    ran = run(f"demo {words}")

    assert (ran.code, ran.out) == (2, "")
    assert message in ran.error.splitlines()[0]
    assert list(folder.iterdir()) == []


def test_demo_runs_on_the_given_storage(folder, run):
    """The demo's jobs stay in this storage.

    A second demo is refused, because its jobs would mix with those of the first.
    """
    url = f"sqlite:///{folder}/own.db"

    ran = run("demo --seconds 3 --json --storage", url)
    again = run("demo --storage", url)

    storage = open_storage(url)
    stored = storage.find(JobFilter(), limit=500).jobs
    storage.close()
    assert (ran.code, ran.json["storage"], ran.json["file"]) == (0, url, None)
    assert {job["id"] for job in ran.json["jobs"]} == {job.id for job in stored}
    assert again.code == 2
    assert "already has jobs." in again.error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--storage memory://demo", "The demo cannot use memory://demo: its server is another process"),
        ("--storage nonsense://x", "No storage for scheme 'nonsense'"),
        ("--app shop:fire", "The demo runs its own app."),
    ],
)
def test_demo_with_an_unusable_storage_is_an_error(folder, run, words, message):
    """The demo does not silently use another storage."""
    ran = run(f"demo {words}")

    assert (ran.code, ran.out) == (2, "")
    assert message in ran.error
    assert list(folder.iterdir()) == []


# ---- errors ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_demo_cleans_up(folder, number, code):
    """Ctrl-C and SIGTERM stop the server, and the file is deleted."""
    demo = begun("--seconds", "60")

    demo.send_signal(number)
    _, error = demo.communicate(timeout=DEADLINE)

    assert (demo.returncode, error) == (code, "")
    assert list(folder.iterdir()) == []


def test_demo_whose_server_does_not_start_is_an_error(folder, monkeypatch, run):
    """The error contains the server's exit code, and no files are left."""
    monkeypatch.setenv("PYTHONHASHSEED", "no number")  # no interpreter starts with this value

    ran = run("demo")

    assert ran.code == 1
    assert ran.error == (
        "firelock: The demo's server ended with exit code 1.\n  Use --keep to keep its log, server.log.\n"
    )
    assert list(folder.iterdir()) == []


def test_demo_ends_if_its_server_dies(folder):
    """If the server is killed, the demo ends with an error instead of showing jobs that never run."""
    demo = begun("--seconds", "60")
    (file,) = folder.glob("*/demo.db")
    storage = open_storage(f"sqlite:///{file}")
    (child,) = [record.session.pid for record in storage.list_sessions()]
    storage.close()
    command = ["ps", "-o", "ppid=", "-p", str(child)]

    os.kill(int(subprocess.check_output(command)), signal.SIGKILL)
    _, error = demo.communicate(timeout=DEADLINE)

    assert demo.returncode == 1
    assert error.startswith("firelock: The demo's server ended with exit code -9.\n")


def test_server_that_does_not_stop_is_killed():
    server = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    server.stdout.readline()

    stop(server, limits=(0.0, 0.0))

    server.stdout.close()
    assert server.returncode == -signal.SIGKILL
