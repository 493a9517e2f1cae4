"""`firelock jobs`: look at jobs and act on them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from firelock.cli.commands import add_command, add_group, whole
from firelock.cli.filters import add_filters, filter_of
from firelock.cli.job_changes import delete_jobs, requeue_jobs, restore_jobs
from firelock.cli.job_page import show_job
from firelock.cli.screen import Cell, Column, Piece, Screen, state_cell
from firelock.cli.source import connected
from firelock.cli.text import age, shorten

if TYPE_CHECKING:
    from firelock.cli.commands import Commands
    from firelock.values import JobRecord

__all__ = ["configure"]

_STATES = ("enqueued", "processing", "scheduled", "awaiting", "failed", "succeeded", "deleted")
_COLUMNS = (
    Column("ID", is_whole=True),
    Column("STATE", is_whole=True),
    Column("TASK"),
    Column("QUEUE"),
    Column("CHANGED", is_whole=True),
    Column("NOTE"),
)
_NOTE_LIMIT, _PAGE_LIMIT = 200, 500


def configure(parser: argparse.ArgumentParser) -> None:
    """The parser has the group's commands."""
    group = add_group(parser)
    listing = add_command(
        group, "list", "List jobs, newest first.", _list,
        examples=(
            "firelock jobs list --state failed --since 2h",
            "firelock jobs list --task shop.send_mail --limit 100 --json",
        ),
    )  # fmt: skip
    add_filters(listing)
    listing.add_argument(
        "--limit", type=whole(_PAGE_LIMIT), default=50, metavar="N", help="of a page: 50, at most 500"
    )
    listing.add_argument("--cursor", metavar="TEXT", help="the next page, as the last one named it")
    listing.add_argument("--oldest-first", action="store_true", help="in the other order")
    show = add_command(
        group, "show", "Show one job: its arguments, errors, history and log.", show_job,
        examples=("firelock jobs show 01a21072-9d46-7c87-a484-8087cf5d557e",),
    )  # fmt: skip
    show.add_argument("id", metavar="ID")
    add_command(group, "counts", "Count the jobs in each state.", _counts)
    _add_changes(group)


def _add_changes(group: Commands) -> None:
    requeue = add_command(
        group, "requeue", "Run jobs again, with their retries given back.", requeue_jobs,
        more="With --all the filters choose; failed jobs are meant unless --state says otherwise.",
        examples=(
            "firelock jobs requeue 01a21072-9d46-7c87-a484-8087cf5d557e",
            "firelock jobs requeue --all --task shop.send_mail --since 1d",
        ),
    )  # fmt: skip
    delete = add_command(
        group, "delete", "Delete jobs; running ones are told to stop.", delete_jobs,
        more="With --all the filters choose, and at least one has to be given.",
        examples=(
            "firelock jobs delete 01a21072-9d46-7c87-a484-8087cf5d557e",
            "firelock jobs delete --all --state scheduled --tag eu --dry-run",
        ),
    )  # fmt: skip
    restore = add_command(
        group, "restore", "Take a delete back: jobs are what they were before.", restore_jobs,
        more="Scheduled, enqueued and failed jobs come back. What was running, had succeeded, waited for "
        "another job or had continuations is left alone.",
        examples=(
            "firelock jobs restore 01a21072-9d46-7c87-a484-8087cf5d557e",
            "firelock jobs restore --all --task shop.send_mail --since 1h",
        ),
    )  # fmt: skip
    for parser in (requeue, delete, restore):
        parser.add_argument("ids", metavar="ID", nargs="*")
        parser.add_argument(
            "--all", action="store_true", dest="is_all", help="every job that the filters choose"
        )
        parser.add_argument("--dry-run", action="store_true", help="with --all: count them, change nothing")
    for parser in (requeue, delete):
        parser.add_argument(
            "--expect", metavar="N", type=whole(),
            help="with --all: at most so many; asked for above 1,000, and where some have ended well",
        )  # fmt: skip
    for parser in (requeue, delete, restore):
        add_filters(parser)


# ---- list ------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace, screen: Screen) -> int:
    from firelock.cli.answers import job_answer  # noqa: PLC0415 - loaded with an app only

    with connected(options) as app:
        now = app.client.clock.now()
        page = app.jobs.page(
            filter_of(options, now),
            limit=options.limit,
            cursor=options.cursor,
            oldest_first=options.oldest_first,
        )
    records = [job.record() for job in page.jobs]
    if screen.is_json:
        screen.json({"jobs": [job_answer(record) for record in records], "cursor": page.cursor})
        return 0
    if not records:
        screen.note("No job matches.")
        return 0
    screen.table(_COLUMNS, [_row(record, now) for record in records])
    if page.cursor is not None:
        screen.note(f"There are more; the same command with --cursor {page.cursor} shows them.")
    return 0


def _row(record: JobRecord, now: int) -> list[Piece]:
    return [
        record.id,
        state_cell(record.state),
        record.task,
        record.queue,
        age(record.changed_at or record.created_at, now),
        Cell(shorten(_note(record, now), _NOTE_LIMIT), "bright_black"),
    ]


def _note(record: JobRecord, now: int) -> str:
    if record.state == "failed" and record.error is not None:
        return f"{record.error.type}: {record.error.message}"
    if record.state == "scheduled":
        which = f"retry {record.retries}, " if record.is_retrying else ""
        return f"{which}due {age(record.due_at, now)}"
    if record.state == "processing":
        return f"{'on' if record.started_at else 'claimed by'} {record.server}, attempt {record.attempt}"
    return record.reason or ""


# ---- counts ----------------------------------------------------------------------------------------------


def _counts(options: argparse.Namespace, screen: Screen) -> int:
    with connected(options) as app:
        counts = app.jobs.counts()
    by_state = {str(state): number for state, number in counts.by_state.items()}
    if screen.is_json:
        by_queue = {
            queue: {str(state): number for state, number in states.items()}
            for queue, states in counts.by_queue.items()
        }
        screen.json({"by_state": {name: by_state[name] for name in _STATES}, "by_queue": by_queue})
    else:
        rows: list[list[Piece]] = [[state_cell(name), by_state[name]] for name in _STATES]
        screen.table((Column("STATE"), Column("JOBS", is_number=True)), rows)
    return 0
