"""`firelock jobs failures`: the failed jobs, grouped by cause."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from firelock.cli.called import as_called
from firelock.cli.commands import add_command, whole
from firelock.cli.json_output import json_value
from firelock.cli.screen import Cell, Column, Piece, Screen
from firelock.cli.source import connected
from firelock.model.text import age, shorten

if TYPE_CHECKING:
    from collections.abc import Collection

    from firelock.cli.commands import Commands
    from firelock.storage import FailureGroup

_COLUMNS = (
    Column("JOBS", is_number=True),
    Column("NEWEST", is_whole=True),
    Column("FINGERPRINT", is_whole=True),
    Column("TASK"),
    Column("ERROR"),
    Column("NOTE"),
)
_MOST = 500  # maximum number of causes
_GROUPED = 10_000  # number of the newest failed jobs that a storage groups
_ERROR_LIMIT = 200


def add_failures_command(group: Commands) -> None:
    """Add the command to the group."""
    parser = add_command(
        group, "failures", "Group failed jobs by cause, the most frequent cause first.", _failures,
        more="Jobs have the same cause and fingerprint if the same function raised errors of the same type\n"
        "with the same message, apart from numbers and quoted strings. The newest 10,000 failed jobs are\n"
        "grouped. The task and the message are those of the newest job of a cause. Jobs that wait for a\n"
        "retry are not failed, and batches have no cause.",
        examples=(
            "firelock jobs failures",
            "firelock jobs failures --task shop.send_mail --json",
            "firelock jobs list --state failed --fingerprint 4f1d2a9c8b7e6053",
            "firelock jobs requeue --all --fingerprint 4f1d2a9c8b7e6053",
        ),
    )  # fmt: skip
    parser.add_argument("--task", metavar="NAME", help="only causes whose newest failed job is of this task")
    parser.add_argument(
        "--limit", type=whole(_MOST), default=50, metavar="N",
        help=f"number of causes (default: 50, maximum: {_MOST})",
    )  # fmt: skip


def _failures(options: argparse.Namespace, screen: Screen) -> None:
    from firelock.control.findings import muted_causes  # noqa: PLC0415 - only loaded with an app

    with connected(options) as app:
        now = app.client.clock.now()
        found = app.jobs.failure_groups(options.limit + 1 if options.task is None else _GROUPED)
        muted = frozenset(muted_causes(app.storage, now))
        failed = app.jobs.counts().failed
    causes = [cause for cause in found if options.task in {None, cause.task}]
    shown, is_cut = causes[: options.limit], len(causes) > options.limit
    screen.listing(
        "failures", (_json(cause, muted) for cause in shown), _COLUMNS,
        (_row(cause, muted, now) for cause in shown),
        empty="No failed jobs have a recorded cause." if options.task is None else "No causes match.",
        failed=failed, is_cut=is_cut,
    )  # fmt: skip
    if screen.is_json:
        return
    if is_cut:
        screen.note("There are more causes; use --limit to list more of them.")
    if failed > _GROUPED:
        screen.note(f"Only the newest {_GROUPED:,} of {failed:,} failed jobs are grouped.")
    if shown:
        requeue = as_called("firelock jobs requeue --all --fingerprint FINGERPRINT")
        screen.note(f"To run the jobs of a cause again, use {requeue}.")


def _json(cause: FailureGroup, muted: Collection[str]) -> dict[str, object]:
    value = json_value(cause)
    assert isinstance(value, dict)  # noqa: S101 - an attrs value always is
    return {**value, "is_muted": cause.fingerprint in muted}


def _row(cause: FailureGroup, muted: Collection[str], now: int) -> list[Piece]:
    error = f"{cause.type.removeprefix('builtins.')}: {' '.join(cause.message.split())}"
    return [
        f"{cause.count:,}",
        age(cause.newest_at, now),
        cause.fingerprint,
        cause.task,
        Cell(shorten(error, _ERROR_LIMIT), "red"),
        Cell("muted" if cause.fingerprint in muted else "", "bright_black"),
    ]
