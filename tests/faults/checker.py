"""A comparison of the ledger with the storage: lost, stuck and repeated jobs, and the causes of repeats."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import attrs

from firelock.model.lifecycle import ALLOWED
from firelock.model.state import FINAL_STATES, State

_PAGE = 500
_DYING = 0.005  # seconds in which a killed process may still act


@attrs.frozen
class Recovery:
    """A run that a kill interrupted: its job, and the seconds until the job started again."""

    job: str
    seconds: float


@attrs.frozen
class Report:
    """The figures of one scenario."""

    jobs: int
    lost: int  # acknowledged but not stored, or succeeded without a run
    stuck: int  # not ended
    failed: int
    repeats: int  # starts of a job after its first start
    unexplained: int  # repeats after a run whose process was neither killed nor frozen
    kills: int
    illegal: int  # histories with a step that is not allowed
    recoveries: tuple[Recovery, ...]
    unwritten: tuple[float, ...]  # the ages in seconds of ends that were not written because of a kill

    @property
    def recovery(self):
        """Return the seconds until each interrupted job ran again."""
        return [one.seconds for one in self.recoveries]

    def lines(self):
        """Return the figures as lines of text."""
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
            f"ends lost before they were stored {len(self.unwritten)}, the oldest {oldest:.0f} ms old",
        ]

    @property
    def brief(self):
        """The main figures in one line."""
        return (
            f"jobs {self.jobs}, lost {self.lost}, stuck {self.stuck}, "
            f"repeats {self.repeats}, unexplained {self.unexplained}"
        )

    def assert_well(self, *, repeats="explained", loses=False):
        """Assert that no job is lost, stuck or failed, and that each repeat has a cause.

        With repeats="none", there must not be any repeat. With repeats="any", no cause is required. A storage
        that `loses` acknowledged data may lose jobs and steps of their histories.
        """
        assert loses or self.lost == self.illegal == 0, self.lines()
        assert repeats == "any" or self.unexplained == 0, self.lines()
        assert repeats != "none" or self.repeats == 0, self.lines()
        assert self.stuck == self.failed == 0, self.lines()


def quantiles(durations):
    """Return the median, 99th percentile and maximum; zeros if there are no values."""
    if not durations:
        return 0.0, 0.0, 0.0
    ordered = sorted(durations)
    return ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)], ordered[-1]


def check(app, acknowledged, events):
    """Return the report on the jobs that were acknowledged to their clients."""
    records = {one.id: one for one in stored(app.storage, acknowledged) if one is not None}
    starts = defaultdict(list)
    for event in events:
        if event.what == "start":
            starts[event.job].append(event)
    cut_off = list(_cut_off(events, starts, _noted(events, "kill", "freeze")))
    deaths = _deaths(events)
    repeats = [(before, after) for runs in starts.values() for before, after in pairwise(runs)]
    unexplained = [before for before, after in repeats if not _is_explained(before, after, deaths)]
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
        recoveries=tuple(
            Recovery(before.job, after.at - death) for before, at, death, after in cut_off if at is None
        ),
        unwritten=tuple(death - at for _, at, death, _ in cut_off if at is not None),
    )


def _deaths(events):
    """Return the start and end of each death or freeze, by process."""
    killed, died = _noted(events, "kill"), _noted(events, "died")
    deaths = defaultdict(list)
    for pid, times in _noted(events, "freeze").items():
        deaths[pid] += [(at, at) for at in times]
    for pid, times in killed.items():
        deaths[pid].append((min(times), max([*times, *died.get(pid, ())])))
    return deaths


def _is_explained(before, after, deaths):
    """Return whether a run's process, or its parent process, died or froze between two starts.

    The parent of a job process is a worker process. The job process may have ended normally while the worker
    process still had to store the end of the job. A dying process may still act while other processes already
    run its jobs.
    """
    periods = [*deaths.get(before.pid, ()), *deaths.get(before.parent, ())]
    return any(begun <= after.at and before.at - _DYING <= over for begun, over in periods)


def stored(storage, ids):
    """Return the stored jobs in order, with None for a missing job."""
    ids = list(ids)
    pages = (storage.get(ids[start : start + _PAGE]) for start in range(0, len(ids), _PAGE))
    return [record for page in pages for record in page]


def late_ends(events):
    """Return the ends of runs whose job had been claimed again before."""
    newest, late = {}, []
    for event in events:
        if event.what == "start":
            newest[event.job] = event.fence
        elif event.what == "end" and event.fence < newest.get(event.job, 0):
            late.append(event)
    return late


def _noted(events, *whats):
    """Return the times of these events by process; the note of an event contains the process ids.

    A process that dies together with another process may act for some time after the event. "died" marks the
    end of this time.
    """
    noted = defaultdict(list)
    for event in events:
        if event.what in whats:
            for pid in event.note.split(","):
                noted[int(pid)].append(event.at)
    return noted


def _cut_off(events, starts, killed):
    """For each repeat, yield the end of the earlier run, the death of its process, and the next start.

    The end of the run and the death may be missing.
    """
    ended = {(event.job, event.pid, event.fence): event.at for event in events if event.what == "end"}
    for before, after in (pair for runs in starts.values() for pair in pairwise(runs)):
        at = ended.get((before.job, before.pid, before.fence))
        since = before.at - _DYING if at is None else at
        deaths = [one for one in killed.get(before.pid, ()) if one >= since]
        if deaths:
            yield before, at, min(deaths), after


def is_legal(app, job_id):
    """Return whether each step of a job's history may follow the previous step."""
    return is_legal_history(app.storage.history(job_id).entries)


def is_legal_history(history):
    """Return whether each step may follow the previous step; a claim has no entry of its own."""
    for before, after in pairwise(history):
        via_claim = before.state is State.ENQUEUED and after.state in ALLOWED[State.PROCESSING]
        if after.state not in ALLOWED[before.state] and not via_claim and not after.elided:
            return False
    return True
