"""What the demo enqueues, and what becomes of it as the storage tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

import attrs

from firelock.cron import Every
from firelock.retry import Retry
from firelock.storage import JobFilter
from firelock.values import HistoryEntry, JobRecord, LogLine, Progress, State

if TYPE_CHECKING:
    from firelock.app import Firelock
    from firelock.job import Job
    from firelock.storage import Storage

__all__ = ["Act", "Event", "Scene", "Story"]

_RECURRING = "stock-count"
_USUAL_SECONDS = 10.0
_IMAGES = 12
_MOST = 500


@attrs.frozen
class Act:
    """One thing that the demo shows: its kind in the vocabulary, and the jobs that show it."""

    kind: str
    task: str
    jobs: tuple[str, ...]


@attrs.frozen
class Event:
    """Something that happened, at a second of the demo."""

    seconds: float
    word: str  # a state, or "retry" or "log"
    task: str
    text: str


@attrs.frozen
class Scene:
    """What there is to see at one moment."""

    seconds: float
    length: float
    by_state: Mapping[State, int]
    running: Sequence[tuple[JobRecord, Progress | None]]
    events: Sequence[Event]  # those since the last scene
    is_last: bool


class Story:
    """Enqueues the jobs of the demo and follows them."""

    def __init__(self, app: Firelock, seconds: float) -> None:
        self.app = app
        self.length = seconds
        self.acts: list[Act] = []
        self.records: dict[str, JobRecord] = {}
        self._pace = seconds / _USUAL_SECONDS
        self._began_at = self._storage.clock()
        self._every = max(1, round(2 * self._pace))
        self._is_ending = False
        self._seen_steps: dict[str, int] = {}
        self._seen_lines: dict[str, int] = {}

    @property
    def _storage(self) -> Storage:
        return self.app.storage

    # ---- creating ----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Everything is enqueued: from now on this process only looks on."""
        from firelock.cli import demo_app as shop  # noqa: PLC0415 - it makes an app when it is imported

        pace = self._pace
        self._began_at = self._storage.clock()
        self._act("fire-and-forget", [shop.send_receipt.enqueue(order) for order in (1001, 1002, 1003)])
        images = [(number, pace * (0.6 + number % 4 * 0.3)) for number in range(1, _IMAGES + 1)]
        self._act("bulk, one round trip", shop.resize_image.enqueue_many(images))
        report = shop.build_report.enqueue(8, 4 * pace)
        self._act("with progress", [report])
        self._act("continuation of it", [report.then(shop.mail_report, "owner@shop.example")])
        self._act("delayed", [shop.remind_customer.schedule(timedelta(seconds=5 * pace), 1002)])
        patient = Retry.listed([1.2 * pace, 2 * pace], attempts=3, jitter=0)
        self._act("fails, then recovers", [shop.charge_card.using(retry=patient).enqueue(1001, 2)])
        once = Retry.fixed(1.5 * pace, attempts=1, jitter=0)
        self._act("fails for good", [shop.import_prices.using(retry=once).enqueue("prices.csv")])
        shop.count_stock.recur(_RECURRING, Every(timedelta(seconds=self._every)))
        self._act("recurring", [], task="shop.count_stock")

    def _act(self, kind: str, jobs: Sequence[Job[Any]], *, task: str = "") -> None:
        self.acts.append(Act(kind, task or jobs[0].task, tuple(job.id for job in jobs)))

    def end_recurring(self) -> None:
        """Nothing new comes any more."""
        self._storage.remove_recurring(_RECURRING)
        self._is_ending = True

    # ---- following ---------------------------------------------------------------------------------------

    @property
    def is_time_over(self) -> bool:
        """Tell whether the demo has lasted as long as it was asked to."""
        return self._storage.clock() - self._began_at >= self.length * 1_000_000

    @property
    def is_told(self) -> bool:
        """Tell whether nothing new comes and, as of the last look, every job has ended."""
        return self._is_ending and all(record.is_final for record in self.records.values())

    def look(self, *, is_last: bool = False) -> Scene:
        """Return the present scene; what happened since the last one is in its events."""
        records = self._storage.find(JobFilter(), limit=_MOST, oldest_first=True).jobs
        events = [event for record in records for event in self._news_of(record)]
        events = _merged(sorted(events, key=lambda event: event.seconds))
        self.records = {record.id: record for record in records}
        running = [record for record in records if record.state is State.PROCESSING]
        progress = self._storage.get_progress([record.id for record in running]) if running else []
        return Scene(
            (self._storage.clock() - self._began_at) / 1_000_000,
            self.length,
            self._storage.counts().by_state,
            sorted(zip(running, progress, strict=True), key=lambda pair: pair[1] is None),
            events,
            is_last,
        )

    def _news_of(self, record: JobRecord) -> list[Event]:
        former = self.records.get(record.id)
        if former == record and record.state is not State.PROCESSING:
            return []
        steps, lines = self._storage.history(record.id), self._new_lines(record.id)
        seen, self._seen_steps[record.id] = self._seen_steps.get(record.id, 0), len(steps)
        told = [self._step(record, step) for step in steps[seen:]]
        return [*told, *(self._line(record, line) for line in lines)]

    def _new_lines(self, job_id: str) -> list[LogLine]:
        lines = self._storage.read_log(job_id, after=self._seen_lines.get(job_id, 0))
        if lines:
            self._seen_lines[job_id] = lines[-1].number
        return lines

    def _step(self, record: JobRecord, step: HistoryEntry) -> Event:
        is_retry = step.state is State.SCHEDULED and step.attempt is not None
        text = step.reason or ""
        if record.recurring_id is not None and step.state is State.ENQUEUED:
            text = f"recurring, every {self._every} s"
        if step.state is State.SUCCEEDED and step.started_at is not None:
            text = f"run {step.attempt}, {(step.at - step.started_at) / 1_000_000:.2f} s"
        return Event(self._second(step.at), "retry" if is_retry else step.state, record.task, text)

    def _line(self, record: JobRecord, line: LogLine) -> Event:
        return Event(self._second(line.at), "log", record.task, line.text)

    def _second(self, at: int) -> float:
        return max(0.0, (at - self._began_at) / 1_000_000)

    # ---- afterwards --------------------------------------------------------------------------------------

    def jobs_of(self, act: Act) -> list[JobRecord]:
        """Return the jobs that showed it; a recurring one's are all that were made."""
        if act.jobs:
            return [self.records[job_id] for job_id in act.jobs if job_id in self.records]
        return [record for record in self.records.values() if record.recurring_id == _RECURRING]


def _merged(events: Sequence[Event]) -> list[Event]:
    """Return the events with neighbours that say the same of the same task as one."""
    merged: list[Event] = []
    for (word, task, text), alike in groupby(events, key=lambda event: (event.word, event.task, event.text)):
        same = list(alike)
        times = f"× {len(same)}" if len(same) > 1 else ""
        merged.append(Event(same[0].seconds, word, task, " ".join(part for part in (times, text) if part)))
    return merged
