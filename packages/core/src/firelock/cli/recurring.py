"""`firelock recurring`: lists, triggers, pauses, resumes and removes recurring jobs."""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from firelock.cli.commands import add_command, add_group, record_change, whole
from firelock.cli.json_output import recurring_json
from firelock.cli.screen import Cell, Column, Piece, Screen
from firelock.cli.source import connected
from firelock.errors import ScheduleError
from firelock.model.clock import from_micros, micros
from firelock.model.text import age, clock_time, isoformat
from firelock.schedules.cron import Cron

if TYPE_CHECKING:
    from firelock.app import Firelock
    from firelock.jobs.job import Job
    from firelock.schedules.recurring_job import RecurringJob

_COLUMNS = (
    Column("ID", is_whole=True),
    Column("TASK"),
    Column("SCHEDULE"),
    Column("QUEUE"),
    Column("NEXT", is_whole=True),
    Column("LAST", is_whole=True),
    Column("NOTE"),
)
_PAGE, _MOST = 500, 1_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the group's commands to the parser."""
    group = add_group(parser)
    add_command(group, "list", "List the recurring jobs.", _list)
    trigger = add_command(
        group, "trigger", "Enqueue one run now, without changing the schedule.", _trigger,
        examples=("firelock recurring trigger nightly-report",),
    )  # fmt: skip
    trigger.add_argument("ids", metavar="ID", nargs="+")
    for verb, done, summary in (
        ("pause", "paused", "Pause recurring jobs until they are resumed; deploys do not resume them."),
        ("resume", "resumed", "Resume recurring jobs from their next due time after now."),
        ("remove", "removed", "Remove recurring jobs; the jobs that they created stay."),
    ):
        command = add_command(group, verb, summary, _change)
        command.set_defaults(verb=verb, done=done)
        command.add_argument("ids", metavar="ID", nargs="+")
    upcoming = add_command(
        group, "next", "Show the next due times of one or all recurring jobs.", _next,
        examples=("firelock recurring next nightly-report --count 3", "firelock recurring next"),
    )  # fmt: skip
    upcoming.add_argument("id", metavar="ID", nargs="?")
    upcoming.add_argument(
        "--count", type=whole(_MOST), default=10, metavar="N", help="number of due times (default: 10)"
    )


def all_recurring(app: Firelock) -> Iterator[RecurringJob]:
    """Yield all definitions, page by page, in order of id."""
    after = ""
    while page := app.recurring.list(after=after, limit=_PAGE):
        yield from page
        after = page[-1].id


# ---- list ------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:
        now = app.client.clock.now()
        definitions = list(all_recurring(app))
    screen.listing(
        "recurring", (recurring_json(one.record) for one in definitions),
        _COLUMNS, (_row(one, now) for one in definitions), empty="No recurring jobs exist.",
    )  # fmt: skip


def _row(one: RecurringJob, now: int) -> list[Piece]:
    record = one.record
    upcoming = "" if record.is_paused else age(record.next_at, now) or "never"
    return [
        record.id,
        record.task,
        _schedule(one),
        record.queue,
        upcoming,
        age(record.last_at, now) or "not yet",
        _note(one),
    ]


def _schedule(one: RecurringJob) -> str:
    try:
        return one.schedule.describe()
    except ScheduleError:
        return "cannot be read"


def _note(one: RecurringJob) -> Cell:
    if one.error is not None:
        return Cell(one.error, "red")
    if one.is_paused:
        return Cell("paused", "yellow")
    return Cell("no longer in code", "yellow") if one.record.is_gone else Cell("")


# ---- operations ------------------------------------------------------------------------------------------


def _trigger(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:
        jobs = [_triggered(app, recurring_id) for recurring_id in options.ids]
    if screen.is_json:
        screen.json({"jobs": [{"id": job.id, "task": job.task} for job in jobs]})
        return
    for recurring_id, job in zip(options.ids, jobs, strict=True):
        screen.line(recurring_id, "  enqueued as job ", Cell(job.id, "green"))


def _triggered(app: Firelock, recurring_id: str) -> Job[Any]:
    job = app.recurring.trigger(recurring_id)
    record_change(app, "recurring.trigger", recurring_id, job=job.id)
    return job


def _change(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:

        def change(recurring_id: str) -> None:
            getattr(app.recurring, options.verb)(recurring_id)
            record_change(app, f"recurring.{options.verb}", recurring_id)

        screen.each(options.ids, options.done, change)


# ---- next ------------------------------------------------------------------------------------------------


def _next(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:
        now = app.client.clock.now()
        chosen = [app.recurring.get(options.id)] if options.id else list(all_recurring(app))
    shown = chosen if options.id else [one for one in chosen if not one.is_paused]
    agenda = list(_agenda(shown, now, options.count))
    for one in chosen:
        if one.is_paused and not screen.is_json:
            screen.note(f"{one.id} is paused and does not run until it is resumed.")
    screen.listing(
        "next", ({"id": one.id, "at": isoformat(at)} for at, one in agenda),
        (Column("AT"), Column("LOCAL"), Column("IN"), Column("ID", is_whole=True), Column("TASK")),
        ([clock_time(at), _local(at, one), age(at, now), one.id, one.task] for at, one in agenda),
        empty="No due times.",
    )  # fmt: skip


def _agenda(chosen: list[RecurringJob], now: int, count: int) -> Iterator[tuple[int, RecurringJob]]:
    merged = heapq.merge(*[_due_times(one, now, count) for one in chosen], key=lambda pair: pair[0])
    return islice(merged, count)


def _due_times(one: RecurringJob, now: int, count: int) -> list[tuple[int, RecurringJob]]:
    try:
        return [(micros(time), one) for time in one.schedule.upcoming(from_micros(now), count)]
    except ScheduleError:
        return []  # `recurring list` and `doctor` report the problem


def _local(at: int, one: RecurringJob) -> str:
    """Return the local time in the schedule's time zone; "" if it has no time zone or uses UTC."""
    schedule = one.schedule
    if not isinstance(schedule, Cron) or schedule.tz == "UTC":
        return ""
    local: datetime = from_micros(at).astimezone(ZoneInfo(schedule.tz))
    return f"{local:%a %H:%M:%S} {schedule.tz}"
