"""`firelock migrate`: updates the storage's schema to the version that this release needs."""

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
    """A storage whose schema can be migrated by running SQL statements."""

    def migration_sql(self) -> list[str]:
        """Return the statements that `migrate` would run; an empty list if the schema is up to date."""
        ...


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to the parser."""
    describe(
        parser, _migrate,
        more="Servers of this release and the previous one can run during the migration. `sql` prints the "
        "statements, for environments in which Firelock must not change the schema.",
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
        help="up (default), status, or sql to print the statements",
    )


def _print_sql(app: Firelock, screen: Screen) -> int:
    storage = app.storage
    try:
        if not isinstance(storage, SqlSchema):
            raise UnsupportedFeature(
                f"Storage {storage.url} does not use SQL; run firelock migrate to update it."
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
        migrations = app.storage.migrate() if options.action == "up" else []
        schema = app.storage.schema()
    finally:
        app.close()
    is_current = schema.found == schema.wanted
    if screen.is_json:
        screen.json(
            {
                "migrations": migrations,
                "found": schema.found,
                "wanted": schema.wanted,
                "is_current": is_current,
            }
        )
        return Exit.DONE if is_current else Exit.FAILED
    for migration in migrations:
        screen.line(Cell("done", "green"), "  ", migration)
    if is_current:
        screen.line(f"The schema is up to date (version {schema.found}).")
        return Exit.DONE
    have = f"has schema {schema.found}" if schema.found else "has no schema yet"
    screen.line(Cell(f"The storage {have}; this release needs {schema.wanted}.", "yellow"))
    advice = "Run firelock migrate." if schema.found < schema.wanted else "Upgrade Firelock here."
    screen.note(as_called(advice))
    return Exit.FAILED
