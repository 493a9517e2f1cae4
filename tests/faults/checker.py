"""Joins the ledger with the storage: what was lost, stuck or repeated, and whether repeats have causes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from itertools import pairwise

import attrs

from firelock import Firelock
from firelock.job import FINAL_STATES, JobRecord, State
from firelock.lifecycle import ALLOWED
from tests.faults.ledger import Event

__all__ = ["Report", "check"]

_PAGE = 500


@attrs.frozen
class Report:
    """The figures of one scenario."""

    jobs: int
    lost: int  # acknowledged and not stored, or never run though succeeded
    stuck: int  # not ended
    failed: int
    repeats: int  # starts beyond a job's first
    unexplained: int  # repeats after a run whose process was neither killed nor frozen
    kills: int
    illegal: int  # histories that follow no legal path
    recovery: tuple[float, ...]  # seconds from a kill to the next start of each job it interrupted

    def lines(self) -> list[str]:
        """Return the figures for people."""
        spans = sorted(self.recovery)
        shown = (
            f"p50 {spans[len(spans) // 2]:.2f} s, p99 {spans[int(len(spans) * 0.99)]:.2f} s, "
            f"max {spans[-1]:.2f} s of {len(spans)}"
            if spans
            else "none interrupted"
        )
        return [
            f"jobs {self.jobs}, kills {self.kills}",
            f"lost {self.lost}, stuck {self.stuck}, failed {self.failed}, illegal histories {self.illegal}",
            f"repeats {self.repeats}, unexplained {self.unexplained}",
            f"recovery {shown}",
        ]

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing was lost, stuck, illegal or repeated without a cause."""
        return not (self.lost or self.stuck or self.unexplained or self.illegal)


def check(app: Firelock, acknowledged: Collection[str], events: Sequence[Event]) -> Report:
    """Return the report on the jobs that were acknowledged to their clients."""
    records = _records(app, list(acknowledged))
    starts: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.what == "start":
            starts[event.job].append(event)
    killed = _killed(events)
    repeats = [(before, after) for runs in starts.values() for before, after in pairwise(runs)]
    unexplained = [
        1 for before, _ in repeats if not any(at >= before.at for at in killed.get(before.pid, ()))
    ]
    never_ran = [
        record for record in records.values() if record.state is State.SUCCEEDED and not starts[record.id]
    ]
    return Report(
        jobs=len(acknowledged),
        lost=len(acknowledged) - len(records) + len(never_ran),
        stuck=sum(record.state not in FINAL_STATES for record in records.values()),
        failed=sum(record.state is State.FAILED for record in records.values()),
        repeats=len(repeats),
        unexplained=len(unexplained),
        kills=sum(event.what == "kill" for event in events),
        illegal=sum(not _is_legal(app, record) for record in records.values() if starts[record.id][1:]),
        recovery=tuple(_recovery(events, starts, killed)),
    )


def _records(app: Firelock, ids: list[str]) -> dict[str, JobRecord]:
    found: dict[str, JobRecord] = {}
    for start in range(0, len(ids), _PAGE):
        page = app.storage.get(ids[start : start + _PAGE])
        found.update((record.id, record) for record in page if record is not None)
    return found


def _killed(events: Sequence[Event]) -> dict[int, list[float]]:
    """Return when each process was killed or frozen; the note of such an event lists the process ids."""
    killed: defaultdict[int, list[float]] = defaultdict(list)
    for event in events:
        if event.what in {"kill", "freeze"}:
            for pid in event.note.split(","):
                killed[int(pid)].append(event.at)
    return killed


def _recovery(
    events: Sequence[Event], starts: dict[str, list[Event]], killed: dict[int, list[float]]
) -> list[float]:
    """Return for each interrupted run the time from its process's death to the job's next start."""
    ended = {(event.job, event.pid, event.fence) for event in events if event.what == "end"}
    spans = []
    for runs in starts.values():
        for before, after in pairwise(runs):
            deaths = [at for at in killed.get(before.pid, ()) if at >= before.at]
            if deaths and (before.job, before.pid, before.fence) not in ended:
                spans.append(after.at - min(deaths))
    return spans


def _is_legal(app: Firelock, record: JobRecord) -> bool:
    """Tell whether each step of a history may follow the one before; a claim leaves no entry of its own."""
    steps = [entry.state for entry in app.storage.history(record.id)]
    for before, after in pairwise(steps):
        via_claim = before is State.ENQUEUED and after in ALLOWED[State.PROCESSING]
        if after not in ALLOWED[before] and not via_claim:
            return False
    return True
