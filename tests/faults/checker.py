"""Joins the ledger with the storage: what was lost, stuck or repeated, and whether repeats have causes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from itertools import pairwise

import attrs

from firelock import Firelock
from firelock.lifecycle import ALLOWED
from firelock.values import FINAL_STATES, HistoryEntry, JobRecord, State
from tests.faults.ledger import Event

__all__ = ["Report", "check", "is_legal", "quantiles"]

_PAGE = 500
_DYING = 0.005  # seconds that a killed process may still be seen to act


@attrs.frozen
class Recovery:
    """A run that a kill interrupted: which job's, and the seconds until the job started again."""

    job: str
    seconds: float


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
    recoveries: tuple[Recovery, ...]
    unwritten: tuple[
        float, ...
    ]  # how old the ends were that a kill took before they were written, in seconds

    @property
    def recovery(self) -> list[float]:
        """Return how long each interrupted job took to run again."""
        return [one.seconds for one in self.recoveries]

    def lines(self) -> list[str]:
        """Return the figures for people."""
        p50, p99, most = quantiles(self.recovery)
        shown = (
            f"p50 {p50:.2f} s, p99 {p99:.2f} s, max {most:.2f} s of {len(self.recovery)}"
            if self.recovery
            else "none interrupted"
        )
        oldest = max(self.unwritten, default=0) * 1e3
        return [
            f"jobs {self.jobs}, kills {self.kills}",
            f"lost {self.lost}, stuck {self.stuck}, failed {self.failed}, illegal histories {self.illegal}",
            f"repeats {self.repeats}, unexplained {self.unexplained}",
            f"recovery {shown}",
            f"ends lost before they were written {len(self.unwritten)}, the oldest {oldest:.0f} ms old",
        ]

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing was lost, stuck, illegal or repeated without a cause."""
        return not (self.lost or self.stuck or self.unexplained or self.illegal)


def quantiles(spans: Collection[float]) -> tuple[float, float, float]:
    """Return median, 99th percentile and maximum; zeros of nothing."""
    if not spans:
        return 0.0, 0.0, 0.0
    ordered = sorted(spans)
    return ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)], ordered[-1]


def check(app: Firelock, acknowledged: Collection[str], events: Sequence[Event]) -> Report:
    """Return the report on the jobs that were acknowledged to their clients."""
    records = _records(app, list(acknowledged))
    starts: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.what == "start":
            starts[event.job].append(event)
    killed = _noted(events, "kill", "freeze")
    gone = _noted(events, "kill", "freeze", "gone")
    repeats = [(before, after) for runs in starts.values() for before, after in pairwise(runs)]
    unexplained = [before for before, after in repeats if not _is_explained(before, after, gone)]
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
        illegal=sum(not is_legal(app, record.id) for record in records.values() if starts[record.id][1:]),
        recoveries=tuple(_recoveries(events, starts, killed)),
        unwritten=tuple(_unwritten(events, starts, killed)),
    )


def _is_explained(before: Event, after: Event, gone: dict[int, list[float]]) -> bool:
    """Tell whether the run's process, or the child that had it run apart, died or froze between two starts.

    A process of its own may have ended in order, with its job's end still on the way through the child.
    """
    deaths = [*gone.get(before.pid, ()), *gone.get(before.parent, ())]
    return any(before.at - _DYING <= at <= after.at for at in deaths)


def _records(app: Firelock, ids: list[str]) -> dict[str, JobRecord]:
    found: dict[str, JobRecord] = {}
    for start in range(0, len(ids), _PAGE):
        page = app.storage.get(ids[start : start + _PAGE])
        found.update((record.id, record) for record in page if record is not None)
    return found


def _noted(events: Sequence[Event], *whats: str) -> dict[int, list[float]]:
    """Return when such events befell each process; the note of one lists the process ids.

    Who dies with another may act a while after it: "gone" says that this is over.
    """
    noted: defaultdict[int, list[float]] = defaultdict(list)
    for event in events:
        if event.what in whats:
            for pid in event.note.split(","):
                noted[int(pid)].append(event.at)
    return noted


def _recoveries(
    events: Sequence[Event], starts: dict[str, list[Event]], killed: dict[int, list[float]]
) -> list[Recovery]:
    """Return for each interrupted run the time from its process's death to the job's next start."""
    ended = {(event.job, event.pid, event.fence) for event in events if event.what == "end"}
    spans = []
    for runs in starts.values():
        for before, after in pairwise(runs):
            deaths = [at for at in killed.get(before.pid, ()) if at >= before.at - _DYING]
            if deaths and (before.job, before.pid, before.fence) not in ended:
                spans.append(Recovery(before.job, after.at - min(deaths)))
    return spans


def _unwritten(
    events: Sequence[Event], starts: dict[str, list[Event]], killed: dict[int, list[float]]
) -> list[float]:
    """Return for each run that had ended and was repeated how long before its process's death it had."""
    ended = {(event.job, event.pid, event.fence): event.at for event in events if event.what == "end"}
    spans = []
    for runs in starts.values():
        for before, _ in pairwise(runs):
            at = ended.get((before.job, before.pid, before.fence))
            deaths = [one for one in killed.get(before.pid, ()) if at is not None and one >= at]
            if at is not None and deaths:
                spans.append(min(deaths) - at)
    return spans


def is_legal(app: Firelock, job_id: str) -> bool:
    """Tell whether each step of a job's history may follow the one before."""
    return is_legal_history(app.storage.history(job_id).entries)


def is_legal_history(history: Sequence[HistoryEntry]) -> bool:
    """Tell whether each step may follow the one before; a claim leaves no entry of its own."""
    for before, after in pairwise(history):
        via_claim = before.state is State.ENQUEUED and after.state in ALLOWED[State.PROCESSING]
        if after.state not in ALLOWED[before.state] and not via_claim and not after.elided:
            return False
    return True
