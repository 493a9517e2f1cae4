"""`firelock migrate`: the schema is the one this code needs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from firelock.cli.commands import add_command
from firelock.cli.problem import Exit
from firelock.cli.screen import Cell, Screen
from firelock.cli.source import open_app

if TYPE_CHECKING:
    from firelock.cli.commands import Commands

__all__ = ["add"]


def add(commands: Commands) -> None:
    """The command exists."""
    parser = add_command(
        commands, "migrate", "Bring the storage's schema up to date.", _migrate,
        more="Stop the servers first: a server of another version does not work on a new schema.",
        examples=("firelock migrate status --storage sqlite:///jobs.db", "firelock migrate"),
    )  # fmt: skip
    parser.add_argument(
        "action", choices=("up", "status"), nargs="?", default="up", help="up (default) or status"
    )


def _migrate(options: argparse.Namespace, screen: Screen) -> int:
    app = open_app(options)
    try:
        steps = app.storage.migrate() if options.action == "up" else []
        schema = app.storage.schema()
    finally:
        app.close()
    is_current = schema.found == schema.wanted
    if screen.is_json:
        screen.json(
            {"steps": steps, "found": schema.found, "wanted": schema.wanted, "is_current": is_current}
        )
        return Exit.DONE if is_current else Exit.FAILED
    for step in steps:
        screen.line(Cell("done", "green"), "  ", step)
    if is_current:
        screen.line(f"The schema is at version {schema.found}, as this Firelock needs it.")
        return Exit.DONE
    have = f"has schema {schema.found}" if schema.found else "has no schema yet"
    screen.line(Cell(f"The storage {have}, this Firelock needs {schema.wanted}.", "yellow"))
    screen.note("firelock migrate makes it." if schema.found < schema.wanted else "Upgrade Firelock here.")
    return Exit.FAILED
