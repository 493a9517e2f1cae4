"""`firelock enqueue`: create a job of a task; its JSON arguments are checked before anything is stored."""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from firelock.cli.answers import job_answer
from firelock.cli.commands import Exit, Problem, describe, record_change
from firelock.cli.screen import Screen
from firelock.cli.source import connected
from firelock.errors import UnknownTask
from firelock.model.text import clock_time

if TYPE_CHECKING:
    from firelock.app import Firelock
    from firelock.arguments.serializer import JsonValue
    from firelock.task import TaskVerbs

_SPAN = re.compile(r"(\d{1,9})([smhd]?)\Z", re.ASCII)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options to the parser."""
    describe(
        parser, _enqueue,
        more=(
            "The arguments are checked against the task's signature: by its code where --app or\n"
            "pyproject.toml name the app, else by what a server told of the task when it started.\n"
            "Standard output has the job's id alone."
        ),
        examples=(
            "firelock enqueue shop.jobs.create_report --args '{\"day\": \"2026-11-24\"}'",
            "firelock enqueue shop.jobs.notify --args '[42]' --in 10m --queue bulk --priority 5",
            "firelock enqueue shop.jobs.notify --args - < arguments.json",
        ),
    )  # fmt: skip
    parser.add_argument("task", metavar="TASK", help="the name under which its jobs are stored")
    parser.add_argument(
        "--args", default="{}", metavar="JSON", help="an object by name, or a list by position; - reads stdin"
    )
    parser.add_argument("--queue", metavar="NAME", help="instead of the task's")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--in", type=_span, dest="delay", metavar="SPAN", help="later: 30s, 10m, 2h, 7d")
    when.add_argument(
        "--at", type=_instant, metavar="TIME", help="at an instant with its offset: 2026-11-25T14:30+03:00"
    )
    parser.add_argument(
        "--start-before", type=_limit_of_start, metavar="SPAN|TIME",
        help="deleted unrun if no server took it by then: 1h after it became enqueued, or an instant",
    )  # fmt: skip
    parser.add_argument("--priority", type=int, metavar="N", help="-100 to 100, higher first")
    parser.add_argument(
        "--tags", type=_texts, metavar="LIST", help="added to the task's own, with commas between them"
    )
    parser.add_argument(
        "--meta", type=_pair, action="append", default=[], metavar="NAME=TEXT",
        help="told to the job beside its arguments; may be given again",
    )  # fmt: skip


def _span(text: str) -> timedelta:
    if (found := _SPAN.match(text)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no span; write 30s, 10m, 2h or 7d")
    return timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


def _instant(text: str) -> datetime:
    try:
        instant: datetime | None = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no instant with an offset; write 2026-11-25T14:30+03:00, or end it with Z for UTC"
        )
    return instant


def _limit_of_start(text: str) -> timedelta | datetime:
    return _span(text) if _SPAN.match(text) else _instant(text)


def _texts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is no pair; write tenant=acme")
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
        screen.json({**job_answer(record), "is_new": job.is_new})
    else:
        screen.line(record.id)
        if not job.is_new:
            screen.note(f"Job {record.id} has unique key {job.unique_key} already; no other one was made.")
        elif screen.is_terminal:
            due = f", due {clock_time(record.due_at)}" if record.due_at else ""
            screen.note(f"A job of {record.task} is {record.state} in queue {record.queue}{due}.")
    return Exit.DONE


def _arguments(text: str) -> JsonValue:
    try:
        value: JsonValue = json.loads(sys.stdin.read() if text == "-" else text)
    except (ValueError, RecursionError) as error:
        raise Problem(
            f"--args is no JSON: {error}.",
            hint="""Quote it for the shell: --args '{"day": "2026-11-24"}', or --args - to read it.""",
        ) from error
    return value


def _task(app: Firelock, name: str) -> TaskVerbs[Any, Any]:
    """Return the task as it is registered here, or as the catalogue describes it.

    Raises:
        Problem: neither has the task, or a server of an older release stored it.
    """
    try:
        return app.told_task(name)
    except UnknownTask as error:
        names = [entry.name for entry in app.catalogue.list()]
        raise Problem(str(error), hint=_guess(name, names), code=Exit.NOT_FOUND) from error


def _guess(name: str, known: Sequence[str]) -> str:
    by_end = [one for one in known if one.rpartition(".")[2] == name]
    near = by_end or difflib.get_close_matches(name, known, n=1)
    guess = f"Did you mean {near[0]}? " if near and near[0] != name else ""
    listed = ", ".join(sorted(known)[:10])
    return guess + (f"Known: {listed}." if known else "A server tells of its tasks as it starts.")
