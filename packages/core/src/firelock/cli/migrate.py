"""`firelock migrate`: update the storage's schema to the one that this code needs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from firelock.cli.called import as_called
from firelock.cli.commands import Exit, describe
from firelock.cli.screen import Cell, Screen
from firelock.cli.source import open_app
from firelock.errors import UnsupportedFeature

if TYPE_CHECKING:
    from firelock.app import Firelock


@runtime_checkable
class SqlSchema(Protocol):
    """A storage whose schema others can create with statements; not every storage has such a language."""

    def migration_sql(self) -> list[str]:
        """Return the statements that `migrate` would run; none if the schema is up to date."""
        ...


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to the parser."""
    describe(
        parser, _migrate,
        more="Servers of this release and of the one before may run meanwhile. `sql` prints the statements, "
        "for whoever may change the schema where Firelock may not.",
        examples=(
            "firelock migrate status --storage sqlite:///jobs.db",
            "firelock migrate",
            "firelock migrate sql > migration.sql",
        ),
    )  # fmt: skip
    parser.add_argument(
        "action",
        choices=("up", "status", "sql"),
        nargs="?",
        default="up",
        help="up (default), status, or sql: print the statements",
    )


def _print_sql(app: Firelock, screen: Screen) -> int:
    storage = app.storage
    try:
        if not isinstance(storage, SqlSchema):
            raise UnsupportedFeature(
                f"Storage {storage.url} has no SQL; firelock migrate does what is to be done."
            )
        statements = storage.migration_sql()
    finally:
        app.close()
    if screen.is_json:
        screen.json({"statements": statements})
        return Exit.DONE
    for statement in statements:
        for line in f"{statement};".splitlines():
            screen.line(line.expandtabs(4).rstrip())
    return Exit.DONE


def _migrate(options: argparse.Namespace, screen: Screen) -> int:
    app = open_app(options)
    if options.action == "sql":
        return _print_sql(app, screen)
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
    advice = "Run firelock migrate." if schema.found < schema.wanted else "Upgrade Firelock here."
    screen.note(as_called(advice))
    return Exit.FAILED
