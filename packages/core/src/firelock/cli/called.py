"""Commands in messages, written in the form in which the user called the current command."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import attrs

_COMMANDS = (
    "server", "dev", "demo", "enqueue", "jobs", "batches", "recurring", "queues", "limits", "top", "servers",
    "health", "migrate", "doctor", "plugins", "completion", "dashboard", "version",
)  # fmt: skip
# Do not match after "manage.py ", "flask ", "-m " or a path, because such a string already names its program.
_ADVISED = re.compile(
    r"(?<![\w./-])(?<!manage\.py )(?<!flask )(?<!-m )firelock"
    rf"(?= (?:--help|{'|'.join(_COMMANDS)})\b)"
)
_APP = re.compile(r" \b(?:your_)?app:fire\b")


@attrs.define
class Called:
    """The form in which this command line was called."""

    program: str  # for example "firelock" or "python manage.py firelock"
    # returns the app's name; "" if commands need no app argument
    find_app: Callable[[], str | None] = lambda: None


_called: ContextVar[Called | None] = ContextVar("firelock_called", default=None)


@contextmanager
def called_as(program: str | None) -> Iterator[Called]:
    """Within the block, write commands in messages with this program name (default: as in the shell)."""
    token = _called.set(called := Called(program or program_of_shell()))
    try:
        yield called
    finally:
        _called.reset(token)


def as_called(text: str) -> str:
    """Return the text with its commands in the form in which the user can call them.

    Messages contain `firelock` and, if a command needs an app, `app:fire`; both are replaced.
    """
    if not _ADVISED.search(text):
        return text
    called = _called.get() or Called(program_of_shell())
    app = called.find_app()
    named = text if app is None else _APP.sub(f" {app}" if app else "", text)
    return _ADVISED.sub(lambda _: called.program, named)


def called_program() -> tuple[str, str]:
    """Return the current program's name, and "yes" if it finds the app itself, otherwise "no".

    Child processes receive both values as arguments.
    """
    called = _called.get() or Called(program_of_shell())
    return called.program, "yes" if called.find_app() == "" else "no"


def program_of_shell() -> str:
    """Return a command with which the calling shell can run `firelock`, even if it is not on the path."""
    called, found = Path(sys.argv[0]), shutil.which("firelock")
    if called.name == "__main__.py":
        return "firelock" if found else f"{shlex.quote(sys.executable)} -m firelock"
    if called.name != "firelock" or (found and Path(found).samefile(called)):
        return "firelock"
    return shlex.quote(sys.argv[0])
