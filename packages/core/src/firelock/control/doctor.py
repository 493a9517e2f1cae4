"""What is wrong with a storage and those who work on it, and how to mend it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from firelock import lifecycle
from firelock.control.queues import Queues, QueueView
from firelock.control.recurring import stored_definitions
from firelock.control.servers import Servers, ServerView
from firelock.errors import SchemaMismatch, StorageError
from firelock.recurring_job import RecurringJob, is_newer
from firelock.storage import Feature, Finding, JobFilter, SchemaState
from firelock.text import age, clock_time, shorten, span
from firelock.values import JobRecord, On, State

if TYPE_CHECKING:
    from firelock.runtime import Runtime

__all__ = [
    "Diagnosis",
    "Sight",
    "check_all",
    "check_clock",
    "check_schema",
    "diagnose",
    "host_clock",
    "look",
]

_MICROS = 1_000_000
_WIDEST_SKEW = 2 * _MICROS


@attrs.frozen
class Diagnosis:
    """What was looked at, and what was found."""

    about: Mapping[str, str]
    findings: Sequence[Finding]

    @property
    def has_errors(self) -> bool:
        """Tell whether anything does not work as it is."""
        return any(finding.is_error for finding in self.findings)


def host_clock() -> int:
    """Return this host's time in micros."""
    return time.time_ns() // 1000


def diagnose(runtime: Runtime, *, host_clock: Callable[[], int], knows_tasks: bool) -> Diagnosis:
    """Return what is found, as far as the storage answers.

    Args:
        runtime: what to look at.
        host_clock: this host's time in micros.
        knows_tasks: whether the app's tasks were imported, so that jobs can be compared with them.
    """
    about: dict[str, str] = {"storage": runtime.storage.url}
    findings: list[Finding] = []
    try:
        schema = check_schema(runtime.storage.schema())
        if schema is not None:
            return Diagnosis(about, [schema])
        findings += check_clock(_skew(runtime, host_clock), _WIDEST_SKEW)
        about.update(runtime.storage.describe())
        findings += runtime.storage.diagnose()
        sight = look(runtime, knows_tasks=knows_tasks)
        about.update(sight.about())
        findings += check_all(sight)
    except SchemaMismatch as error:
        findings.append(Finding(True, str(error), "Do that first; nothing else is looked at before."))
    except StorageError as error:
        mend = "Start it, or mend its address; check name, port, password and the rights on a file."
        findings.append(Finding(True, str(error), mend))
    return Diagnosis(about, findings)


def _skew(runtime: Runtime, host_clock: Callable[[], int]) -> int:
    """Return by how much the storage's clock is ahead of this host's, the round trip taken out."""
    before = host_clock()
    there = runtime.storage.clock()
    return there - (before + host_clock()) // 2


_SAMPLE, _PAGE, _NAMED = 2_000, 500, 5
_WAITS_IN_VAIN = lifecycle.waiting_reason(On.SUCCEEDED, State.FAILED).partition(";")[0]


@attrs.frozen
class Sight:
    """What was read of a storage, in one go."""

    now: int
    is_shared: bool
    queues: Sequence[QueueView]
    servers: Sequence[ServerView]
    recurring: Sequence[RecurringJob]
    unknown_here: Mapping[str, int]  # task → enqueued jobs of it, where the app does not know the task
    unregistered: Mapping[str, int]  # task → jobs that some server put off for it
    unreadable: Mapping[str, int]  # serializer → jobs that some server put off for it
    in_vain: int  # continuations of failed parents
    by_state: Mapping[State, int]

    @property
    def alive(self) -> list[ServerView]:
        """The servers with a session that has not run out."""
        return [server for server in self.servers if _is_alive(server, self.now)]

    def about(self) -> dict[str, str]:
        """Return a line for servers and one for jobs."""
        alive = self.alive
        names = ", ".join(f"{server.name} ({server.queues})" for server in alive[:_NAMED])
        states = ", ".join(f"{self.by_state[state]:,} {state}" for state in State if self.by_state.get(state))
        return {
            "servers": f"{len(alive)} alive: {names}" if alive else "none alive",
            "jobs": states or "none",
        }


def look(runtime: Runtime, *, knows_tasks: bool) -> Sight:
    """Return what there is to see; a handful of round trips, samples of at most 2,000 jobs a state."""
    storage, now = runtime.storage, runtime.storage.clock()
    unknown: Counter[str] = Counter()
    if knows_tasks:
        unknown.update(
            job.task for job in _sample(runtime, State.ENQUEUED) if runtime.tasks.get(job.task) is None
        )
    unregistered: Counter[str] = Counter()
    unreadable: Counter[str] = Counter()
    for job in _sample(runtime, State.SCHEDULED):
        unregistered[job.task] += _lacks_task(job)
        unreadable[job.serializer] += _lacks_serializer(job)
    return Sight(
        now,
        Feature.SHARED in storage.features,
        Queues(runtime.client).list(),
        Servers(runtime.client).list(),
        list(map(RecurringJob, stored_definitions(storage))),
        unknown,
        +unregistered,
        +unreadable,
        sum((job.reason or "").startswith(_WAITS_IN_VAIN) for job in _sample(runtime, State.AWAITING)),
        storage.counts().by_state,
    )


def _sample(runtime: Runtime, state: State) -> Iterator[JobRecord]:
    cursor, seen = None, 0
    while seen < _SAMPLE:
        page = runtime.storage.find(JobFilter(state=state), limit=_PAGE, cursor=cursor)
        yield from page.jobs
        seen, cursor = seen + len(page.jobs), page.cursor
        if cursor is None:
            return


def _lacks_task(job: JobRecord) -> bool:
    """Tell whether a server put the job off since it does not know the task: see `lifecycle.unknown_task`."""
    return (job.reason or "").startswith(f"task {job.task!r} is not registered on server ")


def _lacks_serializer(job: JobRecord) -> bool:
    """Tell whether a server put it off since it cannot read it: see `lifecycle.unknown_serializer`."""
    return (job.reason or "").startswith(f"serializer {job.serializer!r} is not installed on server ")


# ---- storage ---------------------------------------------------------------------------------------------


def check_schema(schema: SchemaState) -> Finding | None:
    """Return what is wrong with the schema; nothing else can be read then."""
    if schema.found == schema.wanted:
        return None
    if schema.found == 0:
        what = "Nothing is stored here yet; the schema is made with the first job."
        return Finding(
            False, what, "If jobs should be here, the address is wrong; else run firelock migrate."
        )
    if schema.found < schema.wanted:
        what = f"The storage has schema {schema.found}, this Firelock needs {schema.wanted}."
        return Finding(True, what, "Run firelock migrate.")
    what = f"The storage has schema {schema.found}, this Firelock knows {schema.wanted}."
    return Finding(True, what, "Upgrade Firelock here, or use the release that wrote it.")


def check_clock(skew: int, widest: int) -> list[Finding]:
    """Return whether this host and the storage disagree about the time."""
    if abs(skew) <= widest:
        return []
    word = "ahead of" if skew > 0 else "behind"
    what = f"The storage's clock is {span(skew)} {word} this host's."
    mend = "Let both follow a time server. Jobs go by the storage's clock, logs by the host's."
    return [Finding(False, what, mend)]


# ---- everything else -------------------------------------------------------------------------------------


def check_all(sight: Sight) -> list[Finding]:
    """Return every finding: servers, queues, tasks, recurring jobs, continuations, in this order."""
    return [
        *_check_sharing(sight),
        *_check_servers(sight),
        *_check_queues(sight),
        *_check_tasks(sight),
        *_check_recurring(sight),
        *_check_continuations(sight),
    ]


def _check_sharing(sight: Sight) -> Iterator[Finding]:
    if not sight.is_shared:
        what = "This storage lives in one process: no other one sees its jobs, and they end with it."
        yield Finding(False, what, "Use sqlite:///jobs.db or a server for jobs that matter.")


def _check_servers(sight: Sight) -> Iterator[Finding]:
    alive = sight.alive
    enqueued = sum(queue.enqueued for queue in sight.queues)
    if enqueued and not alive:
        what = f"{_jobs(enqueued)} enqueued and no server is alive."
        yield Finding(True, what, "Start one: firelock server app:fire")
    for server in sight.servers:
        if server.is_alive and not _is_alive(server, sight.now):
            last = max(record.expires_at for record in server.sessions)
            what = f"Server {server.name} has been silent past its time ({age(last, sight.now)})."
            mend = "If it is gone, start another one; its jobs go back to their queues at the next sweep."
            yield Finding(True, what, mend)
    missing = _unreplaced([server for server in sight.servers if not server.is_alive], alive)
    if ended := [server for server in missing if not server.is_lost]:
        what = f"Ended within a day, and none in its place: {_names(ended)}."
        yield Finding(False, what, "Nothing to do if that was meant; else start them again.")
    if lost := [server for server in missing if server.is_lost]:
        what = f"Lost within a day, and none in its place: {_names(lost)}."
        mend = "It was killed or cut off; what it ran is back in its queues. Start it again if it is missed."
        yield Finding(False, what, mend)


def _check_queues(sight: Sight) -> Iterator[Finding]:
    alive = sight.alive
    served = {name for server in alive for name in _queue_names(server.queues)}
    for queue in sight.queues:
        if queue.is_paused:
            note = f": {queue.note}" if queue.note else ""
            what = f"Queue {queue.name} is paused{note}; {_jobs(queue.enqueued)} enqueued."
            yield Finding(False, what, f"firelock queues resume {queue.name}")
        if queue.enqueued and alive and not {"*", queue.name} & served:
            what = f"Queue {queue.name}: {_jobs(queue.enqueued)} enqueued and no server listens to it."
            yield Finding(True, what, f"Start one that does: firelock server app:fire --queues {queue.name}")


def _check_tasks(sight: Sight) -> Iterator[Finding]:
    for task, count in sorted(sight.unregistered.items()):
        jobs = _seen(sight, State.SCHEDULED, count)
        what = f"{jobs} put off since no server that took them knows task {task}."
        mend = "Deploy the code that has it, add its module by --import, or keep its old name as an alias."
        yield Finding(True, what, mend)
    for serializer, count in sorted(sight.unreadable.items()):
        jobs = _seen(sight, State.SCHEDULED, count)
        what = f"{jobs} put off since no server that took them has the serializer {serializer}."
        mend = "Install the plugin that offers it where the servers run, and restart them."
        yield Finding(True, what, mend)
    for task, count in sorted(sight.unknown_here.items()):
        what = (
            f"{_seen(sight, State.ENQUEUED, count)} enqueued for task {task}, which this app does not have."
        )
        yield Finding(
            False, what, "Nothing to do if another app has it; else look for a task renamed or removed."
        )


def _check_recurring(sight: Sight) -> Iterator[Finding]:
    for one in sight.recurring:
        if one.error is not None:
            what = f"Recurring job {one.id} cannot be fired: {shorten(one.error, 300)}"
            mend = "Upgrade what is of the older version" if is_newer(one.record) else "Mend its definition"
            yield Finding(True, what, f"{mend}, or firelock recurring remove {one.id}")
        elif one.record.is_gone:
            what = f"Recurring job {one.id} is no longer declared in code and goes on running."
            yield Finding(False, what, f"firelock recurring remove {one.id}")
        if one.is_paused:
            last = clock_time(one.record.last_at)
            what = f"Recurring job {one.id} is paused; it {f'last ran for {last}' if last else 'never ran'}."
            yield Finding(False, what, f"firelock recurring resume {one.id}")


def _check_continuations(sight: Sight) -> Iterator[Finding]:
    if sight.in_vain:
        what = f"{_seen(sight, State.AWAITING, sight.in_vain)} waiting for a parent that has failed."
        mend = (
            "Requeue the parents (firelock jobs list --state failed), or delete them and what waits goes too."
        )
        yield Finding(False, what, mend)


# ---- words -----------------------------------------------------------------------------------------------


def _is_alive(server: ServerView, now: int) -> bool:
    return any(record.is_alive and record.expires_at > now for record in server.sessions)


def _queue_names(queues: str) -> list[str]:
    """Return the names in a choice of queues as a server writes it: "*", "a,b" or "a:3,b:1"."""
    return [part.partition(":")[0].strip() for part in queues.split(",")]


def _unreplaced(ended: Sequence[ServerView], alive: Sequence[ServerView]) -> list[ServerView]:
    """Return ended servers whose name or queues no living one has: a deploy changes host and pid."""
    names, choices = {server.name for server in alive}, {server.queues for server in alive}
    return [server for server in ended if server.name not in names and server.queues not in choices]


def _names(servers: Sequence[ServerView]) -> str:
    more = f" and {len(servers) - _NAMED} more" if len(servers) > _NAMED else ""
    named = ", ".join(f"{server.name} (queues {server.queues})" for server in servers[:_NAMED])
    return named + more


def _seen(sight: Sight, state: State, count: int) -> str:
    """Return how many jobs of a state's sample it is; there may be more where the sample is not all."""
    return f"At least {_jobs(count)}" if sight.by_state.get(state, 0) > _SAMPLE else _jobs(count)


def _jobs(count: int) -> str:
    return "1 job is" if count == 1 else f"{count:,} jobs are"
