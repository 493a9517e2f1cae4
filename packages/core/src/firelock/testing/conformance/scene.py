"""A storage with jobs and sessions, so that the kit's tests can arrange a situation in one line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from itertools import count
from typing import TYPE_CHECKING

import attrs

from firelock.model import lifecycle
from firelock.model.clock import SECOND, micros
from firelock.model.dependencies import Edge, On
from firelock.model.ids import derived_id
from firelock.model.job import (
    ClaimedJob,
    ErrorInfo,
    FailedAttempt,
    HistoryEntry,
    JobRecord,
    Move,
    NewJob,
    Transition,
)
from firelock.model.limit import Admission, LimitUse, UniqueUse, write_admission
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.storage import (
    Applied,
    ClaimRequest,
    Exchange,
    Feature,
    HeldClaim,
    JobFilter,
    NewSession,
    Promotion,
    Reconciliation,
    Storage,
    Taken,
)
from firelock.testing.conformance.race import is_hanging, returned
from firelock.testing.movable_clock import movable

if TYPE_CHECKING:
    from firelock.plugins.loader import Plugins

BASE = micros(datetime(2030, 1, 1, tzinfo=UTC))
"""The time of a storage's clock when a test begins."""

STAMP = micros(datetime(2020, 1, 1, tzinfo=UTC))
"""The first time of the callers' clocks, ten years behind, so that a storage that decides by them fails."""

HOUR = 3_600 * SECOND
DAY = 24 * HOUR


def opener(url: str) -> Callable[[], Storage]:
    """Return a function that opens another handle of the storage at this URL, as an app would."""
    return partial(_plugins().open_storage, url)


@cache
def _plugins() -> Plugins:
    """Return the installed plugins, which are the same for all tests of a process."""
    from firelock.plugins.loader import Plugins

    return Plugins()


class Handles:
    """All handles that a test has opened; the first one has emptied the store.

    The storage's clock is at `BASE` when the test begins, and then runs normally. `advance` moves it for all
    handles. Tests use hours for "later", so a slow machine makes no difference.
    """

    def __init__(self, open_handle: Callable[[], Storage]) -> None:
        self._open_handle = open_handle
        self._opened: list[Storage] = []
        self._offset = 0
        assert not is_hanging(), "A call of an earlier test still hangs, so this test was not run."
        self.first = self._open()
        returned(self.first.clear)
        self._offset = BASE - self.first.clock()
        movable(self.first).clock_offset = self._offset

    def _open(self) -> Storage:
        handle = self._open_handle()
        movable(handle).clock_offset = self._offset
        self._opened.append(handle)
        return handle

    def open(self) -> Storage:
        """Return another handle of the same store, or the first one if the storage cannot be shared."""
        return self._open() if Feature.SHARED in self.first.features else self.first

    def reopen(self) -> Storage:
        """Close every handle; return a new one of the same store."""
        self.close()
        self.first = self._open()
        return self.first

    def advance(self, seconds: float) -> None:
        """Move the clock of every handle forward."""
        self._offset += int(seconds * SECOND)
        for handle in self._opened:
            movable(handle).clock_offset = self._offset

    def close(self) -> None:
        """Close every handle, unless a call hangs, because closing its handle could wait for the call."""
        for handle in self._opened if not is_hanging() else ():
            handle.close()
        self._opened.clear()


LONG = 10_000_000.0
"""A session timeout in seconds that no test reaches by chance."""


_PAGES_LIMIT = 300  # more pages than any test needs; a longer list must be repeating its pages


def error_info(fingerprint: str = "boom", **changes: str | None) -> ErrorInfo:
    """Return the stored form of a failure."""
    fields = {"type": "builtins.ValueError", "message": "boom", "traceback": "Traceback: boom", **changes}
    return ErrorInfo(fingerprint=fingerprint, **fields)  # type: ignore[arg-type]


@attrs.frozen
class Running:
    """A job that a session has claimed."""

    job: ClaimedJob
    holder: ClaimHolder

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id


def pages(
    storage: Storage, where: JobFilter, limit: int, *, oldest_first: bool = False
) -> list[list[JobRecord]]:
    """Return all pages of a list; the last page has no cursor.

    Raises: AssertionError: If the list did not end within a few hundred pages, or a page was longer than
    requested.
    """
    found: list[list[JobRecord]] = []
    cursor: str | None = None
    for _ in range(_PAGES_LIMIT):
        page = storage.find(where, limit=limit, cursor=cursor, oldest_first=oldest_first)
        assert len(page.jobs) <= limit, f"a page of {limit} has {len(page.jobs)} jobs"
        found.append(page.jobs)
        cursor = page.cursor
        if cursor is None:
            return found
    raise AssertionError(
        f"the list has not ended after {_PAGES_LIMIT} pages of {limit}; the last cursor is {cursor!r}"
    )


class Scene:
    """One storage with its callers.

    The callers' times come from `stamp()`. Each call of `stamp()` adds a second; the times are years behind
    the storage's clock.
    """

    def __init__(self, handles: Handles) -> None:
        self.handles = handles
        self.storage: Storage = handles.first
        self._stamps = count(STAMP, SECOND)

    def stamp(self) -> int:
        """Return the next time of the callers' clock."""
        return next(self._stamps)

    def now(self) -> int:
        """Return the time of the storage's clock."""
        return self.storage.clock()

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.handles.advance(seconds)

    def open(self, number: int = 2) -> list[Storage]:
        """Return this number of additional handles of the store."""
        return [self.handles.open() for _ in range(number)]

    # ---- jobs --------------------------------------------------------------------------------------------

    def new_id(self) -> str:
        """Return an id that no job has."""
        return self.storage.new_ids(1)[0]

    def new_job(self, **fields: object) -> NewJob:
        """Return an enqueued job of the default queue, with these fields changed.

        Its id is in the partition of its parents, of the keys of its `admission`, or of the key
        `colocate_with`.
        """
        parents, colocate_with = fields.get("parents"), fields.pop("colocate_with", None)
        if isinstance(parents, tuple) and parents:
            colocate_with = parents[0].parent_id
        admission = fields.pop("admission", None)
        if isinstance(admission, Admission):
            colocate_with = colocate_with or _key_of(admission)
            fields["admission_json"] = write_admission(admission)
        id = self.storage.new_ids(1, colocate_with if isinstance(colocate_with, str) else None)[0]
        if recurring_id := fields.get("recurring_id"):  # the job's id is derived from the recurring job's id
            id = derived_id(str(recurring_id), id)
        job = NewJob(id, "tasks.run", "[]", "json", "default", 0, State.ENQUEUED, self.stamp())
        return attrs.evolve(job, **fields)  # type: ignore[arg-type]

    def add(self, **fields: object) -> str:
        """Store one job; return its id."""
        job = self.new_job(**fields)
        self.storage.insert([job])
        return job.id

    def add_many(self, number: int, **fields: object) -> list[str]:
        """Store this number of jobs in one call; return their ids in order."""
        jobs = [self.new_job(**fields) for _ in range(number)]
        self.storage.insert(jobs)
        return [job.id for job in jobs]

    def schedule(self, in_seconds: float, **fields: object) -> str:
        """Store a job that is due in this number of seconds by the storage's clock; return its id."""
        due_at = self.now() + int(in_seconds * SECOND)
        return self.add(**{"state": State.SCHEDULED, "due_at": due_at, "nominal_at": due_at, **fields})

    def continuation(self, *parents: str, on: On = On.SUCCEEDED, **fields: object) -> str:
        """Store a job that waits for the parents; return its id."""
        edges = tuple(Edge(parent, on) for parent in parents)
        return self.add(**{"state": State.AWAITING, "parents": edges, **fields})

    def record(self, job_id: str) -> JobRecord:
        """Return the stored job, which must exist."""
        (record,) = self.storage.get([job_id])
        assert record is not None, f"job {job_id} is not stored"
        return record

    def check(self, job_id: str, **expected: object) -> None:
        """Check that the job is stored with these fields."""
        record = self.record(job_id)
        assert expected == {name: getattr(record, name) for name in expected}

    def by_state(self) -> dict[State, int]:
        """Return the number of jobs in each state, omitting states without jobs."""
        return {state: number for state, number in self.storage.counts().by_state.items() if number}

    def found(self, where: JobFilter, *, limit: int = 100, oldest_first: bool = False) -> list[str]:
        """Return the ids of all jobs in the list.

        Pages may be short if the storage has to search for rare jobs.
        """
        walked = pages(self.storage, where, limit, oldest_first=oldest_first)
        return [job.id for page in walked for job in page]

    def state(self, job_id: str) -> State:
        """Return the job's state."""
        return self.record(job_id).state

    def states(self, *job_ids: str) -> list[State]:
        """Return the states of the jobs, each of which must exist."""
        return [self.state(job_id) for job_id in job_ids]

    def last_entry(self, job_id: str) -> HistoryEntry:
        """Return the newest entry of the job's history."""
        return self.history(job_id)[-1]

    def history(self, job_id: str) -> list[HistoryEntry]:
        """Return the entries of the job's history."""
        return self.storage.history(job_id).entries

    def errors(self, job_id: str) -> list[FailedAttempt]:
        """Return the job's failed attempts."""
        return self.storage.history(job_id).errors

    def kept(self, kind: str, key: str) -> tuple[str, int]:
        """Return the value and version of a record, which must exist."""
        record = self.storage.get_record(kind, key)
        assert record is not None, f"record {key} of kind {kind} is not stored"
        return record.value, record.version

    # ---- limits ------------------------------------------------------------------------------------------

    def set_limit(self, name: str, **settings: int | None) -> None:
        """Store the settings of a key, or of all keys of a name; `per` is in micros, `paused` is 0 or 1."""
        stored: dict[str, object] = {
            "concurrent": None,
            "rate": None,
            "per": SECOND,
            "burst": None,
            **settings,
        }
        stored |= {"paused": bool(stored.get("paused")), "note": "by a test", "by": "operator"}
        self.storage.put_record("limit", name, json.dumps(stored))

    def add_limited(self, number: int, *uses: str | LimitUse, **fields: object) -> list[str]:
        """Store this number of jobs that hold these keys while they run; return their ids in order."""
        late = {name: fields.pop(name, None) for name in ("start_before", "start_within")}
        admission = asks(*uses, **late)  # type: ignore[arg-type]  # times
        return self.add_many(number, admission=admission, **fields)

    def take(
        self, holder: ClaimHolder, limit: int = 100, queues: Sequence[str] | None = ("default",)
    ) -> list[Running]:
        """Claim jobs for the holder's session; return them with their holder."""
        return [Running(job, holder) for job in self.claim(holder, limit, queues)]

    # ---- sessions ----------------------------------------------------------------------------------------

    def begin(self, name: str = "a", timeout_seconds: float = LONG) -> ClaimHolder:
        """Begin a session with this name; return it as a holder of claims."""
        session = NewSession(
            f"session-{name}", f"server-{name}", f"host:{name}", "host", 7, self.stamp(), timeout_seconds,
            4, "*", "1",
        )  # fmt: skip
        self.storage.begin_session(session)
        return ClaimHolder(session.id, session.server)

    def lose(
        self, holder: ClaimHolder, *, running: Collection[str] | None = None, reason: str = "killed"
    ) -> Taken:
        """End the holder's session, with these jobs known to be running; return the jobs taken from it."""
        return self.storage.end_session(holder.session, running, reason=reason)

    def request(
        self, holder: ClaimHolder, limit: int = 100, queues: Sequence[str] | None = ("default",)
    ) -> ClaimRequest:
        """Return a claim request of the holder's session."""
        return ClaimRequest(queues, limit, holder.session, self.stamp())

    def exchange(
        self, holder: ClaimHolder, ends: Sequence[Transition], limit: int = 5,
        queues: Sequence[str] | None = ("default",),
    ) -> Exchange:  # fmt: skip
        """Apply these transitions, then claim jobs for the holder's session; return both results."""
        return self.storage.exchange(ends, self.request(holder, limit, queues))

    def reconcile(self, holder: ClaimHolder, held: Sequence[HeldClaim]) -> Reconciliation:
        """Return the differences between the storage and what the holder's session believes it holds."""
        return self.storage.reconcile(holder.session, held)

    # ---- upkeep ------------------------------------------------------------------------------------------

    def release(self, limit: int = 10) -> int:
        """Release the children of ended parents; return how many were checked."""
        return self.storage.release(limit)

    def promote(self, limit: int = 10) -> Promotion:
        """Enqueue the due jobs; return their number and the next due time."""
        return self.storage.promote(limit)

    def prune(self, limit: int = 10) -> int:
        """Delete the expired jobs with their data; return the number of jobs."""
        return self.storage.prune(limit)

    def orphans(self, limit: int = 10, *, as_of: int | None = None) -> list[Taken]:
        """End the expired sessions; return the jobs that were taken from each of them."""
        return self.storage.orphans(limit, as_of=as_of)

    def claim(
        self, holder: ClaimHolder, limit: int = 100, queues: Sequence[str] | None = ("default",)
    ) -> list[ClaimedJob]:
        """Claim jobs for the holder's session; return them."""
        return self.storage.claim(self.request(holder, limit, queues)).jobs

    def claim_ids(
        self, holder: ClaimHolder | None = None, limit: int = 100, queues: Sequence[str] | None = ("default",)
    ) -> list[str]:
        """Claim jobs for the holder's session, by default a new one; return their ids."""
        return [job.id for job in self.claim(holder or self.begin(), limit, queues)]

    def run(self, holder: ClaimHolder | None = None, job_id: str | None = None) -> Running:
        """Claim the job, by default a new one, for the holder, by default a new session.

        No other job may be enqueued.
        """
        holder, wanted = holder or self.begin(), job_id or self.add()
        (job,) = self.claim(holder)
        assert wanted == job.id, f"claimed another job than {wanted}"
        return Running(job, holder)

    def apply(self, transition: Transition) -> Applied:
        """Apply this one transition; return the result."""
        (result,) = self.storage.apply([transition])
        return result

    def settle(self, transition: Transition) -> str:
        """Apply the transition, which must succeed; return the job's id."""
        result = self.apply(transition)
        assert result.is_applied, f"{transition} returned {result}"
        return transition.job_id


def asks(
    *uses: str | LimitUse, unique: UniqueUse | None = None,
    start_before: int | None = None, start_within: int | None = None,
) -> Admission:  # fmt: skip
    """Return the admission of a job that holds these keys while it runs."""
    limits = tuple(LimitUse(use) if isinstance(use, str) else use for use in uses)
    return Admission(limits, unique, start_before, start_within)


def _key_of(admission: Admission) -> str | None:
    unique = admission.unique
    return admission.limits[0].key if admission.limits else unique.key if unique else None


def _end(end: Callable[..., Transition], running: Running, **fields: object) -> Transition:
    """Return a transition that ends the claim.

    Unless the fields state otherwise, the run started one second after the claim and ended two seconds after
    it.
    """
    claimed_at = running.job.claimed_at
    times = {"at": claimed_at + 2 * SECOND, "started_at": claimed_at + SECOND}
    return end(running.job, running.holder, **{**times, **fields})


def succeeds(
    running: Running, result: str | None = "1", *, absent: str | None = None, expires_at: int | None = None
) -> Transition:
    """Return the transition of a run whose task returned."""
    return _end(lifecycle.succeeded, running, result=result, result_absent=absent, expires_at=expires_at)


def keys_held(jobs: Sequence[ClaimedJob]) -> Counter[str]:
    """Return how many of the jobs hold each key; jobs without keys count under an empty name."""
    return Counter(
        key
        for job in jobs
        for key in ([use.key for use in job.admission.limits] if job.admission is not None else [""])
    )


def fails(running: Running, error: ErrorInfo | None = None, *, expires_at: int | None = None) -> Transition:
    """Return the transition of a run whose task raised an error and has no retries left."""
    error = error or error_info()
    return _end(lifecycle.failed, running, reason="no retries left", error=error, expires_at=expires_at)


def gives_up(running: Running, *, expires_at: int | None = None) -> Transition:
    """Return the transition of a run whose task has no retries left and whose policy deletes the job."""
    error, why = error_info(), "retries exhausted"
    return _end(lifecycle.deleted_by_policy, running, reason=why, error=error, expires_at=expires_at)


def _wait(running: Running, due_at: int | None) -> int:
    return 0 if due_at is None else due_at - running.job.claimed_at - 2 * SECOND


def retries(running: Running, *, due_at: int | None = None, error: ErrorInfo | None = None) -> Transition:
    """Return the transition of a failed run that is retried at the due time, by default immediately."""
    wait, error = _wait(running, due_at), error or error_info()
    return _end(lifecycle.retried, running, wait=wait, reason="retry 1 of 10", error=error)


def snoozes(running: Running, *, due_at: int | None = None) -> Transition:
    """Return the transition of a run that is snoozed until the due time, by default until now."""
    return _end(lifecycle.snoozed, running, wait=_wait(running, due_at), reason="snoozed")


def hands_back(running: Running, *, has_started: bool = False) -> Transition:
    """Return the server's hand-back of the job."""
    started = {} if has_started else {"started_at": None}
    return _end(lifecycle.handed_back, running, reason="server stopped", **started)


def crashes(running: Running, *, expires_at: int | None = None) -> Transition:
    """Return the transition of a job whose job process died."""
    error, why = error_info("crash"), "killed by signal 9"
    return _end(lifecycle.crashed_alone, running, reason=why, error=error, expires_at=expires_at)


def deletes(job_id: str, *, at: int = STAMP, expires_at: int | None = None) -> Transition:
    """Return an operator's deletion of the job."""
    return lifecycle.delete(job_id, at=at, reason="deleted by ada", expires_at=expires_at)


def requeues(job_id: str, *, at: int = STAMP) -> Transition:
    """Return an operator's requeue of the job."""
    return lifecycle.requeue(job_id, at=at, reason="requeued by ada")


def reschedules(job_id: str, *, due_at: int, at: int = STAMP) -> Transition:
    """Return an operator's change of the due time of a scheduled job."""
    return lifecycle.reschedule(job_id, at=at, due_at=due_at, reason="rescheduled by ada")


def moves(job_id: str, *, queue: str | None = None, priority: int | None = None, at: int = STAMP) -> Move:
    """Return an operator's move of a waiting job to another queue or priority."""
    return lifecycle.move(job_id, at=at, queue=queue, priority=priority, reason="moved by ada")


def restores(
    job_id: str, previous: State, *, due_at: int | None = None, at: int = STAMP, expires_at: int | None = None
) -> Transition:
    """Return an operator's restoration of a deleted job."""
    return lifecycle.restore(
        job_id,
        lifecycle.PreviousState(previous, due_at),
        at=at,
        reason="restored by ada",
        expires_at=expires_at,
    )


ENDS: dict[str, Callable[[Running], Transition]] = {
    "succeeds": succeeds,
    "fails": fails,
    "retries later": lambda running: retries(running, due_at=BASE + HOUR),
    "retries at once": retries,
    "snoozes": lambda running: snoozes(running, due_at=BASE + HOUR),
    "gives up": gives_up,
    "hands back": hands_back,
}
"""Every way in which a holder ends its claim, by name."""
