"""`firelock demo`: a server and a client at work on a file of their own, for ten seconds."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from firelock.cli.commands import add_command
from firelock.cli.problem import Exit, Problem
from firelock.cli.screen import Cell, Screen

if TYPE_CHECKING:
    from firelock.app import Firelock
    from firelock.cli.commands import Commands
    from firelock.cli.demo_story import Story
    from firelock.cli.demo_view import View
    from firelock.values import JobRecord

__all__ = ["add"]

_APP = "firelock.cli.demo_app:fire"
_SHORTEST, _LONGEST = 3.0, 600.0
_LOOK_EVERY = 0.15
_START_LIMIT, _LATE_LIMIT = 30.0, 30.0
_STOP_LIMITS = (3.0, 15.0)
# Short waits, so that ten seconds show what a day shows elsewhere.
_ENVIRONMENT = {"FIRELOCK_POLL": "0.2", "FIRELOCK_SWEEP": "1", "FIRELOCK_GRACE": "2"}


def add(commands: Commands) -> None:
    """The command exists."""
    parser = add_command(
        commands, "demo", "See it at work: all kinds of jobs, in ten seconds.", _demonstrate,
        more=(
            "A server process runs the jobs of a small shop, this process enqueues them and looks on.\n"
            "They live in an SQLite file of their own, removed at the end unless --keep is given."
        ),
        examples=(
            "firelock demo",
            "firelock demo --seconds 30 --keep",
        ),
    )  # fmt: skip
    parser.add_argument("--seconds", type=_seconds, default=8.0, metavar="N", help="how long: 8; 3 to 600")
    parser.add_argument(
        "--keep", action="store_true", help="keep the file, to look at it with other commands"
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _SHORTEST <= seconds <= _LONGEST:
        message = f"{text!r} is no number of seconds from {_SHORTEST:g} to {_LONGEST:g}"
        raise argparse.ArgumentTypeError(message)
    return seconds


# ---- the play --------------------------------------------------------------------------------------------


def _demonstrate(options: argparse.Namespace, screen: Screen) -> int:
    _require_sqlite()
    with _stage(is_kept=options.keep) as folder:
        url = f"sqlite:///{folder / 'demo.db'}"
        if not screen.is_json:
            _introduce(screen, folder)
        with _server(url, folder / "server.log") as server:
            story = _play(url, options.seconds, screen, server)
        if screen.is_json:
            screen.json(_answer(story, folder, is_kept=options.keep))
        else:
            _conclude(screen, story, url, is_kept=options.keep)
    return Exit.DONE


def _require_sqlite() -> None:
    from firelock.errors import UnknownScheme  # noqa: PLC0415 - loaded with an app only
    from firelock.plugins import open_storage  # noqa: PLC0415

    try:
        open_storage("sqlite:///demo.db").close()
    except UnknownScheme as error:
        message = (
            'The demo keeps its jobs in an SQLite file; pip install "firelock[sql]" brings that storage.'
        )
        raise Problem(message, code=Exit.USAGE) from error


def _introduce(screen: Screen, folder: Path) -> None:
    screen.line(Cell("Firelock demo", "bold"), "  a shop's jobs, run by a server process beside this one")
    screen.line(Cell(f"storage  {folder / 'demo.db'}", "bright_black"))
    screen.flush()


def _play(url: str, seconds: float, screen: Screen, server: subprocess.Popen[bytes]) -> Story:
    """Everything was enqueued, and followed until it ended."""
    from firelock.cli.demo_story import Story  # noqa: PLC0415 - loaded for the demo only
    from firelock.cli.demo_view import view_for  # noqa: PLC0415

    with _app(url) as app:
        _await_server(app, server)
        if not screen.is_json:
            said = "server   demo-server, 4 workers, queues critical, mail, default, images"
            screen.line(Cell(said, "bright_black"))
            screen.line()
        story = Story(app, seconds)
        story.begin()
        _follow(story, view_for(screen), server)
    if server.poll() is not None:
        raise _died(server)
    return story


def _follow(story: Story, view: View, server: subprocess.Popen[bytes]) -> None:
    """What happened was shown, until all has ended, the time was over or the server had died."""
    deadline = time.monotonic() + story.length + _LATE_LIMIT
    with view.open():
        while not story.is_told and time.monotonic() < deadline and server.poll() is None:
            if story.is_time_over:
                story.end_recurring()
            view.show(story.look())
            time.sleep(_LOOK_EVERY)
        view.show(story.look(is_last=True))


def _app(url: str) -> Firelock:
    from firelock.cli.demo_app import fire  # noqa: PLC0415 - it makes an app when it is imported

    fire.use_storage(url)
    return fire


def _await_server(app: Firelock, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_LIMIT
    while not any(session.is_alive for session in app.storage.list_sessions()):
        if server.poll() is not None or time.monotonic() > deadline:
            raise _died(server)
        time.sleep(_LOOK_EVERY / 3)


def _died(server: subprocess.Popen[bytes]) -> Problem:
    state = "has not started" if server.poll() is None else f"ended with exit code {server.returncode}"
    return Problem(f"The demo's server {state}.", hint="Its log is in server.log; --keep keeps it.")


# ---- the stage -------------------------------------------------------------------------------------------


@contextmanager
def _stage(*, is_kept: bool) -> Iterator[Path]:
    """The block has a folder of its own, gone afterwards unless it is kept; SIGTERM cleans up as well."""
    folder = Path(tempfile.mkdtemp(prefix="firelock-demo-"))
    former = signal.signal(signal.SIGTERM, _leave)
    try:
        yield folder
    finally:
        signal.signal(signal.SIGTERM, former)
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)


def _leave(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


@contextmanager
def _server(url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real `firelock server` runs within the block."""
    with log.open("wb") as written:
        server = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "firelock", "server", _APP, "--name", "demo-server",
             "--workers", "4", "--queues", "critical,mail,default,images"],
            env={**os.environ, **_ENVIRONMENT, "FIRELOCK_STORAGE": url},
            stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield server
        finally:
            _stop(server)


def _stop(server: subprocess.Popen[bytes], limits: Sequence[float] = _STOP_LIMITS) -> None:
    """The server has ended: in order, hurried after a while, killed where that is not enough."""
    for limit in limits:
        if server.poll() is None:
            server.terminate()
        try:
            server.wait(limit)
        except subprocess.TimeoutExpired:
            continue
        return
    server.kill()
    server.wait()


# ---- afterwards ------------------------------------------------------------------------------------------


def _failed(story: Story) -> list[JobRecord]:
    return [record for record in story.records.values() if record.state == "failed"]


def _conclude(screen: Screen, story: Story, url: str, *, is_kept: bool) -> None:
    from firelock.cli.demo_view import show_summary  # noqa: PLC0415 - loaded for the demo only

    show_summary(screen, story)
    for record in _failed(story):
        error = f"{record.error.type}: {record.error.message}" if record.error else record.reason or ""
        screen.line()
        screen.line(Cell("Failed for good", "bold"), "  ", record.task, "  ", Cell(error, "red"))
        screen.line(f"  firelock jobs show {record.id}")
        screen.line(f"  firelock jobs requeue {record.id}")
    if is_kept:
        screen.line(Cell("  The file stays; these commands find it after", "bright_black"))
        screen.line(f"  export FIRELOCK_STORAGE={url}")
        screen.line(Cell("  and what is requeued is run by", "bright_black"))
        screen.line(f"  firelock server {_APP}")
    else:
        said = "  The file is gone now; firelock demo --keep leaves it for these commands."
        screen.line(Cell(said, "bright_black"))
    screen.line()
    screen.line(Cell("Next", "bold"))
    screen.facts([
        ("firelock doctor", "find what is wrong, and how to mend it"),
        ("firelock server app:fire", "run the jobs of your own app"),
        ("firelock --help", "everything else"),
    ], indent=2)  # fmt: skip


def _answer(story: Story, folder: Path, *, is_kept: bool) -> dict[str, object]:
    from firelock.cli.answers import job_answer  # noqa: PLC0415 - loaded for the demo only

    return {
        "file": str(folder / "demo.db") if is_kept else None,
        "acts": [
            {"kind": act.kind, "task": act.task, "jobs": [record.id for record in story.jobs_of(act)]}
            for act in story.acts
        ],
        "jobs": [job_answer(record) for record in story.records.values()],
    }
