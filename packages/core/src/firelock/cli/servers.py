"""`firelock servers`: who runs jobs on this storage."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from firelock.cli.commands import add_command, add_group
from firelock.cli.screen import Cell, Column, Piece, Screen
from firelock.cli.source import connected
from firelock.cli.text import age

if TYPE_CHECKING:
    from firelock.control.servers import ServerView

__all__ = ["configure"]

_COLUMNS = (
    Column("SERVER", is_whole=True),
    Column("STATE", is_whole=True),
    Column("HOST"),
    Column("QUEUES"),
    Column("WORKERS", is_number=True),
    Column("BUSY", is_number=True),
    Column("CHILDREN", is_number=True),
    Column("STARTED", is_whole=True),
)
_STYLES = {"running": "green", "ended": "bright_black", "silent": "bold red", "lost": "bold red"}


def configure(parser: argparse.ArgumentParser) -> None:
    """The parser has the group's commands."""
    group = add_group(parser)
    add_command(group, "list", "List the servers; those that ended or were lost stay for a day.", _list)


def _list(options: argparse.Namespace, screen: Screen) -> int:
    from firelock.cli.answers import server_answer  # noqa: PLC0415 - loaded with an app only

    with connected(options) as app:
        now = app.client.clock.now()
        servers = app.servers.list()
    if screen.is_json:
        screen.json({"servers": [server_answer(server, now) for server in servers]})
    elif not servers:
        screen.note("No server has been here within a day; start one: firelock server app:fire")
    else:
        screen.table(_COLUMNS, [_row(server, now) for server in servers])
    return 0


def _row(server: ServerView, now: int) -> list[Piece]:
    state = _state(server, now)
    alive = [record for record in server.sessions if record.is_alive]
    workers = max((record.session.workers for record in alive), default=0)
    return [
        server.name,
        Cell(state, _STYLES.get(state, "yellow")),
        server.host,
        server.queues,
        workers,
        server.busy,
        len(alive),
        age(min(record.session.started_at for record in server.sessions), now),
    ]


def _state(server: ServerView, now: int) -> str:
    """Return what the server says of itself; silent where its sessions ran out and nobody ended them.

    Lost where they were taken back and it had not said that it stops, ended where it had.
    """
    alive = [record for record in server.sessions if record.is_alive]
    if not alive:
        return "lost" if server.is_lost else "ended"
    current = [record for record in alive if record.expires_at > now]
    return current[0].renewal.state if current else "silent"
