"""What is wrong, told from one look at the storage: each trouble with its numbers and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

from firelock_dashboard.listeners import Listeners, ServerState, heard_at, server_state

if TYPE_CHECKING:
    from firelock import QueueView, RecurringJob, ServerView
    from firelock.storage import Finding
    from firelock_dashboard.stats.history import TaskStats

__all__ = ["Action", "Severity", "Snapshot", "Trouble", "TroubleKind", "troubles"]

_LONG_WAIT = timedelta(minutes=10)
_MANY_PAUSED = 100  # jobs
_LOST_LATELY = timedelta(hours=1)
_LATE_FIRING = timedelta(minutes=2)
_SKEW = 5.0  # seconds
_FEWEST_RUNS = 10  # below which a rate says nothing
_HIGH_RATE, _TIMES_USUAL, _VERY_HIGH_RATE = 0.1, 3.0, 0.5
_SHOWN_OF_A_KIND = 3


class Severity(StrEnum):
    """How a banner looks."""

    BAD = "bad"
    WARN = "warn"


class TroubleKind(StrEnum):
    """What can be wrong, the worst first; each has its text `trouble_…` in overview.toml."""

    NO_SERVER = "no_server"
    STORAGE = "storage"
    NO_LISTENER = "no_listener"
    UNKNOWN_TASK = "unknown_task"
    SERVER_LOST = "server_lost"
    FAILING = "failing"
    RECURRING_ERROR = "recurring_error"
    RECURRING_LATE = "recurring_late"
    LONG_WAIT = "long_wait"
    PAUSED = "paused"
    SKEW = "skew"
    MORE = "more"  # of one of the kinds above


@attrs.frozen
class Action:
    """What to do: a page to look at, or, with a permission, a form to send."""

    text: str  # a key of overview.toml
    path: str
    fields: Mapping[str, str] = attrs.field(factory=dict)  # of the query, or of the form
    permission: str | None = None

    @property
    def is_form(self) -> bool:
        """Tell whether it changes something."""
        return self.permission is not None


@attrs.frozen
class Trouble:
    """One thing that is wrong."""

    kind: TroubleKind
    severity: Severity
    values: Mapping[str, object]  # for the text; instants and spans are written by the template
    action: Action
    since: datetime | None = None


@attrs.frozen
class Snapshot:
    """All that is looked at, of one moment."""

    now: datetime
    queues: Sequence[QueueView] = ()
    servers: Sequence[ServerView] = ()
    recurring: Sequence[RecurringJob] = ()
    oldest: Mapping[str, datetime] = attrs.field(factory=dict)  # since when the first of a queue waits
    unknown_tasks: Mapping[str, int] = attrs.field(factory=dict)  # among the jobs that wait longest
    lately: Mapping[str, TaskStats] = attrs.field(factory=dict)  # of the last 15 minutes
    usually: Mapping[str, TaskStats] = attrs.field(factory=dict)  # of the day
    findings: Sequence[Finding] = ()
    skew_seconds: float = 0.0  # by how much the storage's clock is ahead of this host's
    muted_shares: Mapping[str, float] = attrs.field(factory=dict)  # by task, of its failures of late


def troubles(seen: Snapshot) -> list[Trouble]:
    """Return what is wrong, worst first; at most three of a kind, and then how many more."""
    found: list[Trouble] = []
    for one_kind in (
        _no_server, _storage, _no_listener, _unknown_task, _server_lost, _failing, _recurring, _long_wait,
        _paused, _skew,
    ):  # fmt: skip
        of_kind = list(one_kind(seen))
        found += of_kind[:_SHOWN_OF_A_KIND]
        if len(of_kind) > _SHOWN_OF_A_KIND:
            last = of_kind[-1]
            more = {"count": len(of_kind) - _SHOWN_OF_A_KIND, "kind": last.kind}
            page = Action("show", "/" + last.action.path.split("/")[1])
            found.append(Trouble(TroubleKind.MORE, last.severity, more, page))
    return sorted(found, key=lambda trouble: trouble.severity is not Severity.BAD)


def _waiting(seen: Snapshot) -> int:
    return sum(queue.enqueued for queue in seen.queues)


def _no_server(seen: Snapshot) -> Iterator[Trouble]:
    waiting = _waiting(seen)
    if waiting and not Listeners(seen.servers, seen.now).all:
        since = min(seen.oldest.values(), default=None)
        yield Trouble(
            TroubleKind.NO_SERVER, Severity.BAD, {"count": waiting}, Action("to_servers", "/servers"), since
        )


def _storage(seen: Snapshot) -> Iterator[Trouble]:
    for finding in seen.findings:
        if finding.is_error:
            values = {"what": finding.what, "mend": finding.mend}
            yield Trouble(TroubleKind.STORAGE, Severity.BAD, values, Action("to_system", "/system"))


def _no_listener(seen: Snapshot) -> Iterator[Trouble]:
    listeners = Listeners(seen.servers, seen.now)
    if not listeners.all:
        return  # said already
    for queue in sorted(seen.queues, key=lambda queue: -queue.enqueued):
        if queue.enqueued and not queue.is_paused and not listeners.of(queue.name):
            yield Trouble(
                TroubleKind.NO_LISTENER, Severity.BAD, {"queue": queue.name, "count": queue.enqueued},
                Action("to_queue", f"/queues/{queue.name}"), seen.oldest.get(queue.name),
            )  # fmt: skip


def _unknown_task(seen: Snapshot) -> Iterator[Trouble]:
    for task, count in sorted(seen.unknown_tasks.items(), key=lambda one: (-one[1], one[0])):
        yield Trouble(
            TroubleKind.UNKNOWN_TASK, Severity.BAD, {"task": task, "count": count},
            Action("to_jobs", "/jobs", {"state": "enqueued", "task": task}),
        )  # fmt: skip


def _server_lost(seen: Snapshot) -> Iterator[Trouble]:
    """Servers that missed renewals, and such as were lost in the midst of work and did not come back."""
    states = [(server, server_state(server, seen.now)) for server in seen.servers]
    back = {server.name for server, state in states if not state.is_gone}
    silent = [
        server
        for server, state in states
        if state is ServerState.STALE
        or (state is ServerState.LOST and server.name not in back and _was_working(server, seen.now))
    ]
    if silent:
        heard = [heard_at(record, seen.now) for server in silent for record in server.sessions]
        values = {"count": len(silent), "servers": ", ".join(sorted(server.name for server in silent)[:3])}
        yield Trouble(
            TroubleKind.SERVER_LOST, Severity.BAD, values, Action("to_servers", "/servers"),
            max(heard, default=None),
        )  # fmt: skip


def _was_working(server: ServerView, now: datetime) -> bool:
    return any(
        record.renewal.busy and record.renewal.state != "stopping"
        and now - heard_at(record, now) < _LOST_LATELY
        for record in server.sessions
    )  # fmt: skip


def _failing(seen: Snapshot) -> Iterator[Trouble]:
    found = []
    for task, stats in seen.lately.items():
        if stats.runs < _FEWEST_RUNS:
            continue
        told = stats.failed_attempts * (1 - seen.muted_shares.get(task, 0.0))  # what is muted is not told
        rate, usual = told / stats.runs, _usual_rate(stats, seen.usually.get(task))
        is_high = rate >= _VERY_HIGH_RATE if usual is None else rate >= max(_HIGH_RATE, _TIMES_USUAL * usual)
        if is_high:
            found.append((rate, task, usual))
    for rate, task, usual in sorted(found, key=lambda one: (-one[0], one[1])):
        yield Trouble(
            TroubleKind.FAILING, Severity.BAD if rate >= _VERY_HIGH_RATE else Severity.WARN,
            {"task": task, "rate": rate, "usual": usual}, Action("to_failures", "/failures", {"task": task}),
        )  # fmt: skip


def _usual_rate(lately: TaskStats, usually: TaskStats | None) -> float | None:
    """Return the day's rate of failed attempts, less what has just ended; None where that is too little."""
    runs = 0 if usually is None else usually.runs - lately.runs
    if usually is None or runs < _FEWEST_RUNS:
        return None
    return max(0, usually.failed_attempts - lately.failed_attempts) / runs


def _recurring(seen: Snapshot) -> Iterator[Trouble]:
    for one in seen.recurring:
        if one.error and not one.is_paused:
            values = {"recurring": one.id, "error": one.error}
            action = Action("to_recurring", "/recurring", {"q": one.id})
            yield Trouble(TroubleKind.RECURRING_ERROR, Severity.WARN, values, action, one.last_at)
    late = sorted(
        (one.next_at, one.id)
        for one in seen.recurring
        if one.next_at is not None and seen.now - one.next_at > _LATE_FIRING
        if not one.is_paused and not one.error
    )
    if late:  # mostly for one reason: no server is there to fire them
        since, first = late[0]
        action = Action("to_recurring", "/recurring", {"q": first} if len(late) == 1 else {})
        numbers = {"count": len(late), "recurring": first, "others": len(late) - 1}
        yield Trouble(TroubleKind.RECURRING_LATE, Severity.WARN, numbers, action, since)


def _long_wait(seen: Snapshot) -> Iterator[Trouble]:
    listeners = Listeners(seen.servers, seen.now)
    for queue in seen.queues:
        since = seen.oldest.get(queue.name)
        if since is None or queue.is_paused or not listeners.of(queue.name):
            continue
        if seen.now - since >= _LONG_WAIT:
            yield Trouble(
                TroubleKind.LONG_WAIT, Severity.WARN, {"queue": queue.name, "count": queue.enqueued},
                Action("to_queue", f"/queues/{queue.name}"), since,
            )  # fmt: skip


def _paused(seen: Snapshot) -> Iterator[Trouble]:
    for queue in sorted(seen.queues, key=lambda queue: -queue.enqueued):
        if queue.is_paused and queue.enqueued >= _MANY_PAUSED:
            yield Trouble(
                TroubleKind.PAUSED, Severity.WARN,
                {"queue": queue.name, "count": queue.enqueued, "note": queue.note or ""},
                Action("resume", "/queues/resume", {"queue": queue.name}, "pause_queue"),
                seen.oldest.get(queue.name),
            )  # fmt: skip


def _skew(seen: Snapshot) -> Iterator[Trouble]:
    if abs(seen.skew_seconds) > _SKEW:
        yield Trouble(
            TroubleKind.SKEW, Severity.WARN, {"seconds": abs(seen.skew_seconds)},
            Action("to_system", "/system"),
        )  # fmt: skip
