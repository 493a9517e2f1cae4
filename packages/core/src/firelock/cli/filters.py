"""The options that choose jobs: state, task, queue, tag, server, time."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from firelock.cli.problem import Exit, Problem

if TYPE_CHECKING:
    from firelock.storage import JobFilter

__all__ = ["add_filters", "filter_of", "has_filters"]

_STATES = "awaiting scheduled enqueued processing succeeded failed deleted"
_TEXTS = ("state", "task", "queue", "tag", "server", "recurring", "fingerprint")
_AGO = re.compile(r"(\d{1,6})([smhd])\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def add_filters(parser: argparse.ArgumentParser) -> None:
    """The parser takes the filters; what is given must all match."""
    group = parser.add_argument_group("which jobs")
    group.add_argument("--state", choices=_STATES.split(), metavar="STATE", help=_STATES.replace(" ", ", "))
    group.add_argument("--task", metavar="NAME", help="the task's name, as shop.send_mail")
    group.add_argument("--queue", metavar="NAME", help="the queue's name")
    group.add_argument("--tag", metavar="TAG", help="one of the job's tags, in full")
    group.add_argument("--server", metavar="NAME", help="the server that holds it or held it last")
    group.add_argument("--recurring", metavar="ID", help="the recurring job that made it")
    group.add_argument("--fingerprint", metavar="TEXT", help="the fingerprint of its last error")
    when = "ISO 8601, in UTC unless it says otherwise, or a span back from now: 30m, 2h, 7d"
    group.add_argument("--since", metavar="TIME", help=f"not before; {when}")
    group.add_argument("--until", metavar="TIME", help="before; as --since")


def has_filters(options: argparse.Namespace) -> bool:
    """Tell whether any filter is given."""
    return any(getattr(options, name) is not None for name in (*_TEXTS, "since", "until"))


def filter_of(options: argparse.Namespace, now: int) -> JobFilter:
    """Return the filter that the options say; `now` is the storage's.

    Raises:
        Problem: a time cannot be read.
    """
    from firelock.storage import JobFilter  # noqa: PLC0415
    from firelock.values import State  # noqa: PLC0415 - loaded with an app only

    return JobFilter(
        state=None if options.state is None else State(options.state),
        task=options.task,
        queue=options.queue,
        tag=options.tag,
        server=options.server,
        recurring_id=options.recurring,
        fingerprint=options.fingerprint,
        since=_instant("--since", options.since, now),
        until=_instant("--until", options.until, now),
    )


def _instant(option: str, text: str | None, now: int) -> int | None:
    if text is None:
        return None
    if ago := _AGO.match(text):
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])}) // timedelta(microseconds=1)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise Problem(
            f"{option} {text!r} is no time.",
            hint="Write 2026-11-25, 2026-11-25T14:30, 2026-11-25T14:30+03:00, or a span as 30m, 2h, 7d.",
            code=Exit.USAGE,
        ) from error
    aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)
