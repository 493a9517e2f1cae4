"""`firelock enqueue`: creates a job of a task, after checking its JSON arguments."""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from firelock.cli.commands import Exit, Problem, describe, record_change
from firelock.cli.json_output import job_json
from firelock.cli.screen import Screen
from firelock.cli.source import connected
from firelock.errors import UnknownTask
from firelock.model.text import clock_time

if TYPE_CHECKING:
    from firelock.app import Firelock
    from firelock.arguments.serializer import JsonValue
    from firelock.task import TaskVerbs

_DURATION = re.compile(r"(\d{1,9})([smhd]?)\Z", re.ASCII)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options to the parser."""
    describe(
        parser, _enqueue,
        more=(
            "The arguments are checked against the task's signature. If --app or pyproject.toml names the\n"
            "app, the signature is read from its code, otherwise from the storage, where each server stores\n"
            "its tasks when it starts. Standard output contains only the job's id."
        ),
        examples=(
            "firelock enqueue shop.jobs.create_report --args '{\"day\": \"2026-11-24\"}'",
            "firelock enqueue shop.jobs.notify --args '[42]' --in 10m --queue bulk --priority 5",
            "firelock enqueue shop.jobs.notify --args - < arguments.json",
        ),
    )  # fmt: skip
    parser.add_argument("task", metavar="TASK", help="name of the task, as stored with its jobs")
    parser.add_argument(
        "--args",
        default="{}",
        metavar="JSON",
        help="arguments, as an object by name or a list by position; - reads standard input",
    )
    parser.add_argument("--queue", metavar="NAME", help="queue (default: that of the task)")
    when = parser.add_mutually_exclusive_group()
    when.add_argument(
        "--in", type=_duration, dest="delay", metavar="DURATION", help="delay: 30s, 10m, 2h, 7d"
    )
    when.add_argument(
        "--at", type=_time, metavar="TIME", help="due time with UTC offset: 2026-11-25T14:30+03:00"
    )
    parser.add_argument(
        "--start-before", type=_start_limit, metavar="DURATION|TIME",
        help="delete the job if no server has claimed it by this time, or so long after it is enqueued (1h)",
    )  # fmt: skip
    parser.add_argument(
        "--priority", type=int, metavar="N", help="priority from -100 to 100; higher runs first"
    )
    parser.add_argument(
        "--tags", type=_texts, metavar="LIST", help="tags to add to those of the task, separated by commas"
    )
    parser.add_argument(
        "--meta", type=_pair, action="append", default=[], metavar="NAME=TEXT",
        help="metadata stored with the job (repeatable)",
    )  # fmt: skip


def _duration(text: str) -> timedelta:
    if (found := _DURATION.match(text)) is None:
        raise argparse.ArgumentTypeError(f"must be a duration such as 30s, 10m, 2h or 7d, got {text!r}")
    return timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


def _time(text: str) -> datetime:
    try:
        time: datetime | None = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise argparse.ArgumentTypeError(
            f"must be a time with a UTC offset, got {text!r}; use 2026-11-25T14:30+03:00, or Z for UTC"
        )
    return time


def _start_limit(text: str) -> timedelta | datetime:
    return _duration(text) if _DURATION.match(text) else _time(text)


def _texts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise argparse.ArgumentTypeError(f"must be NAME=TEXT, for example tenant=acme, got {text!r}")
    return name, value


def _enqueue(options: argparse.Namespace, screen: Screen) -> int:
    from firelock.arguments.outline import call_of_json  # noqa: PLC0415 - loaded when a job is created

    given = _arguments(options.args)
    with connected(options, is_imported=True) as app:
        task = _task(app, options.task)
        args, kwargs = call_of_json(app.registry.binder(task.info), given)
        job = task.using(
            queue=options.queue, priority=options.priority, delay=options.delay, at=options.at,
            tags=options.tags, meta=dict(options.meta) or None, start_before=options.start_before,
        ).enqueue(*args, **kwargs)  # fmt: skip
        record = job.record()
        if job.is_new:
            record_change(app, "task.run", record.task, job=record.id)
    if screen.is_json:
        screen.json({**job_json(record), "is_new": job.is_new})
    else:
        screen.line(record.id)
        if not job.is_new:
            screen.note(f"Job {record.id} already has unique key {job.unique_key}; no new job was created.")
        elif screen.is_terminal:
            due = f", due {clock_time(record.due_at)}" if record.due_at else ""
            screen.note(f"A job of {record.task} is {record.state} in queue {record.queue}{due}.")
    return Exit.DONE


def _arguments(text: str) -> JsonValue:
    try:
        value: JsonValue = json.loads(sys.stdin.read() if text == "-" else text)
    except (ValueError, RecursionError) as error:
        raise Problem(
            f"--args must be JSON: {error}.",
            hint="""Use shell quotes: --args '{"day": "2026-11-24"}', or --args - for standard input.""",
        ) from error
    return value


def _task(app: Firelock, name: str) -> TaskVerbs[Any, Any]:
    """Return the task if it is registered here, or otherwise as described in the catalogue.

    Raises:
        Problem: If the task is in neither place, or a server of an older release stored it in the catalogue.
    """
    try:
        return app.published_task(name)
    except UnknownTask as error:
        names = [entry.name for entry in app.catalogue.list()]
        raise Problem(str(error), hint=_guess(name, names), code=Exit.NOT_FOUND) from error


def _guess(name: str, known: Sequence[str]) -> str:
    by_end = [one for one in known if one.rpartition(".")[2] == name]
    near = by_end or difflib.get_close_matches(name, known, n=1)
    guess = f"Did you mean {near[0]}? " if near and near[0] != name else ""
    listed = ", ".join(sorted(known)[:10])
    return guess + (
        f"Known tasks: {listed}." if known else "Start a server; it stores its tasks when it starts."
    )
