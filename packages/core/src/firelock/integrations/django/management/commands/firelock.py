"""`python manage.py firelock …`: the command line `firelock`, with the project's app."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import REMAINDER
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from django.core.management.base import BaseCommand, CommandError, CommandParser

from firelock.app import Firelock
from firelock.cli import main
from firelock.integrations.django.project import PLACE, get_app, project_block

_DJANGOS_OWN = ("--settings", "--pythonpath")  # Django has already processed these options


class FirelockCommand(BaseCommand):  # type: ignore[misc]  # Django has no types
    """Every command of `firelock`: `server`, `jobs list`, `doctor`, `migrate`, `dashboard` and the others."""

    help = "Run and manage jobs: the firelock command line for this project."
    requires_system_checks: Sequence[str] = ()  # warnings of checks must not stop a server

    def add_arguments(self, parser: CommandParser) -> None:
        """Accept all remaining arguments and pass them to firelock."""
        parser.add_argument("words", nargs=REMAINDER, help="firelock command: server, jobs list, doctor, …")

    def run_from_argv(self, argv: list[str]) -> None:
        """Run firelock with all arguments, including `--help`, and exit with its exit code."""
        _be_found_by_children(argv)
        sys.exit(run(argv[2:]))

    def print_help(self, _program: str, _subcommand: str) -> None:
        """Show firelock's help for `manage.py help firelock`."""
        main(["--help"], program=_command_line(), has_app=True)

    def execute(self, *_: object, words: Sequence[str], **__: object) -> None:
        """Run a command from code: `call_command("firelock", "jobs", "list")`.

        Raises:
            CommandError: If the command failed. The command has printed the reason, and `returncode` is its
                exit code.
        """
        with _kept_open(get_app()):
            code = run(words)
        if code:
            raise CommandError(f"firelock {' '.join(words)} failed.", returncode=code)


Command = FirelockCommand  # the name that Django looks up


def run(words: Sequence[str]) -> int:
    """Run a command of firelock with the project's app; return the exit code."""
    given = _without_djangos_own(words)
    if given[:1] == ["server"] and not any(word.split("=")[0] == "--queues" for word in given):
        queues = project_block()[0].queues
        given += ["--queues", queues] if queues else []
    words = ["--app", f"{PLACE}:fire", *given] if given else ["--help"]
    return main(words, program=_command_line(), has_app=True)


def _command_line() -> str:
    """Return the command line of this command as it was called; if code called it, the one of manage.py."""
    called = Path(sys.argv[0])
    if sys.argv[1:2] != ["firelock"] or called.suffix == ".pyc":
        return "python manage.py firelock"
    if called.name == "__main__.py":
        return "python -m django firelock"
    if called.suffix == ".py":
        return f"python {shlex.quote(sys.argv[0])} firelock"
    return f"{called.name} firelock"


@contextmanager
def _kept_open(app: Firelock) -> Iterator[None]:
    """Prevent commands from closing the app within the block, because this process continues to use it."""
    app.close = lambda: None  # type: ignore[method-assign]  # only on this app, and only in the block
    try:
        yield
    finally:
        del app.close


def _without_djangos_own(words: Sequence[str]) -> list[str]:
    left, rest = [], iter(words)
    for word in rest:
        if word in _DJANGOS_OWN:
            next(rest, None)
        elif not word.startswith(tuple(f"{name}=" for name in _DJANGOS_OWN)):
            left.append(word)
    return left


def _be_found_by_children(argv: Sequence[str]) -> None:
    """Set PYTHONPATH so that a server's processes can import the modules next to `manage.py`.

    The path of `--pythonpath` is included: Django has inserted it at the beginning of `sys.path`.
    """
    is_more = any(word.split("=")[0] == "--pythonpath" for word in argv)
    own = [os.path.abspath(each) for each in sys.path[: 1 + is_more] if each]  # noqa: PTH100 - keeps links
    paths = list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    os.environ["PYTHONPATH"] = os.pathsep.join([*(each for each in own if each not in paths), *paths])
