"""Parts that all commands share: a parser with help, common options, exit codes and errors."""

from __future__ import annotations

import argparse
import getpass
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn

from firelock.cli.called import as_called, called_program

if TYPE_CHECKING:
    from firelock.app import Firelock
    from firelock.arguments.serializer import JsonValue
    from firelock.cli.screen import Screen

ORIGIN = "cli"  # origin of changes in the audit
_DIGITS = 10
_PAGE_LIMIT = 500


class Exit(IntEnum):
    """The exit codes, on which scripts rely."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    INTERRUPTED = 130


class Problem(Exception):
    """An error that ends a command with a sentence, a hint and an exit code."""

    def __init__(self, sentence: str, *, hint: str = "", code: Exit = Exit.USAGE) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint
        self.code = code


class Parser(argparse.ArgumentParser):
    """A parser whose errors consist of a sentence and a hint."""

    def __init__(self, *, prog: str | None = None, **settings: object) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(prog=prog, allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def format_help(self) -> str:
        """Return the help, with commands in the form in which the user can call them."""
        return _as_called(super().format_help())

    def format_usage(self) -> str:
        """Return the usage line, with commands in the form in which the user can call them."""
        return _as_called(super().format_usage())

    def error(self, message: str) -> NoReturn:
        """Raise a `Problem` for the arguments."""
        message = message.replace("the following arguments are required: COMMAND", "a command is missing")
        raise Problem(f"{self.prog}: {message}.", hint=f"Run {self.prog} --help for its usage.")


def _as_called(text: str) -> str:
    usage = "usage: firelock "
    text = as_called(text)
    return f"usage: {called_program()[0]} {text.removeprefix(usage)}" if text.startswith(usage) else text


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Parser]  # noqa: SLF001 - argparse has no public name for it
    Run = Callable[[argparse.Namespace, Screen], int | None]  # a result of None means Exit.DONE


def add_common(parser: argparse.ArgumentParser, *, is_main: bool = False) -> None:
    """Add the options that every command has; an option after the command's name overrides one before it."""
    missing = None if is_main else argparse.SUPPRESS
    group = parser.add_argument_group("common options")
    group.add_argument(
        "--storage", metavar="URL", default=missing, help="storage, for example sqlite:///jobs.db"
    )
    group.add_argument(
        "--app", metavar="MODULE:NAME", default=missing, help="app, for example shop.jobs:fire"
    )
    group.add_argument(
        "--json", action="store_true", default=missing or False, dest="is_json", help="print JSON"
    )


def describe(
    parser: argparse.ArgumentParser, run: Run, *, more: str = "", examples: Sequence[str] = ()
) -> None:
    """Set the function that runs the parser's command, and extend its help."""
    parser.set_defaults(run=run)
    if more:
        parser.description = f"{parser.description}\n\n{more}"
    if examples:
        parser.epilog = "\n".join(["examples:", *(f"  {example}" for example in examples)])


def add_command(
    commands: Commands, name: str, summary: str, run: Run | None = None, *,
    more: str = "", examples: Sequence[str] = (),
) -> argparse.ArgumentParser:  # fmt: skip
    """Add a command and return its parser, to which arguments can be added."""
    parser = commands.add_parser(name, help=summary, description=summary)
    add_common(parser)
    if run is not None:
        describe(parser, run, more=more, examples=examples)
    return parser


def add_group(parser: argparse.ArgumentParser) -> Commands:
    """Make the parser's command a group and return the object to which its commands can be added."""
    return parser.add_subparsers(
        metavar="COMMAND", required=True, title="commands", parser_class=Parser
    )  # fmt: skip


def whole(most: int = 1_000_000) -> Callable[[str], int]:
    """Return a `type=` function that accepts integers from 1 to `most`."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < _DIGITS and 1 <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"must be an integer from 1 to {most:,}, got {text!r}")
        return int(text)

    return read


def seconds_between(least: float, most: float) -> Callable[[str], float]:
    """Return a `type=` function that accepts a number of seconds from `least` to `most`."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(
                f"must be a number of seconds from {least:g} to {most:g}, got {text!r}"
            )
        return number

    return read


def record_change(app: Firelock, action: str, target: str, **detail: JsonValue) -> None:
    """Record a command's change in the audit, under the name of the user who ran the command."""
    known = {name: value for name, value in detail.items() if value is not None}
    app.audit.record(action, target, by=user_name(), origin=ORIGIN, detail=known or None)


def add_paging(parser: argparse.ArgumentParser) -> None:
    """Add the options `--limit` and `--cursor` to a command that lists jobs or batches."""
    parser.add_argument(
        "--limit",
        type=whole(_PAGE_LIMIT),
        default=50,
        metavar="N",
        help=f"page size (default: 50, maximum: {_PAGE_LIMIT})",
    )
    parser.add_argument("--cursor", metavar="TEXT", help="cursor of the next page, from the previous output")


def add_reason(parser: argparse.ArgumentParser) -> None:
    """Add the option `--reason` to a command that changes something."""
    parser.add_argument("--reason", metavar="TEXT", help="reason, for the jobs' histories and the audit")


def reason_of(options: argparse.Namespace, done: str) -> str:
    """Return the reason that is added to the jobs' histories."""
    return str(options.reason or f"{done} from the command line")


def user_name() -> str:
    """Return the name of the user who runs the command, for the audit."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # the user id does not belong to a named user
        return "command line"
