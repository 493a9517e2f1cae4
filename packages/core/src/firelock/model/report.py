"""Counts, rollups, failures and findings, for display."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum

import attrs

from firelock.model.state import State

# The upper bounds of the duration histogram's buckets, in seconds; a last bucket contains longer durations.
DURATION_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@attrs.frozen
class Counts:
    """The number of jobs in each state and queue; states and queues without jobs can be missing."""

    by_state: Mapping[State, int]
    by_queue: Mapping[str, Mapping[State, int]]


@attrs.frozen
class Rollup:
    """The attempts that ended within one minute, for one task, queue and outcome."""

    minute: int  # start of the minute, in microseconds
    task: str
    queue: str
    outcome: str  # one of: succeeded, failed, deleted, retried or crashed
    count: int
    duration: int  # total duration, in microseconds
    histogram: tuple[int, ...]  # one count per bucket of DURATION_BUCKETS, and one for longer durations


@attrs.frozen
class FailureGroup:
    """Jobs that failed in the same way."""

    fingerprint: str
    type: str
    message: str  # the error message of the newest of these jobs
    task: str
    count: int
    newest_at: int
    sample_id: str


class Severity(StrEnum):
    """The severity of a finding."""

    ERROR = "error"  # jobs do not run, or might be lost
    WARNING = "warning"  # jobs are late or fail, or will do so soon
    NOTE = "note"  # information; nothing fails because of it


@attrs.frozen
class Thresholds:
    """The longest acceptable delays; every longer delay is a finding."""

    latency: Mapping[str, timedelta] = attrs.field(factory=lambda: {"*": timedelta(minutes=10)})
    """The longest wait of the first job of a queue if no limit delays it; "*" applies to all other queues."""
    late: timedelta = timedelta(minutes=2)
    """The longest delay of a recurring job."""

    def latency_of(self, queue: str) -> int | None:
        """Return the longest acceptable wait of a queue's first job, in micros; None for any duration."""
        allowed = self.latency.get(queue, self.latency.get("*"))
        return None if allowed is None else allowed // timedelta(microseconds=1)


@attrs.frozen
class Finding:
    """A problem and its fix."""

    severity: Severity
    code: str  # code of the rule that found the problem; docs/findings.md lists all codes
    what: str  # the problem, in one or two sentences
    advice: str
    subject: str = "storage"  # the subject of the finding: "queue mail", "server web-1"
    values: Mapping[str, object] = attrs.Factory(dict)  # the names and numbers in the sentences
    since: int | None = None  # in microseconds

    @property
    def is_error(self) -> bool:
        """Whether the finding is an error, so that jobs do not run or might be lost."""
        return self.severity is Severity.ERROR

    def answer(self) -> dict[str, object]:
        """Return the finding as values that JSON can represent, for programs."""
        return {**attrs.asdict(self), "severity": self.severity.value}
