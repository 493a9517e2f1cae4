"""Counts, rollups and failures, as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum

import attrs

from firelock.model.state import State

# Upper bounds of the duration histogram's buckets, in seconds; a last bucket holds what is longer.
DURATION_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@attrs.frozen
class Counts:
    """How many jobs are in each state; states and queues without jobs may be left out."""

    by_state: Mapping[State, int]
    by_queue: Mapping[str, Mapping[State, int]]


@attrs.frozen
class Rollup:
    """What ended within one minute, for one task, queue and outcome."""

    minute: int  # micros of the minute's start
    task: str
    queue: str
    outcome: str  # succeeded, failed, deleted, retried, crashed
    count: int
    duration: int  # sum, in micros
    histogram: tuple[int, ...]  # one count a bucket of DURATION_BUCKETS, and one for what is longer


@attrs.frozen
class FailureGroup:
    """Failed jobs that failed alike."""

    fingerprint: str
    type: str
    message: str  # of the newest of them
    task: str
    count: int
    newest_at: int
    sample_id: str


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"  # jobs do not run, or might be lost
    WARNING = "warning"  # jobs are late or fail, or will soon
    NOTE = "note"  # worth knowing; nothing fails because of it


@attrs.frozen
class Thresholds:
    """From when on a wait is too long, for everything that shows the findings of an app."""

    latency: Mapping[str, timedelta] = attrs.field(factory=lambda: {"*": timedelta(minutes=10)})
    """How long the first job of a queue that no limit holds may wait; "*" is for the other queues."""
    late: timedelta = timedelta(minutes=2)
    """How late a recurring job may be fired."""

    def latency_of(self, queue: str) -> int | None:
        """Return the microseconds that the first job of a queue may wait; None for any time."""
        allowed = self.latency.get(queue, self.latency.get("*"))
        return None if allowed is None else allowed // timedelta(microseconds=1)


@attrs.frozen
class Finding:
    """Something that is wrong, and how to fix it."""

    severity: Severity
    code: str  # of the rule that found it: docs/findings.md lists all of them
    what: str  # one or two sentences
    advice: str
    subject: str = "storage"  # what it is about: "queue mail", "server web-1"
    values: Mapping[str, object] = attrs.Factory(dict)  # the names and numbers of the sentences
    since: int | None = None  # micros

    @property
    def is_error(self) -> bool:
        """Whether something does not work."""
        return self.severity is Severity.ERROR

    def answer(self) -> dict[str, object]:
        """Return it for programs, as JSON can hold it."""
        return {**attrs.asdict(self), "severity": self.severity.value}
