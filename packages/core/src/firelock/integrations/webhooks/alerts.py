"""What is worth a webhook: read of the storage in a handful of round trips, bounded, and told once.

What is open is kept as one record, so that it is told once for all servers, and told again when it is over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import attrs

from firelock import State
from firelock.jobs.blocked_by import held_heads
from firelock.storage import BATCH_TASK, JobFilter

if TYPE_CHECKING:
    from firelock import Firelock, JsonValue, QueueView
    from firelock.storage import JobRecord

_SECOND = 1_000_000
_LAG = 5 * _SECOND  # a job's end may be stored so long after the instant that it bears
_PAGE, _MOST_FAILURES = 200, 1_000  # of one look
_MOST_OPEN = 200
_MOST_QUEUES = 100
_MOST_LATE = 100
_NAMED = 10  # jobs in an event
_FORGOTTEN = 7 * 24 * 3_600 * _SECOND
_BATCH = f"{BATCH_TASK} "  # and a batch's name: the subject of batches that failed


class Event(StrEnum):
    """What a webhook may be told of."""

    FAILED = "failed"
    QUEUE_LATENCY = "queue_latency"
    RECURRING_MISSED = "recurring_missed"
    SERVER_LOST = "server_lost"
    RECOVERED = "recovered"


@attrs.frozen
class Thresholds:
    """What is too long."""

    latency: Mapping[str, timedelta]  # by queue; that of "*" holds for those without one of their own
    margin: timedelta  # so late may a recurring job be fired
    quiet: timedelta  # between two events of one task's failures
    left_out: Collection[str]  # queues that nobody is told of: the webhooks' own

    def latency_of(self, queue: str) -> timedelta | None:
        """Return how long the first job of a queue may wait; None for as long as it likes."""
        return self.latency.get(queue, self.latency.get("*"))


@attrs.define
class Open:
    """Something that has been told and is not over; or a task's failures that are not told yet."""

    since: int
    told_at: int = 0
    last_at: int = 0  # of a task: its newest failure
    count: int = 0  # failures that have not been told
    jobs: list[str] = attrs.Factory(list)  # some of them
    error_types: list[str] = attrs.Factory(list)


@attrs.define
class Memory:
    """What is kept between two looks, whichever servers take them."""

    looked_at: int = 0
    failures_until: int = 0
    seen: dict[str, str] = attrs.Factory(dict)  # late jobs that no limit held then, by queue
    open: dict[str, Open] = attrs.Factory(dict)  # by event and subject: "failed shop.charge"
    more: dict[str, Any] = attrs.Factory(dict)  # fields of a newer release; kept as they are

    @classmethod
    def read(cls, text: str | None) -> Memory:
        """Return what was kept; nothing where that cannot be read."""
        try:
            kept = json.loads(text or "{}")
            opened = {name: _known_of(Open, each) for name, each in kept.pop("open", {}).items()}
            known = {name: kept.pop(name) for name in ("looked_at", "failures_until", "seen") if name in kept}
            return cls(**known, open=opened, more=kept)
        except (TypeError, ValueError, AttributeError):
            return cls()

    def write(self) -> str:
        """Return the text to keep."""
        fields = attrs.asdict(self)
        return json.dumps(fields.pop("more") | fields)


def _known_of(kind: type[Open], fields: dict[str, Any]) -> Open:
    return kind(**{name: fields[name] for name in attrs.fields_dict(kind) if name in fields})


def look(
    app: Firelock, memory: Memory, now: int, limits: Thresholds, *, task: str, is_first: bool
) -> list[dict[str, JsonValue]]:
    """Return what is new since the last look, as events; the memory is brought up to date.

    Args:
        app: whose storage is looked at.
        memory: of the last look, which is changed.
        now: micros of the storage's clock.
        limits: what is too long.
        task: that delivers webhooks; its own failures are none of these events.
        is_first: nobody has looked before; what is long over is not told.
    """
    watch = _Watch(app, memory, now, limits)
    events = [*watch.failures(task, is_first=is_first), *watch.latencies()]
    return [*events, *watch.missed(), *watch.lost_servers(is_first=is_first)]


@attrs.frozen
class _Watch:
    app: Firelock
    memory: Memory
    now: int
    limits: Thresholds

    # ---- failures ----------------------------------------------------------------------------------------

    def failures(self, own_task: str, *, is_first: bool) -> Iterator[dict[str, JsonValue]]:
        """Yield an event for each task with new failures, one in `quiet`, and for each that runs again.

        Likewise for failed batches of a name.
        """
        until = self.now - _LAG
        since = until if is_first else min(self.memory.failures_until, until)
        self.memory.failures_until = until
        for job in self._failed(since, until):
            if job.task != own_task:
                self._note(job)
        for name, opened in self._opened(Event.FAILED):
            if opened.count and self.now - opened.told_at >= _micros(self.limits.quiet):
                yield self._failed_event(name, opened)
            elif not opened.count and self._has_succeeded(name, opened.last_at):
                yield self._failed_no_more(name)
            elif self.now - opened.last_at > _FORGOTTEN:  # a task that is run no more
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
            if job.ties is not None and job.ties.batch_id is not None:  # the batch around it fails as well
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
        opened.told_at, opened.count = self.now, 0
        opened.jobs.clear()
        opened.error_types.clear()
        if subject.startswith(_BATCH):
            return self._failed_batches(subject, count, jobs)
        some = "A job" if count == 1 else f"{count:,} jobs"
        told = f" ({', '.join(kinds)})" if kinds else ""
        return self._event(
            Event.FAILED, subject, f"{some} of {subject} failed{told}.",
            {"task": subject, "count": count, "jobs": [*jobs], "error_types": [*kinds]},
        )  # fmt: skip

    def _failed_batches(self, subject: str, count: int, jobs: Sequence[str]) -> dict[str, JsonValue]:
        """Return the event of batches of a name; of a single one it says how many of its members failed."""
        name = subject.removeprefix(_BATCH)
        fields: dict[str, JsonValue] = {"batch": name, "count": count, "jobs": [*jobs]}
        text = f"{count:,} batches {name!r} failed."
        if count == 1:
            tally = self.app.storage.tally(jobs)[0]  # as it is by now, and None where somebody removed it
            of = f": {tally.failed:,} of {tally.total:,}" if tally is not None and tally.failed else ""
            text = f"Batch {name!r} failed{of}."
            if tally is not None:
                fields |= {"failed": tally.failed, "total": tally.total}
        return self._event(Event.FAILED, subject, text, fields)

    def _has_succeeded(self, subject: str, after: int) -> bool:
        if not subject.startswith(_BATCH):
            where = JobFilter(state=State.SUCCEEDED, task=subject, since=after + 1)
            return bool(self.app.storage.find(where, limit=1).jobs)
        where = JobFilter(state=State.SUCCEEDED, task=BATCH_TASK, since=after + 1)
        name = subject.removeprefix(_BATCH)
        return any(_batch_name(job) == name for job in self.app.storage.find(where, limit=_PAGE).jobs)

    def _failed_no_more(self, subject: str) -> dict[str, JsonValue]:
        if not subject.startswith(_BATCH):
            return self._over(Event.FAILED, subject, {"task": subject})
        name = subject.removeprefix(_BATCH)
        text = f"Batch {name!r}: one of the name has succeeded since it failed."
        return self._over(Event.FAILED, subject, {"batch": name}, text)

    # ---- queues, recurring jobs, servers -----------------------------------------------------------------

    def latencies(self) -> Iterator[dict[str, JsonValue]]:
        """Yield an event for each queue whose first job waits too long, and for each where none does now.

        What a limit holds waits for no worker, so the first job that none holds counts.
        """
        waits = self._long_waits()

        def told(queue: str) -> tuple[str, dict[str, JsonValue]]:
            wait, held = waits[queue]
            seconds = wait // _SECOND
            fields: dict[str, JsonValue] = {"queue": queue, "seconds": seconds}
            text = f"The first job of queue {queue} waits for {timedelta(seconds=seconds)}."
            if held:
                text = (
                    f"The first job of queue {queue} that no limit holds waits for "
                    f"{timedelta(seconds=seconds)}; limits hold {held} before it."
                )
                fields["held"] = held
            return text, fields

        yield from self._compare(Event.QUEUE_LATENCY, waits, told, lambda queue: {"queue": queue})

    def _long_waits(self) -> dict[str, tuple[int, int]]:
        """Return, by queue, the wait of the first job that no limit holds, and how many are held before it.

        A key is open between the end of one job and the start of the next, so a job that has limits counts
        when it is the first at two looks.
        """
        heads = self._heads()
        held = held_heads(self.app.storage, heads.values(), self.now)
        waits: dict[str, tuple[int, int]] = {}
        former, self.memory.seen = self.memory.seen, {}
        for queue, head in heads.items():
            behind = held.get(queue)
            job = head if behind is None else behind.first
            limit = self.limits.latency_of(queue)
            if job is None or limit is None or self.now - job.changed_at <= _micros(limit):
                continue
            if job.admission is not None and job.admission.limits:
                self.memory.seen[queue] = job.id
                if former.get(queue) != job.id:
                    continue
            waits[queue] = (self.now - job.changed_at, 0 if behind is None else behind.count)
        return waits

    def _heads(self) -> dict[str, JobRecord]:
        heads: dict[str, JobRecord] = {}
        for queue in self._waiting():
            where = JobFilter(state=State.ENQUEUED, queue=queue.name)
            page = self.app.storage.find(where, limit=1, oldest_first=True)
            heads.update((queue.name, job) for job in page.jobs)
        return heads

    def _waiting(self) -> list[QueueView]:
        waiting = [
            queue
            for queue in self.app.queues.list()
            if queue.enqueued and not queue.is_paused and queue.name not in self.limits.left_out
        ]
        return sorted(waiting, key=lambda queue: -queue.enqueued)[:_MOST_QUEUES]

    def missed(self) -> Iterator[dict[str, JsonValue]]:
        """Yield an event for each recurring job that nobody fires in time, and for each that is fired now."""
        margin = _micros(self.limits.margin)
        late = {
            record.key: record.due_at
            for record in self.app.storage.due_records("recurring", _MOST_LATE)
            if record.due_at is not None and self.now - record.due_at > margin
        }

        def told(recurring_id: str) -> tuple[str, dict[str, JsonValue]]:
            due_at = _iso(late[recurring_id])
            text = f"Recurring job {recurring_id} was due at {due_at} and was not fired."
            return text, {"recurring_id": recurring_id, "due_at": due_at}

        yield from self._compare(
            Event.RECURRING_MISSED, late, told, lambda recurring_id: {"recurring_id": recurring_id}
        )

    def lost_servers(self, *, is_first: bool) -> Iterator[dict[str, JsonValue]]:
        """Yield an event for each server that ended without a word; it is told once, and never over."""
        lost = {
            server.id: server.name
            for server in self.app.servers.list()
            if str(server.state_at(self.now)) == "lost"
        }
        for name, _ in self._opened(Event.SERVER_LOST):
            if name not in lost:  # forgotten after a day
                del self.memory.open[f"{Event.SERVER_LOST} {name}"]
        for server_id, server in lost.items():
            if self._opens(Event.SERVER_LOST, server_id) and not is_first:
                text = f"Server {server} is lost: it was killed, or is cut off."
                yield self._event(Event.SERVER_LOST, server_id, text, {"server": server})

    # ---- what is open ------------------------------------------------------------------------------------

    def _opened(self, event: Event) -> list[tuple[str, Open]]:
        prefix = f"{event} "
        return [
            (name.removeprefix(prefix), opened)
            for name, opened in self.memory.open.items()
            if name.startswith(prefix)
        ]

    def _opens(self, event: Event, subject: str) -> bool:
        """Tell whether it is new, and remember it; what has no room is passed over."""
        name = f"{event} {subject}"
        if name in self.memory.open or len(self.memory.open) >= _MOST_OPEN:
            return False
        self.memory.open[name] = Open(self.now, self.now)
        return True

    def _compare(
        self,
        event: Event,
        found: Mapping[str, Any],
        told: Callable[[str], tuple[str, dict[str, JsonValue]]],
        subject: Callable[[str], dict[str, JsonValue]],
    ) -> Iterator[dict[str, JsonValue]]:
        for name, _ in self._opened(event):
            if name not in found:
                yield self._over(event, name, subject(name))
        for name in found:
            if self._opens(event, name):
                text, fields = told(name)
                yield self._event(event, name, text, fields)

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
        told = f"{event} {subject} {self.now}"
        return {
            "id": hashlib.sha256(told.encode()).hexdigest()[:32],
            "event": str(event),
            "at": _iso(self.now),
            "text": text,
            **fields,
        }


_OVER = {
    Event.FAILED: "a job of the task has succeeded since it failed",
    Event.QUEUE_LATENCY: "the queue is fast enough again",
    Event.RECURRING_MISSED: "the recurring job is fired again",
}


def _batch_name(job: JobRecord) -> str | None:
    ties = job.ties
    return None if ties is None or ties.batch is None else ties.batch.name


def _micros(span: timedelta) -> int:
    return int(span.total_seconds() * _SECOND)


def _iso(instant: int) -> str:
    return datetime.fromtimestamp(instant / _SECOND, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
