"""`firelock dashboard` where no plugin offers one: says so, and what shows jobs meanwhile."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from firelock.cli.commands import add_command
from firelock.cli.problem import Exit, Problem

if TYPE_CHECKING:
    from firelock.cli.commands import Commands
    from firelock.cli.screen import Screen

__all__ = ["add"]


def add(commands: Commands) -> None:
    """The command exists; a plugin that offers one of this name takes its place."""
    parser = add_command(
        commands, "dashboard", "Look at jobs in a browser, by a plugin that offers it.", _missing
    )
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _missing(_: argparse.Namespace, __: Screen) -> NoReturn:
    hint = "firelock jobs list and firelock doctor show what is there."
    raise Problem("No installed plugin offers a dashboard.", hint=hint, code=Exit.USAGE)
