"""An operation as a value, and as the JSON of its record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, cast

import attrs

from firelock.clock import from_micros, micros
from firelock.storage import JobFilter
from firelock.values import FINAL_STATES, JobRecord, State

if TYPE_CHECKING:
    from firelock.storage import Record

__all__ = [
    "FIRST_IDS",
    "Operation",
    "Outcome",
    "Progress",
    "Status",
    "Verb",
    "read_operation",
    "write_operation",
]

FIRST_IDS = 10
_INSTANTS = ("started_at", "updated_at", "ended_at")


class Verb(StrEnum):
    """What is done to the jobs."""

    REQUEUE = "requeue"
    DELETE = "delete"

    @property
    def past(self) -> str:
        """What the jobs are afterwards."""
        return f"{self.value}d"


class Status(StrEnum):
    """How far an operation has come."""

    RUNNING = "running"  # there is something left to do, whether or not somebody does it just now
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


@attrs.frozen
class Progress:
    """What became of the jobs of one page."""

    seen: int
    changed: int
    skipped: int
    missing: int
    ids: tuple[str, ...]  # of those that were changed


@attrs.frozen
class Outcome:
    """What became of the jobs that an operation requeued; a snapshot, kept once all have ended."""

    looked_at: int  # jobs: the first ones, where there were very many
    by_state: Mapping[State, int]  # as they are now; states without jobs are left out
    missing: int = 0  # pruned meanwhile

    @property
    def unended(self) -> int:
        """How many wait or run."""
        return sum(number for state, number in self.by_state.items() if state not in FINAL_STATES)


@attrs.frozen
class Operation:
    """An action on every job that matches, as far as it has come; a snapshot."""

    id: str  # later operations have smaller ids
    verb: Verb
    where: JobFilter  # its `until` is when the operation was started, or earlier
    contains: Mapping[str, str]  # texts wanted in "argument" and "error"; empty for none
    by: str  # who asked for it
    reason: str  # what the jobs' histories say
    started_at: datetime
    updated_at: datetime  # of the last chunk, or the end
    state: Status = Status.RUNNING
    ended_at: datetime | None = None
    cancelled_by: str | None = None
    error: str | None = None  # why it failed
    expected: int | None = None  # matching jobs at the start; None where that would cost a search
    total_seen: int = 0  # jobs looked at; with `contains`, more than were meant
    changed: int = 0
    skipped: int = 0  # not in a state for it, or changed meanwhile
    missing: int = 0  # pruned meanwhile
    first_ids: tuple[str, ...] = ()  # of the first ten that were changed
    cursor: str | None = None  # of the next page
    outcome: Outcome | None = None  # of a requeue, once all have ended and somebody has looked
    fence: int = 0  # of the lock of whom runs it, the last one who did

    @property
    def is_running(self) -> bool:
        """Tell whether there is something left to do."""
        return self.state is Status.RUNNING

    @property
    def is_for_any_state(self) -> bool:
        """Tell whether jobs are changed whatever became of them meanwhile: where nobody asked for a state."""
        return self.verb is Verb.DELETE and self.where.state is None and self.where.is_retrying is None

    def is_run_by(self, fence: int) -> bool:
        """Tell whether there is something left to do, for the holder of this lock."""
        return self.is_running and self.fence == fence

    def taken_over(self, fence: int) -> Operation:
        """Return the operation in the hands of the lock's holder."""
        return attrs.evolve(self, fence=fence) if self.is_running else self

    def is_meant(self, job: JobRecord) -> bool:
        """Tell whether the job holds the texts that are wanted; the filter has been asked before."""
        wanted = {name: text.casefold() for name, text in self.contains.items()}
        if "argument" in wanted and wanted["argument"] not in job.arguments.casefold():
            return False
        if "error" not in wanted:
            return True
        return (
            job.error is not None and wanted["error"] in f"{job.error.type}: {job.error.message}".casefold()
        )

    def advanced(self, progress: Progress, cursor: str | None, at: datetime) -> Operation:
        """Return the operation behind a page; one that was cancelled meanwhile stays so and counts it."""
        return attrs.evolve(
            self,
            updated_at=at,
            total_seen=self.total_seen + progress.seen,
            changed=self.changed + progress.changed,
            skipped=self.skipped + progress.skipped,
            missing=self.missing + progress.missing,
            first_ids=(*self.first_ids, *progress.ids)[:FIRST_IDS],
            cursor=cursor,
        )

    def concluded(self, outcome: Outcome) -> Operation:
        """Return the operation with what became of its jobs; one that is told stays told."""
        return self if self.outcome is not None else attrs.evolve(self, outcome=outcome)

    def ended(
        self, state: Status, at: datetime, *, error: str | None = None, cancelled_by: str | None = None
    ) -> Operation:
        """Return the operation at its end; one that has ended stays as it is."""
        if not self.is_running:
            return self
        return attrs.evolve(
            self, state=state, updated_at=at, ended_at=at, error=error, cancelled_by=cancelled_by
        )


def write_operation(operation: Operation) -> str:
    """Return the JSON of the operation's record."""
    value = attrs.asdict(operation, recurse=False)
    del value["id"]
    value["where"] = {
        name: field for name, field in attrs.asdict(operation.where).items() if field is not None
    }
    for name in _INSTANTS:
        value[name] = None if value[name] is None else micros(value[name])
    if operation.outcome is not None:
        value["outcome"] = attrs.asdict(operation.outcome)
    return json.dumps(value)


def read_operation(record: Record) -> Operation:
    """Return the operation of a record.

    One that this version cannot read, since a newer one wrote it, is shown as failed and says so; its record
    stays as it is.
    """
    value = json.loads(record.value)
    unknown = [f"where.{name}" for name in value["where"].keys() - _names(JobFilter)]
    unknown += value.keys() - _names(Operation)
    for name in _INSTANTS:
        value[name] = None if value[name] is None else from_micros(value[name])
    fields = {name: value[name] for name in _names(Operation) & value.keys()}
    where = {name: field for name, field in value["where"].items() if name in _names(JobFilter)}
    fields |= {
        "id": record.key,
        "verb": Verb(value["verb"]),
        "where": _filter(where),
        "state": Status(value["state"]),
        "first_ids": tuple(value["first_ids"]),
        "outcome": _outcome(value.get("outcome")),
    }
    operation = Operation(**fields)
    return _unreadable(operation, sorted(unknown)) if unknown else operation


def _unreadable(operation: Operation, unknown: list[str]) -> Operation:
    error = (
        f"A newer version of Firelock stored this operation: {', '.join(unknown)} is unknown here. "
        "Upgrade this process, or start it again."
    )
    return operation.ended(Status.FAILED, operation.updated_at, error=error)


def _outcome(value: Mapping[str, Any] | None) -> Outcome | None:
    if value is None:
        return None
    by_state = {State(state): number for state, number in value["by_state"].items()}
    return Outcome(value["looked_at"], by_state, value["missing"])


def _filter(value: Mapping[str, Any]) -> JobFilter:
    where = JobFilter(**value)
    return where if where.state is None else attrs.evolve(where, state=State(where.state))


def _names(kind: type[attrs.AttrsInstance]) -> frozenset[str]:
    return frozenset(cast("Mapping[str, object]", attrs.fields_dict(kind)))
