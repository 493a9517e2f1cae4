"""The findings: one list of problems for `firelock doctor`, dashboards, webhooks and metrics.

`take_readings` reads a storage and returns `Readings`, and `list_findings` returns the problems in them. No
other code decides what is a problem. Callers differ only in how old a reading may be: see `Keep`.
docs/findings.md lists all codes.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from firelock.control.catalogue import Catalogue
from firelock.control.limits import LimitName, Limits, LimitView
from firelock.control.queues import Queues, QueueView
from firelock.control.recount import StillBatch, find_still
from firelock.control.recurring import stored_definitions
from firelock.control.servers import Servers, ServerState, ServerView, renewed_at
from firelock.jobs.blocked_by import HeldHead, held_heads
from firelock.jobs.unread import PARTS
from firelock.model import lifecycle
from firelock.model.batch import BATCH_TASK, BatchCounts
from firelock.model.clock import micros
from firelock.model.dependencies import On
from firelock.model.job import JobRecord
from firelock.model.memo import MemoKind
from firelock.model.report import DURATION_BUCKETS, Severity, Thresholds
from firelock.model.state import State
from firelock.model.text import clock_time, number_of, shorten, span
from firelock.schedules.recurring_job import RecurringJob, is_newer
from firelock.storage import FailureGroup, Feature, Finding, JobFilter, Storage

if TYPE_CHECKING:
    from firelock.runtime import Runtime

_T = TypeVar("_T")
_MICROS = 1_000_000
_MINUTE = 60 * _MICROS
_HOUR = 60 * _MINUTE
_WIDEST_SKEW = 2 * _MICROS
_LOST_LATELY = 60 * _MINUTE
_LATE_WAIT = 5 * _MINUTE  # a job is overdue this long after its wait has timed out
_MANY_PAUSED = 100  # minimum number of waiting jobs for which a pause is a warning
_FORGOTTEN = 60 * _MINUTE  # a limit paused for this long may have been forgotten
_KEYS = 500  # maximum number of limit keys that are read
_FEWEST_RUNS = 10  # with fewer runs, a failure rate is meaningless
_HIGH_RATE, _TIMES_USUAL, _VERY_HIGH_RATE = 0.1, 3.0, 0.5
_USUAL_HOURS = 4  # with fewer hours, the day's rate is not shown; an outage and its requeue take two to three
_LATELY, _DAY = 15 * _MINUTE, 24 * 60 * _MINUTE
_LONG_RUN, _TIMES_LONGEST = 10 * _MINUTE, 10  # a run is too long if it exceeds both of these durations
_RUNNING = 100  # maximum number of running jobs that are read, oldest start first
_SAMPLE, _PAGE, _NAMED = 2_000, 500, 5
# maximum number of queues whose first job is read, and of longest-waiting jobs that are read
_QUEUES, _FIRST_JOBS = 50, 200
_RECURRING = 2_000
_GROUPS = 20  # maximum number of failure groups that are read
_MANY_FAILED = 100  # minimum number of one task's failed jobs for a finding that reports them
_SHARED = 200  # number of a task's newest failures that determine the share of muted causes
_CAUSES = "cause"  # the kind of record in which dashboards store the causes of failures and their mutes
_WAITS_FOR_SIGNAL = f"{MemoKind.SIGNAL} "
_UPKEEP_ADVICE = "If one is running, check its log: its upkeep fails."
_WAITS_IN_VAIN = lifecycle.waiting_reason(On.SUCCEEDED, State.FAILED).partition(";")[0]

ERROR, WARNING, NOTE = Severity
_ORDER = {severity: place for place, severity in enumerate(Severity)}


@attrs.frozen
class EndedRuns:
    """The number of a task's attempts that ended within a period, and how many of them did not succeed."""

    runs: int
    failed_attempts: int
    failed: int = 0  # number of attempts after which the job had failed; a requeued job can fail again
    hours: int = 0  # number of clock hours in which attempts ended; 0 if not counted
    longest: int | None = None  # a duration in microseconds that no attempt exceeded; None if unknown


@attrs.frozen
class Waiting:
    """The state of the first job in each queue."""

    oldest: Mapping[str, int] = attrs.Factory(dict)
    unknown_tasks: Mapping[str, int] = attrs.Factory(dict)
    held: Mapping[str, HeldHead] = attrs.Factory(dict)
    limited: Mapping[str, str] = attrs.Factory(dict)
    """By queue, the id of the first job that no limit delays, if this job has limits."""


@attrs.frozen
class Sampled:
    """The results of samples of at most 2,000 jobs per state, and of related reads."""

    # number of enqueued jobs per task that is not registered in the app
    unknown_here: Mapping[str, int] = attrs.Factory(dict)
    # number of jobs per task that servers postponed because they do not have the task
    unregistered: Mapping[str, int] = attrs.Factory(dict)
    # number of jobs per serializer that servers postponed because they do not have the serializer
    unreadable: Mapping[str, int] = attrs.Factory(dict)
    # number of jobs that a newer release stored, per part that cannot be read
    unread: Mapping[str, int] = attrs.Factory(dict)
    in_vain: Mapping[str, int] = attrs.Factory(dict)  # number of continuations per failed parent
    # names of the tasks or batches of these continuations, by parent
    names_in_vain: Mapping[str, str] = attrs.Factory(dict)
    first_in_vain: Mapping[str, JobRecord] = attrs.Factory(dict)  # one continuation per failed parent
    flows_in_vain: Mapping[str, str] = attrs.Factory(dict)  # names of these continuations' batches, by id
    batches_in_vain: Sequence[str] = ()  # failed parents that are batches
    limits: Sequence[LimitView] = ()  # the first 500 limit keys
    limit_names: Sequence[LimitName] = ()
    # number of enqueued jobs without limits, per task that has limits
    unlimited: Mapping[str, int] = attrs.Factory(dict)
    too_costly: Mapping[str, int] = attrs.Factory(dict)  # largest cost by key, if it exceeds the key's burst
    # pairs of a unique key and a continuation of a failed parent that has it
    keys_in_vain: Sequence[tuple[str, str]] = ()
    waiting_for_signal: Sequence[JobRecord] = ()  # jobs that wait for a signal
    overdue: Sequence[JobRecord] = ()  # awaiting jobs and held batches that are long overdue
    still: Sequence[StillBatch] = ()  # batches that do not end without intervention
    apart: Sequence[tuple[str, str, str]] = ()  # a task, and two of its keys that cannot be in one partition
    failures: Sequence[FailureGroup] = ()  # the largest groups of failed jobs
    has_failed_batch: bool = False  # whether the failed jobs include a batch
    muted_causes: frozenset[str] = frozenset()  # fingerprints; read only if there are failed jobs


@attrs.frozen
class Readings:
    """The values that were read from a storage; values that were not read are empty."""

    now: int
    queues: Sequence[QueueView] = ()
    servers: Sequence[ServerView] = ()
    recurring: Sequence[RecurringJob] = ()
    by_state: Mapping[State, int] = attrs.Factory(dict)
    is_shared: bool = True
    skew: int = 0  # microseconds by which the storage's clock is ahead of this host's
    storage: Sequence[Finding] = ()  # findings that the storage itself reports
    waiting: Waiting = attrs.Factory(Waiting)
    sampled: Sampled = attrs.Factory(Sampled)
    # attempts that ended in the last 15 minutes, by task
    lately: Mapping[str, EndedRuns] = attrs.Factory(dict)
    # attempts that ended in the last 24 hours, by task
    usually: Mapping[str, EndedRuns] = attrs.Factory(dict)
    running: Sequence[JobRecord] = ()  # the first 100 jobs that have run for 10 minutes or more
    muted: Mapping[str, float] = attrs.Factory(dict)  # share of a task's failures whose causes are muted
    thresholds: Thresholds = attrs.Factory(Thresholds)

    @property
    def oldest(self) -> Mapping[str, int]:
        """When the first job of each queue began to wait."""
        return self.waiting.oldest

    @property
    def held(self) -> Mapping[str, HeldHead]:
        """The queues whose first job is delayed by a limit."""
        return self.waiting.held

    @property
    def alive(self) -> list[ServerView]:
        """The servers with a session that has not expired."""
        return [server for server in self.servers if not server.state_at(self.now).is_gone]

    def listening(self, queue: str) -> list[ServerView]:
        """Return the servers that claim from the queue or are stopping; quiet servers are not included."""
        return [
            server
            for server in self.servers
            if server.state_at(self.now).is_listening and server.listens_to(queue)
        ]

    def waits_since(self, queue: str) -> int | None:
        """Return when the first job of a queue that no limit delays began to wait; None if none was read."""
        head = self.held.get(queue)
        if head is None:
            return self.oldest.get(queue)
        return None if head.first is None else head.first.changed_at

    def has_more(self, state: State) -> bool:
        """Return whether there might be more jobs in a state than its sample contains."""
        return self.by_state.get(state, 0) > _SAMPLE

    @property
    def enqueued(self) -> int:
        """The number of jobs that wait in all queues."""
        return sum(queue.enqueued for queue in self.queues)

    def about(self) -> dict[str, str]:
        """Return one line about servers and one about jobs."""
        alive = self.alive
        names = ", ".join(f"{server.name} ({server.queues})" for server in alive[:_NAMED])
        states = ", ".join(f"{self.by_state[state]:,} {state}" for state in State if self.by_state.get(state))
        return {
            "servers": f"{len(alive)} alive: {names}" if alive else "none alive",
            "jobs": states or "none",
        }


# ---- reading ---------------------------------------------------------------------------------------------

Keep = Callable[[str, Callable[[], Any]], Any]
"""A function that returns the reading with a name: as kept earlier, or from the passed function.

The names are `storage`, `waits`, `samples`, `running`, `lately`, `usually` and `muted`. The samples cost the
most.
"""


def _now(_name: str, read: Callable[[], _T]) -> _T:
    return read()


@attrs.define
class KeptReadings:
    """A cache that keeps each reading for some seconds, for one thread that reads repeatedly."""

    ages: Mapping[str, float]  # seconds to keep a reading, by its name; other readings are not kept
    monotonic: Callable[[], float] = time.monotonic
    _kept: dict[str, tuple[float, Any]] = attrs.field(factory=dict, init=False)

    def __call__(self, name: str, read: Callable[[], Any]) -> Any:  # noqa: ANN401 - as it was read
        """Return the reading."""
        at, value = self._kept.get(name, (float("-inf"), None))
        if self.monotonic() - at >= self.ages.get(name, 0.0):
            value = read()
            self._kept[name] = self.monotonic(), value
        return value


def host_clock() -> int:
    """Return this host's time in microseconds."""
    return time.time_ns() // 1000


def take_readings(
    runtime: Runtime,
    *,
    knows_tasks: bool,
    keep: Keep = _now,
    host_clock: Callable[[], int] = host_clock,
) -> Readings:
    """Return the storage's current values that findings need.

    A few round trips read samples of at most 2,000 jobs per state, and the ended attempts of each minute of
    the last day.

    Args:
        runtime: the app's parts to read.
        knows_tasks: whether the app's tasks were imported, so that jobs can be compared with them.
        keep: a cache of readings; without it, all of them are read now.
        host_clock: returns this host's time in microseconds.
    """
    storage = runtime.storage
    before = host_clock()
    now = storage.clock()
    skew = now - (before + host_clock()) // 2  # relative to the middle of the round trip
    queues = Queues(runtime.client).list()
    lately = keep("lately", lambda: _ended_since(storage, now - _LATELY, now))
    failing = [task for task, ended in lately.items() if ended.failed_attempts]
    running = keep("running", lambda: _read_long_runs(storage, now))
    return Readings(
        now,
        queues=queues,
        servers=Servers(runtime.client).list(),
        recurring=list(map(RecurringJob, islice(stored_definitions(storage), _RECURRING))),
        by_state=storage.counts().by_state,
        is_shared=Feature.SHARED in storage.features,
        skew=skew,
        storage=keep("storage", storage.diagnose),
        waiting=keep("waits", lambda: _read_waits(runtime, queues, now)),
        sampled=keep("samples", lambda: _read_samples(runtime, now, knows_tasks=knows_tasks)),
        lately=lately,
        usually=keep("usually", lambda: _ended_since(storage, now - _DAY, now)) if failing or running else {},
        running=running,
        muted=keep("muted", lambda: muted_shares(storage, failing, now)) if failing else {},
        thresholds=runtime.thresholds,
    )


def _read_waits(runtime: Runtime, queues: Sequence[QueueView], now: int) -> Waiting:
    """Return the state of the first jobs of the queues, for at most fifty queues and two hundred jobs.

    One read finds the jobs that have waited longest; each queue that has no job among them needs another
    read.
    """
    storage = runtime.storage
    waiting = sorted((queue for queue in queues if queue.enqueued), key=lambda queue: -queue.enqueued)
    names = [queue.name for queue in waiting[:_QUEUES]]
    if not names:
        return Waiting()
    enqueued = JobFilter(state=State.ENQUEUED)
    first = list(storage.find(enqueued, limit=_FIRST_JOBS, oldest_first=True).jobs)
    seen = {job.queue for job in first}
    for name in names:
        if name not in seen:
            of_queue = attrs.evolve(enqueued, queue=name)
            first += storage.find(of_queue, limit=1, oldest_first=True).jobs
    heads: dict[str, JobRecord] = {}
    for job in first:
        heads.setdefault(job.queue, job)
    reported = [entry for entry in Catalogue(runtime.client).list() if entry.seen_at is not None]
    known = {name for entry in reported for name in (entry.name, *entry.aliases)}
    held = held_heads(storage, heads.values(), now)
    free = {queue: held[queue].first if queue in held else head for queue, head in heads.items()}
    return Waiting(
        {queue: head.changed_at for queue, head in heads.items()},
        Counter(job.task for job in first if known and job.task not in known),
        held,
        {
            queue: job.id
            for queue, job in free.items()
            if job is not None and job.admission is not None and job.admission.limits
        },
    )


def _read_long_runs(storage: Storage, now: int) -> list[JobRecord]:
    """Return the jobs that have run for ten minutes or more, oldest start first; at most a hundred."""
    since = now - _LONG_RUN
    where = JobFilter(state=State.PROCESSING, until=since + 1)
    found = storage.find(where, limit=_RUNNING, oldest_first=True).jobs
    return [job for job in found if job.started_at is not None and job.started_at <= since]


def _ended_since(storage: Storage, since: int, now: int) -> dict[str, EndedRuns]:
    """Return how the attempts of each task ended, in the minutes from `since` to now."""
    runs, failed_attempts, failed = Counter[str](), Counter[str](), Counter[str]()
    hours = defaultdict[str, set[int]](set)
    histograms = defaultdict[str, list[tuple[int, ...]]](list)
    for one in storage.timeline(since // _MINUTE * _MINUTE, now + _MINUTE):
        runs[one.task] += one.count
        hours[one.task].add(one.minute // _HOUR)
        histograms[one.task].append(one.histogram)
        failed_attempts[one.task] += one.count if one.outcome in {"failed", "retried", "crashed"} else 0
        failed[one.task] += one.count if one.outcome == "failed" else 0
    return {
        task: EndedRuns(
            number, failed_attempts[task], failed[task], len(hours[task]),
            longest_duration([sum(bucket) for bucket in zip(*histograms[task], strict=True)]),
        )
        for task, number in runs.items()
    }  # fmt: skip


def longest_duration(histogram: Sequence[int]) -> int | None:
    """Return a duration in microseconds that no run in a histogram exceeded.

    Return None if the histogram is empty or contains runs above the last of `DURATION_BUCKETS`.
    """
    last = max((place for place, count in enumerate(histogram) if count), default=len(DURATION_BUCKETS))
    return int(DURATION_BUCKETS[last] * _MICROS) if last < len(DURATION_BUCKETS) else None


def muted_shares(storage: Storage, tasks: Iterable[str], now: int) -> dict[str, float]:
    """Return the share of muted causes in each task's newest failures; empty if no cause is muted."""
    muted = set(muted_causes(storage, now))
    return {task: _muted_share(storage, task, muted, now - _LATELY) for task in tasks} if muted else {}


def muted_causes(storage: Storage, now: int) -> Iterator[str]:
    """Yield the fingerprints of the causes that users have muted on a dashboard."""
    after = ""
    while page := storage.list_records(_CAUSES, after=after, limit=_PAGE):
        for record in page:
            try:
                mute = json.loads(record.value)["mute"]
                if mute is not None and (mute["until"] is None or now < int(mute["until"])):
                    yield record.key
            except (ValueError, KeyError, TypeError):  # the dashboard logs the error when it reads the record
                continue
        after = page[-1].key


def _muted_share(storage: Storage, task: str, muted: set[str], since: int) -> float:
    failed = JobFilter(state=State.FAILED, task=task, since=since)
    retrying = attrs.evolve(failed, state=State.SCHEDULED, is_retrying=True)
    errors = [
        job.error.fingerprint
        for where in (failed, retrying)
        for job in storage.find(where, limit=_SHARED).jobs
        if job.error is not None
    ]
    return sum(fingerprint in muted for fingerprint in errors) / len(errors) if errors else 0.0


def _name_of(job: JobRecord) -> str:
    rules = None if job.relations is None else job.relations.batch
    return job.task if rules is None else rules.name


def _flow_of(job: JobRecord) -> str | None:
    return None if job.relations is None else job.relations.batch_id


def _read_samples(runtime: Runtime, now: int, *, knows_tasks: bool) -> Sampled:
    storage = runtime.storage
    unknown: Counter[str] = Counter()
    keyed = _LimitUse(runtime, knows_tasks=knows_tasks)
    if knows_tasks or keyed.is_offered:
        for job in _sample(runtime, State.ENQUEUED):
            unknown[job.task] += knows_tasks and runtime.tasks.get(job.task) is None
            keyed.count(job)
    in_vain, overdue, waiting_for_signal = _stuck(runtime, now)
    unregistered: Counter[str] = Counter()
    unreadable: Counter[str] = Counter()
    unread: Counter[str] = Counter()
    for job in _sample(runtime, State.SCHEDULED):
        unregistered[job.task] += lacks_task(job)
        unreadable[job.serializer] += lacks_serializer(job)
        if (part := lacks_release(job)) is not None:
            unread[part] += 1
    parents = Counter(edge.parent_id for job in in_vain for edge in job.parents)
    first = {edge.parent_id: job for job in reversed(in_vain) for edge in job.parents}
    ids = list(parents)[:_PAGE]
    flows = {flow: None for parent in ids if (flow := _flow_of(first[parent])) is not None}
    found = storage.get([*ids, *flows][:_PAGE])
    stored, outer = found[: len(ids)], found[len(ids) :]
    groups = storage.failure_groups(_GROUPS)
    failed = [one for one in stored if one is not None and one.state is State.FAILED]
    return Sampled(
        unknown_here=+unknown,
        unregistered=+unregistered,
        unreadable=+unreadable,
        unread=unread,
        in_vain={one.id: parents[one.id] for one in failed},
        names_in_vain={one.id: _name_of(one) for one in failed},
        first_in_vain={one.id: first[one.id] for one in failed},
        flows_in_vain={one.id: _name_of(one) for one in outer if one is not None},
        batches_in_vain=[one.id for one in failed if one.is_batch],
        limits=keyed.limits,
        limit_names=keyed.names,
        unlimited=keyed.unlimited,
        too_costly=keyed.too_costly(),
        keys_in_vain=[
            (job.admission.unique.key, job.id)
            for job in in_vain
            if job.admission is not None and job.admission.unique is not None
        ],
        waiting_for_signal=waiting_for_signal,
        overdue=overdue,
        still=find_still(storage, now),
        apart=list(_apart(runtime)),
        failures=groups,
        has_failed_batch=bool(storage.find(JobFilter(state=State.FAILED, task=BATCH_TASK), limit=1).jobs),
        muted_causes=frozenset(muted_causes(storage, now)) if groups else frozenset(),
    )


class _LimitUse:
    """Counts of how enqueued jobs use limits."""

    def __init__(self, runtime: Runtime, *, knows_tasks: bool) -> None:
        self.is_offered = Feature.LIMITS in runtime.storage.features
        self._limited = {info.name for info in runtime.tasks if info.limits} if knows_tasks else set()
        limits = Limits(runtime.client, dict)
        self.limits = limits.list(limit=_KEYS) if self.is_offered else []
        self.names = limits.names() if self.is_offered else []
        self.unlimited: Counter[str] = Counter()
        self._costs: Counter[str] = Counter()

    def count(self, job: JobRecord) -> None:
        uses = job.admission.limits if job.admission is not None else ()
        self.unlimited[job.task] += not uses and job.task in self._limited
        self.unlimited = +self.unlimited
        for use in uses:
            self._costs[use.key] = max(self._costs[use.key], use.cost)

    def too_costly(self) -> dict[str, int]:
        """Return, by key, the largest cost of its jobs, if it exceeds the burst of the key."""
        settings = {view.key: view.settings for view in self.limits}
        return {
            key: cost
            for key, cost in sorted(self._costs.items())
            if key in settings and settings[key].rate and cost > settings[key].burst_units
        }


def _apart(runtime: Runtime) -> Iterator[tuple[str, str, str]]:
    """Yield tasks whose jobs a storage with partitions refuses, because their keys begin differently."""
    if runtime.storage.describe().get("partitions", "1") == "1":
        return
    for info in runtime.tasks:
        templates = [limit.key for limit in info.limits]
        if templates and info.unique is not None:
            templates.append(info.unique.key or "(all arguments, as unique key)")
        by_beginning = {template.partition("/")[0]: template for template in templates}
        if len(by_beginning) > 1:
            first, second, *_ = by_beginning.values()
            yield info.name, first, second


def _stuck(runtime: Runtime, now: int) -> tuple[list[JobRecord], list[JobRecord], list[JobRecord]]:
    in_vain, overdue, waiting_for_signal = [], [], []
    for job in _sample(runtime, State.AWAITING):
        if (job.reason or "").startswith(_WAITS_IN_VAIN):
            in_vain.append(job)
        if job.due_at is not None and job.due_at < now - _LATE_WAIT:
            overdue.append(job)
        if (job.waits_for or "").startswith(_WAITS_FOR_SIGNAL):
            waiting_for_signal.append(job)
    return in_vain, overdue, waiting_for_signal


def _sample(runtime: Runtime, state: State) -> Iterator[JobRecord]:
    cursor, seen = None, 0
    while seen < _SAMPLE:
        page = runtime.storage.find(JobFilter(state=state), limit=_PAGE, cursor=cursor)
        yield from page.jobs
        seen, cursor = seen + len(page.jobs), page.cursor
        if cursor is None:
            return


def lacks_task(job: JobRecord) -> bool:
    """Return whether a server postponed the job because of an unknown task: see `lifecycle.unknown_task`."""
    return (job.reason or "").startswith(f"task {job.task!r} is not registered on server ")


def lacks_serializer(job: JobRecord) -> bool:
    """Return whether the job was postponed because of its serializer: see `lifecycle.unknown_serializer`."""
    return (job.reason or "").startswith(f"serializer {job.serializer!r} is not installed on server ")


def lacks_release(job: JobRecord) -> str | None:
    """Return the unreadable part because of which a server postponed the job: see `lifecycle.unread_part`.

    Return None if there is no such part.
    """
    name, found, _ = (job.reason or "").partition(" cannot be read on server ")
    return name if found and name in PARTS else None


# ---- findings --------------------------------------------------------------------------------------------


def list_findings(readings: Readings) -> list[Finding]:
    """Return all findings, the most severe first; each subject appears only once per code."""
    found: dict[tuple[str, str], Finding] = {}
    for check in _CHECKS:
        for finding in check(readings):
            key = finding.code, finding.subject if finding.subject != "storage" else finding.what
            if finding.code == "skew":  # the storage might have reported the same problem
                key = finding.code, ""
            found.setdefault(key, finding)
    return sorted(found.values(), key=lambda finding: _ORDER[finding.severity])


def _check_storage(readings: Readings) -> Iterable[Finding]:
    return readings.storage


def _check_sharing(readings: Readings) -> Iterator[Finding]:
    if not readings.is_shared:
        what = "This storage belongs to one process: others cannot see its jobs, which are lost when it ends."
        yield Finding(NOTE, "not_shared", what, "Use sqlite:///jobs.db or a database server instead.")


def _check_clock(readings: Readings) -> Iterator[Finding]:
    """Yield a finding if this host's clock and the storage's clock differ."""
    if abs(readings.skew) > _WIDEST_SKEW:
        word = "ahead of" if readings.skew > 0 else "behind"
        what = f"The storage's clock is {span(readings.skew)} {word} this host's clock."
        yield Finding(
            WARNING, "skew", what,
            "Synchronize both with a time server. Jobs use the storage's clock, logs use the host's clock.",
            values={"seconds": abs(readings.skew) / _MICROS},
        )  # fmt: skip


# ---- servers ---------------------------------------------------------------------------------------------


def _check_no_server(readings: Readings) -> Iterator[Finding]:
    if readings.enqueued and not readings.alive:
        yield Finding(
            ERROR, "no_server", f"{_jobs(readings.enqueued)} enqueued, but no server is alive.",
            "Start one: firelock server app:fire", "servers", {"count": readings.enqueued},
            min(readings.oldest.values(), default=None),
        )  # fmt: skip


def _check_lost(readings: Readings) -> Iterator[Finding]:
    """Yield findings about servers that missed renewals or were lost within the last hour."""
    states = {server: server.state_at(readings.now) for server in readings.servers}
    back = [server for server, state in states.items() if not state.is_gone]
    reported = set[str]()
    for server, state in states.items():
        severity = ERROR if state is ServerState.OVERDUE else None
        if state is ServerState.LOST:
            severity = _severity_of_lost(server, back, readings.now)
        if server.name in reported or severity is None:
            continue
        reported.add(server.name)
        renewed = max(renewed_at(record, readings.now) for record in server.sessions)
        limit = max(record.session.timeout_seconds for record in server.sessions)
        if severity is NOTE:
            what = (
                f"was killed or cut off {span(readings.now - renewed)} ago. Other servers run the jobs of "
                "its queues."
            )
            advice = "Find the cause at the end of its log. This note disappears an hour after the loss."
        else:
            what = f"has not sent a heartbeat for {span(readings.now - renewed)}; its limit is {limit:g} s."
            advice = (
                "Check the host and the server's log. If the server has ended, start another one; its jobs "
                "return to their queues."
            )
        yield Finding(
            ERROR if severity is ERROR else NOTE, "server_lost", f"Server {server.name} {what}", advice,
            f"server {server.name}",
            {"server": server.name, "queues": server.queues}, renewed,
        )  # fmt: skip


def _severity_of_lost(server: ServerView, back: Sequence[ServerView], now: int) -> Severity | None:
    """Return the severity of the loss; None if the server is back or was lost more than an hour ago."""
    if any(one.name == server.name for one in back):
        return None
    if server.is_alive:  # its session has expired, and no other server has ended it yet
        return ERROR
    lately = [
        record
        for record in server.sessions
        if record.renewal.state != "stopping" and now - renewed_at(record, now) < _LOST_LATELY
    ]
    if not lately:
        return None
    if not _are_served(server, back):
        return ERROR
    return NOTE if any(record.renewal.busy for record in lately) else None


def _are_served(server: ServerView, back: Sequence[ServerView]) -> bool:
    """Return whether the running servers in `back` claim jobs from all queues of the server."""
    if server.queue_names is None:
        return any(one.queue_names is None for one in back)
    return all(any(one.listens_to(queue) for one in back) for queue in server.queue_names)


def _check_stuck(readings: Readings) -> Iterator[Finding]:
    for server in readings.alive:
        alive = server.living(readings.now)
        threads = sum(record.renewal.stuck_threads for record in alive)
        coroutines = sum(record.renewal.stuck_coroutines for record in alive)
        if not threads and not coroutines:
            continue
        workers = sum(record.session.workers for record in alive)
        busy = [f"{threads:,} of {number_of(workers, 'thread')}"] if threads else []
        busy += [number_of(coroutines, "coroutine")] if coroutines else []
        verb = "is" if threads + coroutines == 1 else "are"
        yield Finding(
            ERROR if threads >= workers else WARNING,
            "stuck_workers",
            f"Server {server.name}: {' and '.join(busy)} {verb} occupied by jobs past their timeout.",
            'Its log names the jobs (search for "ignores its timeout"). Check job.cancelled in their tasks, '
            'or use executor="process", whose jobs can be killed. firelock server replaces a worker process '
            "if such jobs occupy half of its workers; an embedded server does not.",
            f"server {server.name}",
            {"server": server.name, "threads": threads, "coroutines": coroutines},
        )


def _check_parked(readings: Readings) -> Iterator[Finding]:
    for server in readings.alive:
        parked = sum(record.renewal.parked for record in server.living(readings.now))
        if parked:
            yield Finding(
                WARNING,
                "parked_ends",
                f"Server {server.name} cannot store the outcome of {number_of(parked, 'job')}, because other "
                "transactions have locked the rows.",
                'Its log names the jobs (search for "has locked its row"). Find the long transaction in '
                "the database and end it; keep transactions that change jobs short.",
                f"server {server.name}",
                {"server": server.name, "parked": parked},
            )


# ---- queues ----------------------------------------------------------------------------------------------


def _check_paused(readings: Readings) -> Iterator[Finding]:
    for queue in sorted(readings.queues, key=lambda queue: -queue.enqueued):
        if queue.is_paused:
            note = f": {queue.note}" if queue.note else ""
            yield Finding(
                WARNING if queue.enqueued >= _MANY_PAUSED else NOTE, "paused",
                f"Queue {queue.name} is paused{note}; {_jobs(queue.enqueued)} enqueued.",
                f"firelock queues resume {queue.name}", f"queue {queue.name}",
                {"queue": queue.name, "count": queue.enqueued, "note": queue.note or ""},
                readings.oldest.get(queue.name),
            )  # fmt: skip


def _check_listeners(readings: Readings) -> Iterator[Finding]:
    if not readings.alive:
        return  # the problem has already been reported
    for queue in sorted(readings.queues, key=lambda queue: -queue.enqueued):
        if queue.enqueued and not queue.is_paused and not readings.listening(queue.name):
            yield Finding(
                ERROR, "no_listener",
                f"Queue {queue.name}: {_jobs(queue.enqueued)} enqueued, but no server listens to it.",
                f"Start a server for it: firelock server app:fire --queues {queue.name}",
                f"queue {queue.name}", {"queue": queue.name, "count": queue.enqueued},
                readings.oldest.get(queue.name),
            )  # fmt: skip


def _check_long_waits(readings: Readings) -> Iterator[Finding]:
    for queue in readings.queues:
        since, allowed = readings.waits_since(queue.name), readings.thresholds.latency_of(queue.name)
        is_long = since is not None and allowed is not None and readings.now - since >= allowed
        if since is None or not is_long or queue.is_paused or not readings.listening(queue.name):
            continue
        held = readings.held.get(queue.name)
        that, held_up = ("", "") if held is None else (
            " that no limit delays", f"; limits delay {held.count} before it",
        )  # fmt: skip
        yield Finding(
            WARNING, "long_wait",
            f"The first job of queue {queue.name}{that} has waited for {span(readings.now - since)}"
            f"{held_up}.",
            "Add workers for the queue, or find slow jobs: firelock top", f"queue {queue.name}",
            {"queue": queue.name, "count": queue.enqueued, "seconds": (readings.now - since) // _MICROS,
             "held": 0 if held is None else held.count,
             "limited_job": readings.waiting.limited.get(queue.name)}, since,
        )  # fmt: skip


# ---- tasks -----------------------------------------------------------------------------------------------


def _counted(
    severity: Severity, code: str, noun: str, counts: Callable[[Readings], Mapping[str, int]], *, what: str,
    advice: str, of: State | None = State.SCHEDULED,
) -> Callable[[Readings], Iterator[Finding]]:  # fmt: skip
    """Return a check that reports counts of jobs by name, the largest first if all jobs were counted."""

    def check(readings: Readings) -> Iterator[Finding]:
        for name, count in sorted(counts(readings).items(), key=lambda one: (0 if of else -one[1], one[0])):
            jobs = _jobs(count) if of is None else _seen(readings, of, count)
            yield Finding(
                severity, code, f"{jobs} {what.format(name)}", advice, f"{noun} {name}",
                {noun: name, "count": count},
            )  # fmt: skip

    return check


_check_unregistered = _counted(
    ERROR, "unregistered", "task", lambda readings: readings.sampled.unregistered,
    what="postponed because no claiming server has task {}.",
    advice="Deploy code that has the task, add its module with --import, or keep its old name as an alias.",
)  # fmt: skip
_check_unreadable = _counted(
    ERROR, "unreadable", "serializer", lambda readings: readings.sampled.unreadable,
    what="postponed because no claiming server has the serializer {}.",
    advice="Install the plugin with this serializer on the servers, and restart them.",
)  # fmt: skip
_check_unread = _counted(
    ERROR, "unread", "part", lambda readings: readings.sampled.unread,
    what="postponed because no claiming server can read {}, which a newer release may have stored.",
    advice="Upgrade the servers.",
)  # fmt: skip
_check_unknown_tasks = _counted(
    ERROR, "unknown_task", "task", lambda readings: readings.waiting.unknown_tasks,
    what="enqueued for task {}, which no server has.",
    advice="Deploy code that has the task, or keep its old name as an alias.", of=None,
)  # fmt: skip
_check_unknown_here = _counted(
    NOTE, "unknown_here", "task",
    lambda readings: {
        task: count
        for task, count in readings.sampled.unknown_here.items()
        if task not in readings.waiting.unknown_tasks  # the problem has already been reported
    },
    what="enqueued for task {}, which this app does not have.",
    advice="If no other app has the task, check whether it was renamed or removed.", of=State.ENQUEUED,
)  # fmt: skip


def _check_failing(readings: Readings) -> Iterator[Finding]:
    found = []
    for task, ended in readings.lately.items():
        if ended.runs < _FEWEST_RUNS:
            continue
        unmuted = ended.failed_attempts * (1 - readings.muted.get(task, 0.0))
        rate, usual = unmuted / ended.runs, _usual_rate(ended, readings.usually.get(task))
        threshold = _VERY_HIGH_RATE if usual is None else max(_HIGH_RATE, _TIMES_USUAL * usual)
        if rate >= min(threshold, _VERY_HIGH_RATE):
            found.append((rate, task, usual if _is_usual(readings.usually.get(task)) else None))
    for rate, task, usual in sorted(found, key=lambda one: (-one[0], one[1])):
        normal = "" if usual is None else f" (usually {_percent(usual)})"
        failed = readings.lately[task].failed
        final = "attempt was not retried, and its job" if failed == 1 else (
            "attempts were not retried, and their jobs"
        )  # fmt: skip
        jobs = f" {failed:,} {final} failed." if failed else ""
        yield Finding(
            ERROR if rate >= _VERY_HIGH_RATE else WARNING, "failing",
            f"{_percent(rate)} of the attempts of {task} failed in the last 15 minutes{normal}.{jobs}"
            f"{_newest_cause(readings, task)}",
            f"firelock jobs list --state failed --task {task} --since 15m" if failed
            else f"firelock jobs list --state scheduled --task {task}", f"task {task}",
            {"task": task, "rate": rate, "usual": usual, "failed": failed},
        )  # fmt: skip


def _check_long_runs(readings: Readings) -> Iterator[Finding]:
    """Yield a finding about each task with a job that runs much longer than the task's runs of the day."""
    too_long = defaultdict[str, list[JobRecord]](list)
    for job in readings.running:
        ended = readings.usually.get(job.task)
        if ended is None or ended.runs < _FEWEST_RUNS or ended.longest is None or job.started_at is None:
            continue
        if readings.now - job.started_at >= max(_LONG_RUN, _TIMES_LONGEST * ended.longest):
            too_long[job.task].append(job)
    for task, jobs in too_long.items():
        job, ended, more = jobs[0], readings.usually[task], len(jobs) - 1
        since = job.started_at or readings.now
        others = f" The same applies to {number_of(more, 'other job')} of the task." if more else ""
        yield Finding(
            WARNING, "long_run",
            f"Job {job.id} of {task} has been running for {span(readings.now - since)}. None of the "
            f"{ended.runs:,} attempts of the task that ended in the last 24 hours took more than "
            f"{span(ended.longest or 0)}.{others}",
            f"firelock jobs show {job.id} shows its progress and log. If it hangs, cancel it: firelock jobs "
            f"delete {job.id}. Set timeout= on the task, so that such runs end.",
            f"task {task}",
            {"task": task, "job": job.id, "count": len(jobs), "seconds": (readings.now - since) // _MICROS},
            since,
        )  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _newest_cause(readings: Readings, task: str) -> str:
    groups = [group for group in readings.sampled.failures if group.task == task]
    if not groups:
        return ""
    newest = max(groups, key=lambda group: group.newest_at)
    return f" Newest cause: {newest.type.rpartition('.')[2]}."  # a message might contain arguments


def _check_failed_jobs(readings: Readings) -> Iterator[Finding]:
    """Yield a finding about failed jobs.

    Failed jobs are kept until a person requeues or deletes them, or until their retention ends. Many failed
    jobs of one task are a warning, unless their causes are muted or a finding reports the task as failing.
    """
    failed = readings.by_state.get(State.FAILED, 0)
    if not failed:
        return
    by_task, open_by_task = Counter[str](), Counter[str]()
    for group in readings.sampled.failures:
        by_task[group.task] += group.count
        if group.fingerprint not in readings.sampled.muted_causes:
            open_by_task[group.task] += group.count
    for finding in _check_failing(readings):
        del open_by_task[finding.values["task"]]
    most, many = by_task.most_common(1), open_by_task.most_common(1)
    is_many = bool(many) and many[0][1] >= _MANY_FAILED
    detail = "".join(f", {count:,} of them of {task}" for task, count in (many if is_many else most))
    cause = _newest_cause(readings, many[0][0]) if is_many else ""
    if readings.sampled.has_failed_batch:
        what = "batch has" if failed == 1 else "jobs and batches have"
    else:
        what = "job has" if failed == 1 else "jobs have"
    yield Finding(
        WARNING if is_many else NOTE, "jobs_failed", f"{failed:,} {what} failed{detail}.{cause}",
        "Run firelock jobs failures to see the causes. Fix them, then run firelock jobs requeue "
        "--all, or firelock batches requeue for a failed batch.",
        "failed jobs", {"count": failed, **({"task": many[0][0]} if is_many else {})},
    )  # fmt: skip


def _usual_rate(lately: EndedRuns, usually: EndedRuns | None) -> float | None:
    """Return the day's failure rate, excluding the latest attempts; None if there are too few runs."""
    runs = 0 if usually is None else usually.runs - lately.runs
    if usually is None or runs < _FEWEST_RUNS:
        return None
    return max(0, usually.failed_attempts - lately.failed_attempts) / runs


def _is_usual(usually: EndedRuns | None) -> bool:
    """Return whether the task ran in enough hours of the day, because a single burst is not typical."""
    return usually is not None and usually.hours >= _USUAL_HOURS


# ---- recurring jobs and continuations ----------------------------------------------------------------------


def _check_recurring(readings: Readings) -> Iterator[Finding]:
    for one in readings.recurring:
        if one.error is not None:
            fix = "Upgrade the older Firelock" if is_newer(one.record) else "Fix its definition"
            yield Finding(
                NOTE if one.is_paused else ERROR, "recurring_error",
                f"Recurring job {one.id} cannot run: {shorten(one.error, 300)}",
                f"{fix}, or firelock recurring remove {one.id}", f"recurring {one.id}",
                {"recurring": one.id, "error": one.error}, one.record.last_at,
            )  # fmt: skip
        elif one.record.is_gone:
            yield Finding(
                NOTE, "recurring_gone",
                f"Recurring job {one.id} is no longer declared in code, but still runs.",
                f"firelock recurring remove {one.id}", f"recurring {one.id}", {"recurring": one.id},
            )  # fmt: skip
        if one.is_paused:
            last = clock_time(one.record.last_at)
            yield Finding(
                NOTE, "recurring_paused",
                f"Recurring job {one.id} is paused; "
                f"{f'its last run was due at {last}' if last else 'it has never run'}.",
                f"firelock recurring resume {one.id}", f"recurring {one.id}", {"recurring": one.id},
            )  # fmt: skip


def _check_late(readings: Readings) -> Iterator[Finding]:
    allowed = readings.thresholds.late // timedelta(microseconds=1)
    late = sorted(
        (one.record.next_at, one.id)
        for one in readings.recurring
        if one.record.next_at is not None and readings.now - one.record.next_at > allowed
        if not one.is_paused and not one.error
    )
    for since, name in late:
        yield Finding(
            WARNING, "recurring_late",
            f"Recurring job {name} was due at {clock_time(since)}, but did not run.",
            f"Start a server, which creates due jobs. {_UPKEEP_ADVICE}", f"recurring {name}",
            {"recurring": name, "due_at": since}, since,
        )  # fmt: skip


def _check_continuations(readings: Readings) -> Iterator[Finding]:
    count = sum(readings.sampled.in_vain.values())
    if not count:
        return
    batches = set(readings.sampled.batches_in_vain)
    jobs = [parent for parent in readings.sampled.in_vain if parent not in batches]
    commands = [f"firelock batches requeue {batch}" for batch in sorted(batches)[:1]]
    commands += [f"firelock jobs requeue {parent}" for parent in sorted(jobs)[:1]]
    parent = (sorted(batches) or sorted(jobs))[0]
    more = len(readings.sampled.in_vain) - len(commands)
    others = f" There {'is' if more == 1 else 'are'} {number_of(more, 'more such parent')}." if more else ""
    yield Finding(
        WARNING, "in_vain", f"{_seen(readings, State.AWAITING, count)} waiting for a parent that has failed.",
        f"Requeue the parent ({'; '.join(commands)}), or delete it together with the waiting jobs.{others}",
        "continuations",
        {
            "count": count, "parents": len(readings.sampled.in_vain), "parent": parent,
            "name": readings.sampled.names_in_vain.get(parent, parent), **_continuation(readings, parent),
        },
    )  # fmt: skip


def _continuation(readings: Readings, parent: str) -> dict[str, str]:
    """Return the task of a job that waits for the parent, and the id and name of its batch if stored."""
    job = readings.sampled.first_in_vain.get(parent)
    if job is None:
        return {}
    flow = _flow_of(job) or ""
    name = readings.sampled.flows_in_vain.get(flow)
    return {"task": job.task} if name is None else {"task": job.task, "batch": flow, "batch_name": name}


def _check_overdue(readings: Readings) -> Iterator[Finding]:
    if readings.sampled.overdue:
        first = min(readings.sampled.overdue, key=lambda job: job.due_at or 0)
        what = f"{_seen(readings, State.AWAITING, len(readings.sampled.overdue))} waiting past the timeout."
        advice = f"Start a server, which continues these jobs. {_UPKEEP_ADVICE}"
        values = {"job": first.id, "count": len(readings.sampled.overdue)}
        yield Finding(ERROR, "wait_overdue", what, advice, "waits", values, first.due_at)


def _check_still(readings: Readings) -> Iterator[Finding]:
    for batch in readings.sampled.still:
        name, counts, members = batch.name, batch.counts, batch.members
        values = {"batch": batch.id, "name": name}
        if batch.is_miscounted:
            what = (
                f"Batch {name} ({batch.id}) has not changed for an hour; its counts show {_shown(counts)}, "
                f"but the storage has {_shown(members)}."
            )
            advice = (
                f"This is an error in Firelock; please report it. firelock batches cancel {batch.id} ends "
                "the batch."
            )
            yield Finding(ERROR, "batch_miscounted", what, advice, f"batch {batch.id}", values)
        else:
            what = (
                f"Batch {name} ({batch.id}) has {_shown(counts)}, but no server has decided its end for an "
                "hour."
            )
            advice = f"Start a server, which decides it. {_UPKEEP_ADVICE}"
            yield Finding(ERROR, "batch_undecided", what, advice, f"batch {batch.id}", values)


def _shown(counts: BatchCounts) -> str:
    """Return the counts of a batch as a string, without states that have no members."""
    by_state = {
        "active": counts.active, "waiting": counts.waiting, "succeeded": counts.succeeded,
        "failed": counts.failed, "deleted": counts.deleted,
    }  # fmt: skip
    states = ", ".join(f"{count:,} {word}" for word, count in by_state.items() if count)
    return f"{number_of(counts.total, 'member')} ({states})" if states else "no members"


# ---- limits and unique keys --------------------------------------------------------------------------------


def _check_limit_zeros(readings: Readings) -> Iterator[Finding]:
    for name, waiting in _of_names(readings, lambda one: one.concurrent == 0 or one.rate == 0):
        yield Finding(
            WARNING if waiting else NOTE, "limit_zero",
            f"Limit {name} has a setting of 0, so none of its jobs start; {_jobs(waiting)} waiting.",
            f"If this is intended, use firelock limits pause {name} instead, with a note; otherwise "
            f"firelock limits set {name}",
            f"limit {name}", {"limit": name, "count": waiting},
        )  # fmt: skip


def _check_limit_pauses(readings: Readings) -> Iterator[Finding]:
    for name, waiting in _of_names(readings, lambda one: one.is_paused):
        both = (*readings.sampled.limits, *readings.sampled.limit_names)
        one = next(one for one in both if _has_name(one, name) and one.is_paused)
        note = f": {one.note}" if one.note else ""
        since = None if one.paused_at is None else micros(one.paused_at)
        is_old = since is not None and readings.now - since >= _FORGOTTEN
        yield Finding(
            WARNING if waiting >= _MANY_PAUSED or (waiting and is_old) else NOTE, "limit_paused",
            f"Limit {name} is paused{note}; {_jobs(waiting)} waiting.", f"firelock limits resume {name}",
            f"limit {name}", {"limit": name, "count": waiting, "note": one.note}, since,
        )  # fmt: skip


def _of_names(readings: Readings, matches: Callable[[LimitName], bool]) -> list[tuple[str, int]]:
    """Return names and keys that match, with the number of jobs that wait for each.

    The jobs of a key without its own settings are counted under its name if the name matches.
    """
    waiting: Counter[str] = Counter()
    for name in readings.sampled.limit_names:
        if matches(name):
            waiting[name.name] += 0
    for view in readings.sampled.limits:
        if matches(view):
            waiting[view.name if view.name in waiting and not view.is_own else view.key] += view.waiting
    return sorted(waiting.items(), key=lambda one: (-one[1], one[0]))


def _has_name(one: LimitName, name: str) -> bool:
    return name == (one.key if isinstance(one, LimitView) else one.name)


def _check_costs(readings: Readings) -> Iterator[Finding]:
    for view in readings.sampled.limits:
        if cost := readings.sampled.too_costly.get(view.key):
            what = (
                f"A job of limit {view.key} costs {cost:,}, but its burst is only "
                f"{view.settings.burst_units:,.0f}. The job is not lost, but it and the jobs after it wait "
                "until the key is completely free."
            )
            advice = f"Raise the burst: firelock limits set {view.name} --burst {cost}"
            values = {"limit": view.key, "count": cost}
            yield Finding(WARNING, "limit_cost", what, advice, f"limit {view.key}", values)


_check_unlimited = _counted(
    NOTE, "unlimited", "task", lambda readings: readings.sampled.unlimited,
    what="enqueued without limits for task {}, whose code declares some.",
    advice="They come from a stub (remote=True) or older code that declares no limits: declare the same "
    "limits there. If the calls passed limits=[], this is intended.",
    of=State.ENQUEUED,
)  # fmt: skip


def _check_keys_in_vain(readings: Readings) -> Iterator[Finding]:
    if readings.sampled.keys_in_vain:
        stored, job_id = readings.sampled.keys_in_vain[0]
        task, _, key = stored.partition(" ")
        count = len(readings.sampled.keys_in_vain)
        more = count - 1
        others = f"; the same applies to {number_of(more, 'other unique key')}" if more else ""
        what = f"Unique key {key} of task {task} is held by job {job_id}, whose parent has failed{others}."
        advice = (
            "Until the job ends, calls with this key are duplicates. Requeue the parent, or "
            f"firelock jobs delete {job_id}"
        )
        values = {"key": key, "task": task, "job": job_id, "count": count}
        yield Finding(WARNING, "unique_in_vain", what, advice, f"unique key {key} of {task}", values)


def _check_apart(readings: Readings) -> Iterator[Finding]:
    for task, first, second in readings.sampled.apart:
        what = (
            f"Task {task} has keys {first} and {second}, but this storage has partitions and refuses a job "
            "whose keys differ before their first '/'."
        )
        of_one, of_all = (first, second) if "{" in first else (second, first)
        advice = "Use the same beginning for both, for example tenant:{tenant_id} and tenant:{tenant_id}/api."
        if "{" in of_one and "{" not in of_all and "(" not in of_all:
            advice = (
                f"Use {of_all}/{of_one} instead of {of_one}: one partition then has all jobs of {of_all}."
            )
        values = {"task": task, "limit": first}
        yield Finding(ERROR, "limit_apart", what, advice, f"task {task}", values)


# ---- words -----------------------------------------------------------------------------------------------


def _seen(readings: Readings, state: State, count: int) -> str:
    """Return the number of jobs found in a state's sample, with "at least" if the sample is incomplete."""
    return f"At least {_jobs(count)}" if readings.has_more(state) else _jobs(count)


def _jobs(count: int) -> str:
    return "1 job is" if count == 1 else f"{count:,} jobs are"


_CHECKS: Sequence[Callable[[Readings], Iterable[Finding]]] = (
    _check_no_server, _check_storage, _check_listeners, _check_unknown_tasks, _check_lost, _check_stuck,
    _check_parked, _check_failing, _check_unregistered, _check_unreadable, _check_unread, _check_recurring,
    _check_overdue, _check_still, _check_apart, _check_late, _check_long_runs, _check_long_waits,
    _check_paused, _check_limit_pauses, _check_limit_zeros, _check_costs, _check_continuations,
    _check_keys_in_vain, _check_clock, _check_failed_jobs, _check_unknown_here, _check_unlimited,
    _check_sharing,
)  # fmt: skip
