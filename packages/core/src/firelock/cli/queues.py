"""`firelock queues`: lists, pauses and resumes queues."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from firelock.cli.commands import add_command, add_group, record_change, user_name
from firelock.cli.json_output import json_value
from firelock.cli.screen import Cell, Column, Piece, Screen
from firelock.cli.source import connected

if TYPE_CHECKING:
    from firelock.control.queues import QueueView

_COLUMNS = (
    Column("QUEUE", is_whole=True),
    Column("ENQUEUED", is_number=True),
    Column("PROCESSING", is_number=True),
    Column("SCHEDULED", is_number=True),
    Column("STATE", is_whole=True),
    Column("NOTE"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the group's commands to the parser."""
    group = add_group(parser)
    add_command(group, "list", "List the queues with the number of their jobs.", _list)
    pause = add_command(
        group, "pause", "Stop claiming jobs of the queue on all servers; running jobs continue.", _pause,
        examples=('firelock queues pause mail --note "provider is down"',),
    )  # fmt: skip
    pause.add_argument("--note", metavar="TEXT", help="reason, shown with the queue")
    resume = add_command(group, "resume", "Claim jobs of the queue again.", _resume)
    for command in (pause, resume):
        command.add_argument("names", metavar="QUEUE", nargs="+")


def _list(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:
        queues = app.queues.list()
    screen.listing(
        "queues", map(json_value, queues), _COLUMNS, map(_row, queues),
        empty="No queues exist yet; the first job creates one.",
    )  # fmt: skip


def _row(queue: QueueView) -> list[Piece]:
    state = Cell("paused", "yellow") if queue.is_paused else Cell("open", "green")
    note = (queue.note or "") if queue.is_paused else ""
    return [queue.name, queue.enqueued, queue.processing, queue.scheduled, state, note]


def _pause(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:

        def pause(name: str) -> None:
            app.queues.pause(name, note=options.note, by=user_name())
            record_change(app, "queue.pause", name, note=options.note)

        screen.each(options.names, "paused", pause)


def _resume(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:

        def resume(name: str) -> None:
            app.queues.resume(name)
            record_change(app, "queue.resume", name)

        screen.each(options.names, "resumed", resume)
