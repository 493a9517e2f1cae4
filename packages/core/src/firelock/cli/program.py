"""`firelock`: finds a command, runs it, and converts its errors to messages and exit codes."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from firelock.cli.called import Called, as_called, called_as
from firelock.cli.commands import Exit, Parser, Problem, add_command, add_common
from firelock.cli.screen import Screen, discard_output, visible, visible_lines
from firelock.cli.source import app_spec, open_app

if TYPE_CHECKING:
    from firelock.cli.commands import Commands
    from firelock.plugins.hookspecs import Command

# The summary of each command, and the function that declares it. Its module is loaded only for this command.
_OWN = {
    "server": ("Run jobs until stopped.", "servers.configure_server"),
    "dev": ("Run a server and a dashboard, and reload both after each change.", "dev.configure"),
    "demo": ("Run all kinds of jobs for a few seconds, as a demonstration.", "demo.configure"),
    "enqueue": ("Create a job of a task.", "enqueue.configure"),
    "jobs": ("List, show, requeue, delete and restore jobs.", "jobs.configure"),
    "batches": ("List, show, cancel and requeue batches.", "batches.configure"),
    "recurring": ("List, trigger, pause and resume recurring jobs.", "recurring.configure"),
    "queues": ("List, pause and resume queues.", "queues.configure"),
    "limits": ("List, set, pause and resume limits.", "limits.configure"),
    "top": ("Show queues, servers, running jobs and failures live.", "top.configure"),
    "servers": ("List servers and end worker processes.", "servers.configure"),
    "health": ("Check the health of a running server.", "health.configure"),
    "migrate": ("Update the storage's schema.", "migrate.configure"),
    "doctor": ("Find problems and show how to fix them.", "doctor.configure"),
    "plugins": ("List the loaded plugins.", "about.configure_plugins"),
    "completion": ("Print a completion script for a shell.", "completion.configure"),
    "version": ("Show installed versions.", "about.configure_version"),
}
_DASHBOARD = {"dashboard": ("Show jobs in a browser; needs a plugin.", "about.configure_dashboard")}
_WITH_VALUE = {"--storage", "--app"}
_EPILOG = """\
examples:
  firelock demo                              run a demonstration
  firelock server shop.jobs:fire             run jobs
  firelock jobs list --state failed          list failed jobs
  firelock jobs requeue --all --state failed
  firelock doctor                            find problems and how to fix them

The storage comes from --storage, --app, FIRELOCK_STORAGE or [tool.firelock] in pyproject.toml, in this
order. Exit codes: 0 done, 1 failed, 2 usage error, 3 storage unreachable, 4 not found.
"""


def main(arguments: Sequence[str] | None = None, *, program: str | None = None, has_app: bool = False) -> int:
    """Run one command; return its exit code.

    Args:
        arguments: the words after the program's name; by default those of this process.
        program: the program's name in messages, for example "python manage.py firelock"; by default the one
            that the shell used.
        has_app: whether the program finds the app itself, so that messages do not have to name it.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    _prepare("stdout")
    _prepare("stderr")
    try:
        with called_as(program) as called:
            code = _finish(given, called, has_app=has_app)
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    except BrokenPipeError:  # the reader has closed the pipe, which is not an error
        code = Exit.DONE
    flushed = _flush()
    return int(code or flushed)


def _finish(given: Sequence[str], called: Called, *, has_app: bool) -> int:
    """Run the command, report an error if there is one, and return the exit code."""
    try:
        options = read_command(given or ["--help"])
        options.open_app, options.as_called = lambda: open_app(options), as_called
        called.find_app = lambda: "" if has_app else _named_app(options)
        return options.run(options, Screen(is_json=options.is_json)) or Exit.DONE
    except SystemExit as stop:  # argparse has printed a help text, or the command has exited
        if stop.code is None:
            return Exit.DONE
        if isinstance(stop.code, int):
            return stop.code
        raise  # the exit code is a string, which Python prints
    except Exception as error:
        problem = _problem_of(error)
        if problem is None:
            raise
        _report(problem)
        return problem.code


def _named_app(options: argparse.Namespace) -> str | None:
    """Return the app in the form given to this command; "" if pyproject.toml or the environment names it."""
    if options.app:
        return str(options.app)
    try:
        return None if app_spec(options) is None else ""
    except Problem:  # pyproject.toml cannot be read; the command itself reports this
        return None


def read_command(given: Sequence[str]) -> argparse.Namespace:
    """Parse a command line and return its options; their attribute `run` is the command's function.

    Raises:
        Problem: If the command does not exist, or does not accept these words.
        SystemExit: If the words request help, after the help was printed.
    """
    name = _command_name(given)
    offered = _offered_to_list() if name is None else _offered() if name not in _OWN else {}
    own = _OWN if "dashboard" in offered else {**_OWN, **_DASHBOARD}
    if name is not None and name not in {**own, **offered}:
        raise _unknown(name, sorted({**own, **offered}))
    return _parser(own, offered, configured={name}).parse_args(given)


def whole_parser() -> Parser:
    """Return the parser of all commands, including those of plugins, each with all its options.

    Raises:
        PluginError: If a plugin cannot be loaded, or its command has a name that is already in use.
    """
    offered = _offered()
    own = _OWN if "dashboard" in offered else {**_OWN, **_DASHBOARD}
    return _parser(own, offered, configured=own)


def _parser(
    own: Mapping[str, tuple[str, str]], offered: Mapping[str, Command], *, configured: Container[str | None]
) -> Parser:
    """Return a parser for all commands; load only the modules of Firelock's commands with these names."""
    parser = Parser(
        prog="firelock", description="Run, inspect and repair persistent background jobs.", epilog=_EPILOG
    )
    add_common(parser, is_main=True)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    for command, (summary, place) in own.items():
        added = add_command(commands, command, summary)
        if command in configured:
            module, _, configure = place.partition(".")
            getattr(importlib.import_module(f"firelock.cli.{module}"), configure)(added)
    for another in offered.values():
        _add_offered(commands, another)
    return parser


def _command_name(given: Sequence[str]) -> str | None:
    """Return the first word that is neither an option nor an option's value; None if there is none."""
    words = iter(given)
    for word in words:
        if word in _WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


def _unknown(name: str, known: Sequence[str]) -> Problem:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return Problem(
        f"firelock has no command {name!r}.", hint=f"{hint}Run firelock --help to list the commands."
    )


# ---- commands of plugins ---------------------------------------------------------------------------------


def _offered() -> dict[str, Command]:
    """Return the plugins' commands by name.

    Raises:
        PluginError: If a plugin cannot be loaded, or its command has a name that is already in use.
    """
    from firelock.plugins.loader import Plugins  # noqa: PLC0415 - own commands need no plugin

    return {command.name: command for command in Plugins().commands(_OWN)}


def _offered_to_list() -> dict[str, Command]:
    """Return the commands of all working plugins, for the help; report each broken plugin."""
    from firelock.plugins.loader import load_working  # noqa: PLC0415 - own commands need no plugin

    plugins, broken = load_working(_OWN)
    for each in broken:
        _report(Problem(each.problem))
    return {command.name: command for command in plugins.commands(_OWN)}


def _add_offered(commands: Commands, command: Command) -> None:
    parser = commands.add_parser(
        command.name,
        help=command.help.replace("%", "%%"),
        description=command.help,
        conflict_handler="resolve",
    )
    add_common(parser)
    command.configure(parser)  # a plugin's --app or --json replaces the common one
    parser.set_defaults(run=lambda options, _: command.run(options))


# ---- streams and problems --------------------------------------------------------------------------------


def _prepare(name: str) -> None:
    """Make the stream accept every character; if it was closed at the start, discard all output to it."""
    stream = getattr(sys, name)
    if stream is None:
        stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
        setattr(sys, name, stream)
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def _flush() -> Exit:
    """Flush standard output, and return the exit code; discard the output if it cannot be written.

    This is an error unless the reader of the output has closed the pipe.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
    except OSError as error:
        discard_output()
        _report(Problem(f"Cannot write to standard output: {error.strerror}."))
        return Exit.FAILED
    return Exit.DONE


def _problem_of(error: Exception) -> Problem | None:
    """Return the problem to report for a Firelock error; None for any other error."""
    from firelock import errors  # noqa: PLC0415 - only needed after an error

    match error:
        case Problem():
            return error
        case errors.StorageUnavailable():
            hint = "Check that it runs and that its address is right; firelock doctor finds the cause."
            return Problem(str(error), hint=hint, code=Exit.UNREACHABLE)
        case errors.JobNotFound():
            return Problem(str(error), code=Exit.NOT_FOUND)
        case (
            errors.ArgumentError() | errors.ConfigurationError() | errors.ScheduleError() | errors.TaskError()
        ):
            return Problem(str(error))
        case errors.FirelockError():
            return Problem(str(error), code=Exit.FAILED)
        case _:
            return None


def _report(problem: Problem) -> None:
    first, *rest = visible_lines(as_called(problem.sentence))
    prefix = "" if problem.sentence.startswith("firelock") else "firelock: "
    lines = [f"{prefix}{first}", *rest]
    if problem.hint:
        lines.append(f"  {visible(as_called(problem.hint))}")
    _flush()
    sys.stderr.write("\n".join(lines) + "\n")
