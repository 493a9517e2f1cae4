"""The events of webhooks: new failures of jobs, and the findings of the app, each reported once.

Only `firelock.control.findings` decides whether something is a problem. Open problems are stored in one
record that all servers share, so each problem is reported once when it begins and once when it has ended.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import attrs

from firelock import State
from firelock.storage import BATCH_TASK, JobFilter, Severity

if TYPE_CHECKING:
    from firelock import Firelock, JsonValue
    from firelock.storage import Finding, JobRecord

_SECOND = 1_000_000
_LAG = 5 * _SECOND  # the outcome of a job can be stored up to this long after its timestamp
_PAGE, _MOST_FAILURES = 200, 1_000  # maximum number of failures that are read per request, and per check
_MOST_OPEN = 200
_NAMED = 10  # maximum number of job ids, and of error types, in an event
_FORGOTTEN = 7 * 24 * 3_600 * _SECOND
_BATCH = f"{BATCH_TASK} "  # prefix of the subject of failed batches, before the batch's name


class Event(StrEnum):
    """The events that a webhook can receive."""

    FAILED = "failed"
    QUEUE_LATENCY = "queue_latency"
    RECURRING_MISSED = "recurring_missed"
    SERVER_LOST = "server_lost"
    FINDING = "finding"  # any other error or warning
    RECOVERED = "recovered"


_EVENTS = {
    "long_wait": Event.QUEUE_LATENCY,
    "recurring_late": Event.RECURRING_MISSED,
    "server_lost": Event.SERVER_LOST,
}
"""The event of each finding's code; all other findings share `FINDING`."""


@attrs.frozen
class Rules:
    """The rules that decide which events are reported, and how often."""

    quiet: timedelta  # the minimum time between two events about the failures of one task
    left_out: Collection[str]  # queues that are not reported, namely the queue of the webhooks


@attrs.define
class Open:
    """A reported problem that has not ended, or failures of a task that have not been reported yet."""

    since: int
    reported_at: int = 0
    last_at: int = 0  # time of the task's newest failure
    count: int = 0  # failures that have not been reported yet
    jobs: list[str] = attrs.Factory(list)  # ids of some of the failed jobs
    error_types: list[str] = attrs.Factory(list)


@attrs.define
class Memory:
    """The data that is stored between two checks, because different servers can do them."""

    checked_at: int = 0
    failures_until: int = 0
    seen: dict[str, str] = attrs.Factory(dict)  # late jobs with limits that the last check found, by queue
    pending: list[str] = attrs.Factory(list)  # subjects of findings that are reported if they persist
    open: dict[str, Open] = attrs.Factory(dict)  # problems by event and subject, such as "failed shop.charge"
    more: dict[str, Any] = attrs.Factory(dict)  # fields of a newer release, which are stored again unchanged

    @classmethod
    def read(cls, text: str | None) -> Memory:
        """Return the stored data; empty data if the string cannot be read."""
        try:
            kept = json.loads(text or "{}")
            opened = {name: _known_of(Open, each) for name, each in kept.pop("open", {}).items()}
            known = {name: kept.pop(name) for name in _KNOWN if name in kept}
            return cls(**known, open=opened, more=kept)
        except (TypeError, ValueError, AttributeError):
            return cls()

    def write(self) -> str:
        """Return the string to store."""
        fields = attrs.asdict(self)
        return json.dumps(fields.pop("more") | fields)


_KNOWN = ("checked_at", "failures_until", "seen", "pending")


def _known_of(kind: type[Open], fields: dict[str, Any]) -> Open:
    return kind(**{name: fields[name] for name in attrs.fields_dict(kind) if name in fields})


def new_events(
    app: Firelock, memory: Memory, now: int, rules: Rules, *, task: str, is_first: bool,
    findings: Sequence[Finding],
) -> list[dict[str, JsonValue]]:  # fmt: skip
    """Return the events since the last check, and update the memory.

    Args:
        app: the app whose storage is checked.
        memory: the data of the last check, which this function updates.
        now: the time of the storage's clock, in micros.
        rules: the rules that decide which events are reported.
        task: the task that delivers webhooks; its own failures are not events.
        is_first: whether no server has checked before. If so, earlier failures and lost servers are not
            reported.
        findings: the problems, as `list_findings` returned them.
    """
    watch = _Watch(app, memory, now, rules)
    return [*watch.failures(task, is_first=is_first), *watch.findings(findings, is_first=is_first)]


@attrs.frozen
class _Watch:
    app: Firelock
    memory: Memory
    now: int
    rules: Rules

    # ---- failures ----------------------------------------------------------------------------------------

    def failures(self, own_task: str, *, is_first: bool) -> Iterator[dict[str, JsonValue]]:
        """Yield an event for each task with new failures, and for each task that has recovered.

        For each task, there is at most one event about failures per `quiet` period. Failed batches are
        treated in the same way, by name.
        """
        until = self.now - _LAG
        since = until if is_first else min(self.memory.failures_until, until)
        self.memory.failures_until = until
        for job in self._failed(since, until):
            if job.task != own_task:
                self._note(job)
        for name, opened in self._opened(Event.FAILED):
            if opened.count and self.now - opened.reported_at >= _micros(self.rules.quiet):
                yield self._failed_event(name, opened)
            elif not opened.count and self._has_succeeded(name, opened.last_at):
                yield self._recovered_event(name)
            elif self.now - opened.last_at > _FORGOTTEN:  # the task no longer runs
                del self.memory.open[f"{Event.FAILED} {name}"]

    def _failed(self, since: int, until: int) -> list[JobRecord]:
        where = JobFilter(state=State.FAILED, since=since, until=until)
        found: list[JobRecord] = []
        cursor = None
        while since < until and len(found) < _MOST_FAILURES:
            page = self.app.storage.find(where, limit=_PAGE, cursor=cursor)
            found += page.jobs
            cursor = page.cursor
            if cursor is None:
                break
        return found

    def _note(self, job: JobRecord) -> None:
        subject = job.task
        if (batch := _batch_name(job)) is not None:
            if (
                job.relations is not None and job.relations.batch_id is not None
            ):  # skip it, because the outer batch fails as well
                return
            subject = f"{_BATCH}{batch}"
        name = f"{Event.FAILED} {subject}"
        opened = self.memory.open.get(name)
        if opened is None:
            if len(self.memory.open) >= _MOST_OPEN:
                return
            opened = self.memory.open[name] = Open(job.changed_at)
        opened.count += 1
        opened.last_at = max(opened.last_at, job.changed_at)
        if len(opened.jobs) < _NAMED:
            opened.jobs.append(job.id)
        kind = None if job.error is None else job.error.type
        if kind is not None and kind not in opened.error_types and len(opened.error_types) < _NAMED:
            opened.error_types.append(kind)

    def _failed_event(self, subject: str, opened: Open) -> dict[str, JsonValue]:
        count, jobs, kinds = opened.count, [*opened.jobs], [*opened.error_types]
        opened.reported_at, opened.count = self.now, 0
        opened.jobs.clear()
        opened.error_types.clear()
        if subject.startswith(_BATCH):
            return self._failed_batches(subject, count, jobs)
        some = "A job" if count == 1 else f"{count:,} jobs"
        types = f" ({', '.join(kinds)})" if kinds else ""
        return self._event(
            Event.FAILED, subject, f"{some} of {subject} failed{types}.",
            {"task": subject, "count": count, "jobs": [*jobs], "error_types": [*kinds]},
        )  # fmt: skip

    def _failed_batches(self, subject: str, count: int, jobs: Sequence[str]) -> dict[str, JsonValue]:
        """Return the event for failed batches with the same name.

        The event for a single batch contains the number of its failed members.
        """
        name = subject.removeprefix(_BATCH)
        fields: dict[str, JsonValue] = {"batch": name, "count": count, "jobs": [*jobs]}
        text = f"{count:,} batches named {name!r} failed."
        if count == 1:
            counts = self.app.storage.batch_counts(jobs)[0]  # current counts; None if the batch was removed
            of = f": {counts.failed:,} of {counts.total:,}" if counts is not None and counts.failed else ""
            text = f"Batch {name!r} failed{of}."
            if counts is not None:
                fields |= {"failed": counts.failed, "total": counts.total}
        return self._event(Event.FAILED, subject, text, fields)

    def _has_succeeded(self, subject: str, after: int) -> bool:
        if not subject.startswith(_BATCH):
            where = JobFilter(state=State.SUCCEEDED, task=subject, since=after + 1)
            return bool(self.app.storage.find(where, limit=1).jobs)
        where = JobFilter(state=State.SUCCEEDED, task=BATCH_TASK, since=after + 1)
        name = subject.removeprefix(_BATCH)
        return any(_batch_name(job) == name for job in self.app.storage.find(where, limit=_PAGE).jobs)

    def _recovered_event(self, subject: str) -> dict[str, JsonValue]:
        if not subject.startswith(_BATCH):
            return self._over(Event.FAILED, subject, {"task": subject})
        name = subject.removeprefix(_BATCH)
        text = f"Batch {name!r}: a batch with this name has succeeded since the failure."
        return self._over(Event.FAILED, subject, {"batch": name}, text)

    # ---- findings ----------------------------------------------------------------------------------------

    def findings(self, found: Sequence[Finding], *, is_first: bool) -> Iterator[dict[str, JsonValue]]:
        """Yield an event for each error or warning that is new or has ended; notes are left out."""
        seen, self.memory.seen = self.memory.seen, {}
        urgent: dict[tuple[Event, str], Finding] = {}
        for one in found:
            if one.severity is not Severity.NOTE and self._is_reported(one, seen):
                urgent.setdefault((_EVENTS.get(one.code, Event.FINDING), _subject(one)), one)
        for event in (*_EVENTS.values(), Event.FINDING):
            for subject, _ in self._opened(event):
                if (event, subject) in urgent:
                    continue
                if event is Event.SERVER_LOST:  # not a recovery, because a new server may have the same name
                    del self.memory.open[f"{event} {subject}"]
                else:
                    yield self._over(event, subject, _named(event, subject))
        pending, self.memory.pending = set(self.memory.pending), []
        for (event, subject), one in urgent.items():
            if event is Event.FINDING:
                # Only the second check reports the finding, because problems during a start or a deployment
                # are short.
                if len(self.memory.pending) < _MOST_OPEN:
                    self.memory.pending.append(subject)
                if subject not in pending:
                    continue
            if not self._opens(event, subject) or (is_first and event is Event.SERVER_LOST):
                continue
            fields: dict[str, JsonValue] = {
                "code": one.code, "severity": one.severity.value, "subject": one.subject,
                "advice": one.advice,
            }  # fmt: skip
            yield self._event(event, subject, one.what, fields | _fields(event, one))

    def _is_reported(self, one: Finding, seen: Mapping[str, str]) -> bool:
        """Return whether a finding is reported.

        A limit key is free for a moment between the end of one job and the start of the next. Therefore a
        late job with limits is reported only if two successive checks find it as the queue's first job.
        """
        queue = str(one.values.get("queue", ""))
        if queue in self.rules.left_out:
            return False
        job = one.values.get("limited_job")
        if one.code != "long_wait" or job is None:
            return True
        self.memory.seen[queue] = str(job)
        return seen.get(queue) == job

    # ---- open problems -----------------------------------------------------------------------------------

    def _opened(self, event: Event) -> list[tuple[str, Open]]:
        prefix = f"{event} "
        return [
            (name.removeprefix(prefix), opened)
            for name, opened in self.memory.open.items()
            if name.startswith(prefix)
        ]

    def _opens(self, event: Event, subject: str) -> bool:
        """Store the problem and return True if it is new; ignore it if too many problems are open."""
        name = f"{event} {subject}"
        if name in self.memory.open or len(self.memory.open) >= _MOST_OPEN:
            return False
        self.memory.open[name] = Open(self.now, self.now)
        return True

    def _over(
        self, event: Event, subject: str, fields: dict[str, JsonValue], text: str = ""
    ) -> dict[str, JsonValue]:
        opened = self.memory.open.pop(f"{event} {subject}")
        text = text or f"{subject}: {_OVER[event]}."
        return self._event(
            Event.RECOVERED, f"{event} {subject} {opened.since}", text,
            {"of": str(event), "since": _iso(opened.since), **fields},
        )  # fmt: skip

    def _event(
        self, event: Event, subject: str, text: str, fields: dict[str, JsonValue]
    ) -> dict[str, JsonValue]:
        identity = f"{event} {subject} {self.now}"
        return {
            "id": hashlib.sha256(identity.encode()).hexdigest()[:32],
            "event": str(event),
            "at": _iso(self.now),
            "text": text,
            **fields,
        }


def _subject(one: Finding) -> str:
    """Return the string that distinguishes a finding from others with the same event."""
    if one.code in _EVENTS:
        return one.subject.partition(" ")[2]
    return f"{one.code} {one.subject}"


def _named(event: Event, subject: str) -> dict[str, JsonValue]:
    """Return the fields that name the subject of an event."""
    if event is Event.FINDING:
        return {"code": subject.partition(" ")[0], "subject": subject.partition(" ")[2]}
    return {
        {Event.QUEUE_LATENCY: "queue", Event.RECURRING_MISSED: "recurring_id"}.get(event, "server"): subject
    }


def _fields(event: Event, one: Finding) -> dict[str, JsonValue]:
    """Return the additional fields of a finding that has its own event."""
    values: Mapping[str, Any] = one.values
    if event is Event.FINDING:
        return {}
    fields = _named(event, _subject(one))
    if event is Event.QUEUE_LATENCY:
        fields["seconds"] = values["seconds"]
        if values["held"]:
            fields["held"] = values["held"]
    if event is Event.RECURRING_MISSED:
        fields["due_at"] = _iso(values["due_at"])
    return fields


_OVER = {
    Event.FAILED: "a job of this task has succeeded since the failure",
    Event.QUEUE_LATENCY: "jobs of this queue start in time again",
    Event.RECURRING_MISSED: "the recurring job has been fired again",
    Event.FINDING: "this problem no longer exists",
}


def _batch_name(job: JobRecord) -> str | None:
    relations = job.relations
    return None if relations is None or relations.batch is None else relations.batch.name


def _micros(span: timedelta) -> int:
    return int(span.total_seconds() * _SECOND)


def _iso(instant: int) -> str:
    return datetime.fromtimestamp(instant / _SECOND, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
