"""What is wrong with a storage and those who work on it, and how to mend it."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from firelock.control.limits import LimitName, Limits, LimitView
from firelock.control.queues import Queues, QueueView
from firelock.control.recount import StillBatch, find_still
from firelock.control.recurring import stored_definitions
from firelock.control.servers import Servers, ServerState, ServerView, heard_at
from firelock.errors import SchemaMismatch, StorageError, StorageUnavailable
from firelock.jobs.blocked_by import HeldHead
from firelock.jobs.unread import PARTS
from firelock.model import lifecycle
from firelock.model.batch import Tally
from firelock.model.clock import micros
from firelock.model.dependencies import On
from firelock.model.job import JobRecord
from firelock.model.state import State
from firelock.model.text import age, clock_time, shorten, span
from firelock.schedules.recurring_job import RecurringJob, is_newer
from firelock.storage import Feature, Finding, JobFilter, SchemaState, Storage

if TYPE_CHECKING:
    from firelock.runtime import Runtime

_MICROS = 1_000_000
_WIDEST_SKEW = 2 * _MICROS
LONG_WAIT = 600 * _MICROS  # of the first job of a queue
_LOST_LATELY = 3_600 * _MICROS
_LATE_FIRING = 120 * _MICROS
_LATE_WAIT = 300 * _MICROS  # since a wait has timed out
_MANY_PAUSED = 100  # jobs
_FORGOTTEN = 3_600 * _MICROS  # since a limit was paused
_KEYS = 500  # of limits that are looked at
_FEWEST_RUNS = 10  # below which a rate says nothing
_HIGH_RATE, _TIMES_USUAL, _VERY_HIGH_RATE = 0.1, 3.0, 0.5


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
        findings += check_clock(Sight(0, skew=_skew(runtime, host_clock)))
        about.update(runtime.storage.describe())
        findings += runtime.storage.diagnose()
        findings += _check_writing(runtime.storage)
        sight = look(runtime, knows_tasks=knows_tasks)
        about.update(sight.about())
        findings += check_all(sight)
    except SchemaMismatch as error:
        findings.append(Finding(True, str(error), "Do that first; nothing else is looked at before."))
    except StorageError as error:
        mend = "Start it, or mend its address; check name, port, password and the rights on a file."
        findings.append(Finding(True, str(error), mend))
    return Diagnosis(about, findings)


_TEST_KIND = "doctor"
_TEST_KEYS = [f"write-{number}" for number in range(8)]
_TEST_BYTES = 1_000
"""Random bytes of a test record. All of them take more than a page of any database, so that a file grows.

One long value would do as well, but MariaDB 11.8 aborts when it stores a long value on a full disk.
"""


def _check_writing(storage: Storage) -> Iterator[Finding]:
    """Write some small records and delete them: a full disk answers every read and refuses this."""
    try:
        try:
            for key in _TEST_KEYS:
                storage.put_record(_TEST_KIND, key, json.dumps(secrets.token_hex(_TEST_BYTES)))
        finally:
            for key in _TEST_KEYS:
                storage.delete_record(_TEST_KIND, key)
    except StorageUnavailable as error:
        yield Finding(
            True, f"A test record could not be written: {error}",
            "Free space on its disk or in its memory, or let it take writes; until then it refuses jobs.",
        )  # fmt: skip
    except StorageError as error:
        yield Finding(
            False, f"Whether servers can write was not checked, because this user may not write: {error}",
            "Run the doctor as the user of the servers.",
        )  # fmt: skip


def _skew(runtime: Runtime, host_clock: Callable[[], int]) -> int:
    """Return by how much the storage's clock is ahead of this host's, the round trip taken out."""
    before = host_clock()
    there = runtime.storage.clock()
    return there - (before + host_clock()) // 2


_SAMPLE, _PAGE, _NAMED = 2_000, 500, 5
_WAITS_IN_VAIN = lifecycle.waiting_reason(On.SUCCEEDED, State.FAILED).partition(";")[0]


@attrs.frozen
class EndedRuns:
    """How many attempts of a task ended within a period, and how many of them did not succeed."""

    runs: int
    failed_attempts: int


@attrs.frozen
class Sight:
    """What was read of a storage, in one go; what nobody has looked at is left as it is."""

    now: int
    queues: Sequence[QueueView] = ()
    servers: Sequence[ServerView] = ()
    recurring: Sequence[RecurringJob] = ()
    by_state: Mapping[State, int] = attrs.Factory(dict)
    is_shared: bool = True
    skew: int = 0  # by how much the storage's clock is ahead of this host's, in micros
    storage: Sequence[Finding] = ()  # what the storage found wrong with itself
    unknown_here: Mapping[str, int] = attrs.Factory(dict)  # enqueued jobs by task the app does not know
    unregistered: Mapping[str, int] = attrs.Factory(dict)  # jobs by task, put off by servers for it
    unreadable: Mapping[str, int] = attrs.Factory(dict)  # jobs by serializer, put off for it
    unread: Mapping[str, int] = attrs.Factory(dict)  # jobs by the part that a newer release stored
    unknown_tasks: Mapping[str, int] = attrs.Factory(dict)  # enqueued jobs by task no server told of
    in_vain: int = 0  # continuations of failed parents
    oldest: Mapping[str, int] = attrs.Factory(dict)  # since when the first job of a queue waits
    held: Mapping[str, HeldHead] = attrs.Factory(dict)  # by queue, those whose first job a limit holds
    lately: Mapping[str, EndedRuns] = attrs.Factory(dict)  # by task, of some minutes
    usually: Mapping[str, EndedRuns] = attrs.Factory(dict)  # of the day
    muted: Mapping[str, float] = attrs.Factory(dict)  # which part of a task's failures nobody asks for
    limits: Sequence[LimitView] = ()  # the first 500 keys
    limit_names: Sequence[LimitName] = ()
    unlimited: Mapping[str, int] = attrs.Factory(dict)  # enqueued jobs without limits, by task that has some
    waits_at: Mapping[str, frozenset[str]] = attrs.Factory(dict)  # queues of enqueued jobs by limit's key
    too_costly: Mapping[str, int] = attrs.Factory(dict)  # the greatest cost by key that allows less at once
    keys_in_vain: Sequence[tuple[str, str]] = ()  # unique keys of continuations of failed parents: key, job
    overdue: Sequence[JobRecord] = ()  # awaiting jobs whose time-out, and batches whose hold, is long over
    still: Sequence[StillBatch] = ()  # batches that nothing will move
    apart: Sequence[tuple[str, str, str]] = ()  # task and two keys that cannot lie in one partition

    @property
    def alive(self) -> list[ServerView]:
        """The servers with a session that has not run out."""
        return [server for server in self.servers if not server.state_at(self.now).is_gone]

    def listening(self, queue: str) -> list[ServerView]:
        """Return who claims from the queue, or will have stopped in a moment; quiet servers do not."""
        return [
            server
            for server in self.servers
            if server.state_at(self.now).is_listening and server.listens_to(queue)
        ]

    def waits_since(self, queue: str) -> int | None:
        """Return since when the first job of a queue that no limit holds waits; None where none was seen."""
        head = self.held.get(queue)
        if head is None:
            return self.oldest.get(queue)
        return None if head.first is None else head.first.changed_at

    @property
    def enqueued(self) -> int:
        """How many jobs wait in all queues."""
        return sum(queue.enqueued for queue in self.queues)

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
    keyed = _Keyed(runtime, knows_tasks=knows_tasks)
    if knows_tasks or keyed.is_offered:
        for job in _sample(runtime, State.ENQUEUED):
            unknown[job.task] += knows_tasks and runtime.tasks.get(job.task) is None
            keyed.see(job)
    in_vain, overdue = _stuck(runtime, now)
    unregistered: Counter[str] = Counter()
    unreadable: Counter[str] = Counter()
    unread: Counter[str] = Counter()
    for job in _sample(runtime, State.SCHEDULED):
        unregistered[job.task] += lacks_task(job)
        unreadable[job.serializer] += lacks_serializer(job)
        if (part := lacks_release(job)) is not None:
            unread[part] += 1
    return Sight(
        now,
        queues=Queues(runtime.client).list(),
        servers=Servers(runtime.client).list(),
        recurring=list(map(RecurringJob, stored_definitions(storage))),
        by_state=storage.counts().by_state,
        is_shared=Feature.SHARED in storage.features,
        unknown_here=+unknown,
        unregistered=+unregistered,
        unreadable=+unreadable,
        unread=unread,
        in_vain=len(in_vain),
        limits=keyed.limits,
        limit_names=keyed.names,
        unlimited=keyed.unlimited,
        waits_at={key: frozenset(queues) for key, queues in keyed.queues.items()},
        too_costly=keyed.too_costly(),
        keys_in_vain=[
            (job.admission.unique.key, job.id)
            for job in in_vain
            if job.admission is not None and job.admission.unique is not None
        ],
        overdue=overdue,
        still=find_still(storage, now),
        apart=list(_apart(runtime)),
    )


class _Keyed:
    """What enqueued jobs say of limits."""

    def __init__(self, runtime: Runtime, *, knows_tasks: bool) -> None:
        self.is_offered = Feature.LIMITS in runtime.storage.features
        self._limited = {info.name for info in runtime.tasks if info.limits} if knows_tasks else set()
        limits = Limits(runtime.client, dict)
        self.limits = limits.list(limit=_KEYS) if self.is_offered else []
        self.names = limits.names() if self.is_offered else []
        self.unlimited: Counter[str] = Counter()
        self.queues: dict[str, set[str]] = {}
        self._costs: Counter[str] = Counter()

    def see(self, job: JobRecord) -> None:
        uses = job.admission.limits if job.admission is not None else ()
        self.unlimited[job.task] += not uses and job.task in self._limited
        self.unlimited = +self.unlimited
        for use in uses:
            self.queues.setdefault(use.key, set()).add(job.queue)
            self._costs[use.key] = max(self._costs[use.key], use.cost)

    def too_costly(self) -> dict[str, int]:
        """Return the cost of jobs that are never within what may start at once."""
        numbers = {view.key: view.numbers for view in self.limits}
        return {
            key: cost
            for key, cost in sorted(self._costs.items())
            if key in numbers and numbers[key].rate and cost > numbers[key].units
        }


def _apart(runtime: Runtime) -> Iterator[tuple[str, str, str]]:
    """Yield tasks whose jobs a storage with partitions refuses, as their keys do not begin alike."""
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


def _stuck(runtime: Runtime, now: int) -> tuple[list[JobRecord], list[JobRecord]]:
    in_vain, overdue = [], []
    for job in _sample(runtime, State.AWAITING):
        if (job.reason or "").startswith(_WAITS_IN_VAIN):
            in_vain.append(job)
        if job.due_at is not None and job.due_at < now - _LATE_WAIT:
            overdue.append(job)
    return in_vain, overdue


def _sample(runtime: Runtime, state: State) -> Iterator[JobRecord]:
    cursor, seen = None, 0
    while seen < _SAMPLE:
        page = runtime.storage.find(JobFilter(state=state), limit=_PAGE, cursor=cursor)
        yield from page.jobs
        seen, cursor = seen + len(page.jobs), page.cursor
        if cursor is None:
            return


def lacks_task(job: JobRecord) -> bool:
    """Tell whether a server put the job off since it does not know the task: see `lifecycle.unknown_task`."""
    return (job.reason or "").startswith(f"task {job.task!r} is not registered on server ")


def lacks_serializer(job: JobRecord) -> bool:
    """Tell whether a server put it off since it cannot read it: see `lifecycle.unknown_serializer`."""
    return (job.reason or "").startswith(f"serializer {job.serializer!r} is not installed on server ")


def lacks_release(job: JobRecord) -> str | None:
    """Return the part for which a server put the job off: see `lifecycle.unread_part`; None for no part."""
    name, found, _ = (job.reason or "").partition(" cannot be read on server ")
    return name if found and name in PARTS else None


# ---- storage ---------------------------------------------------------------------------------------------


def check_schema(schema: SchemaState) -> Finding | None:
    """Return what is wrong with the schema; nothing else can be read then."""
    if schema.found == schema.wanted:
        return None
    if schema.found == 0:
        what = "The storage has no schema yet; the first job creates it, or firelock migrate."
        return Finding(False, what, "If you expected jobs here, check the address.")
    if schema.found < schema.wanted:
        what = f"The storage has schema {schema.found}, this Firelock needs {schema.wanted}."
        return Finding(True, what, "Run firelock migrate.")
    what = f"The storage has schema {schema.found}, this Firelock knows {schema.wanted}."
    return Finding(True, what, "Upgrade Firelock here, or use the release that wrote it.")


def check_clock(sight: Sight) -> Iterator[Finding]:
    """Yield whether this host and the storage disagree about the time."""
    if abs(sight.skew) > _WIDEST_SKEW:
        word = "ahead of" if sight.skew > 0 else "behind"
        what = f"The storage's clock is {span(sight.skew)} {word} this host's."
        mend = "Let both follow a time server. Jobs go by the storage's clock, logs by the host's."
        yield Finding(False, what, mend, "skew", {"seconds": abs(sight.skew) / _MICROS})


# ---- everything else -------------------------------------------------------------------------------------


def check_all(sight: Sight) -> list[Finding]:
    """Return every finding: servers, queues, tasks, recurring jobs, what waits, limits, in this order."""
    return [
        finding
        for check in (
            _check_sharing, _check_no_server, _check_silence, _check_missing, _check_stuck, _check_parked,
            _check_paused, _check_listeners, _check_unregistered, _check_unreadable, _check_unread,
            _check_unknown_here, _check_recurring, _check_gone, _check_continuations, _check_overdue,
            _check_still,
            _check_limit_zeros, _check_limit_pauses, _check_unserved_limits, _check_costs, _check_unlimited,
            _check_keys_in_vain, _check_apart,
        )
        for finding in check(sight)
    ]  # fmt: skip


def check_running(sight: Sight) -> list[Finding]:
    """Return what somebody who watches has to know, the worst kinds first: what goes wrong at this moment."""
    return [
        finding
        for check in (
            _check_no_server, _storage_errors, _check_listeners, _check_unknown_tasks, _check_lost,
            _check_stuck, _check_parked, _check_failing, _check_unpaused, _check_late, _check_long_waits,
            _check_full_pauses, _check_forgotten_limits, check_clock,
        )
        for finding in check(sight)
    ]  # fmt: skip


def _check_sharing(sight: Sight) -> Iterator[Finding]:
    if not sight.is_shared:
        what = "This storage lives in one process: no other one sees its jobs, and they end with it."
        yield Finding(False, what, "Use sqlite:///jobs.db or a server for jobs that matter.", "not_shared")


def _storage_errors(sight: Sight) -> Iterator[Finding]:
    return (finding for finding in sight.storage if finding.is_error)


# ---- servers ---------------------------------------------------------------------------------------------


def _check_no_server(sight: Sight) -> Iterator[Finding]:
    if sight.enqueued and not sight.alive:
        what = f"{_jobs(sight.enqueued)} enqueued and no server is alive."
        yield Finding(
            True, what, "Start one: firelock server app:fire", "no_server", {"count": sight.enqueued},
            min(sight.oldest.values(), default=None),
        )  # fmt: skip


def _check_silence(sight: Sight) -> Iterator[Finding]:
    for server in sight.servers:
        if server.is_alive and not server.living(sight.now):
            last = max(record.expires_at for record in server.sessions)
            what = f"Server {server.name} sends no heartbeat; its session ran out {age(last, sight.now)}."
            mend = "If it is gone, start another one; its jobs go back to their queues at the next sweep."
            yield Finding(True, what, mend, "server_silent", {"server": server.name}, last)


def _check_missing(sight: Sight) -> Iterator[Finding]:
    missing = _unreplaced([server for server in sight.servers if not server.is_alive], sight.alive)
    if ended := [server for server in missing if not server.is_lost]:
        what = f"Ended in the last 24 hours, and no running server has the name or queues: {_names(ended)}."
        yield Finding(False, what, "Nothing to do if that was meant; else start them again.", "server_ended")
    if lost := [server for server in missing if server.is_lost]:
        what = f"Lost in the last 24 hours, and no running server has the name or queues: {_names(lost)}."
        mend = "It was killed or cut off; what it ran is back in its queues. Start it again if it is missed."
        yield Finding(False, what, mend, "server_missing")


def _check_stuck(sight: Sight) -> Iterator[Finding]:
    for server in sight.alive:
        alive = server.living(sight.now)
        threads = sum(record.renewal.stuck_threads for record in alive)
        coroutines = sum(record.renewal.stuck_coroutines for record in alive)
        if not threads and not coroutines:
            continue
        workers = sum(record.session.workers for record in alive)
        taken = [f"{threads:,} of {workers:,} threads"] if threads else []
        taken += ["1 coroutine" if coroutines == 1 else f"{coroutines:,} coroutines"] if coroutines else []
        verb = "is" if threads + coroutines == 1 else "are"
        yield Finding(
            threads >= workers,
            f"Server {server.name}: {' and '.join(taken)} {verb} taken by jobs past their timeout.",
            'Its log names the jobs (search for "ignores its timeout"). Check job.cancelled in their tasks, '
            'or use executor="process", whose jobs can be killed. A restart of the server frees the workers.',
            "stuck_workers",
            {"server": server.name, "threads": threads, "coroutines": coroutines},
        )


def _check_parked(sight: Sight) -> Iterator[Finding]:
    for server in sight.alive:
        parked = sum(record.renewal.parked for record in server.living(sight.now))
        if parked:
            yield Finding(
                False,
                f"Server {server.name}: {parked:,} ended jobs cannot be stored, as other transactions have "
                "locked their rows.",
                'Its log names the jobs (search for "has locked its row"). Look for a long transaction in '
                "the database and end it; keep transactions that change jobs short.",
                "parked_ends",
                {"server": server.name, "parked": parked},
            )


def _check_lost(sight: Sight) -> Iterator[Finding]:
    """Servers that missed renewals, and such as were lost in the midst of work and did not come back."""
    states = [(server, server.state_at(sight.now)) for server in sight.servers]
    back = {server.name for server, state in states if not state.is_gone}
    silent = [
        server
        for server, state in states
        if state is ServerState.STALE
        or (state is ServerState.LOST and server.name not in back and _was_working(server, sight.now))
    ]
    if silent:
        heard = max(heard_at(record, sight.now) for server in silent for record in server.sessions)
        names = ", ".join(sorted(server.name for server in silent)[:3])
        yield Finding(
            True, f"No longer heard of: {_names(silent)}.", "Look at the host and its log, or start another.",
            "server_lost", {"count": len(silent), "servers": names}, heard,
        )  # fmt: skip


def _was_working(server: ServerView, now: int) -> bool:
    return any(
        record.renewal.busy
        and record.renewal.state != "stopping"
        and now - heard_at(record, now) < _LOST_LATELY
        for record in server.sessions
    )


# ---- queues ----------------------------------------------------------------------------------------------


def _check_paused(sight: Sight) -> Iterator[Finding]:
    for queue in sorted(sight.queues, key=lambda queue: -queue.enqueued):
        if queue.is_paused:
            note = f": {queue.note}" if queue.note else ""
            what = f"Queue {queue.name} is paused{note}; {_jobs(queue.enqueued)} enqueued."
            yield Finding(
                False, what, f"firelock queues resume {queue.name}", "paused",
                {"queue": queue.name, "count": queue.enqueued, "note": queue.note or ""},
                sight.oldest.get(queue.name),
            )  # fmt: skip


def _check_full_pauses(sight: Sight) -> Iterator[Finding]:
    queues = [queue for queue in sight.queues if queue.enqueued >= _MANY_PAUSED]
    return _check_paused(attrs.evolve(sight, queues=queues))


def _check_listeners(sight: Sight) -> Iterator[Finding]:
    if not sight.alive:
        return  # said already
    for queue in sorted(sight.queues, key=lambda queue: -queue.enqueued):
        if queue.enqueued and not queue.is_paused and not sight.listening(queue.name):
            what = f"Queue {queue.name}: {_jobs(queue.enqueued)} enqueued and no server listens to it."
            yield Finding(
                True, what, f"Start one that does: firelock server app:fire --queues {queue.name}",
                "no_listener", {"queue": queue.name, "count": queue.enqueued}, sight.oldest.get(queue.name),
            )  # fmt: skip


def _check_long_waits(sight: Sight) -> Iterator[Finding]:
    for queue in sight.queues:
        since = sight.waits_since(queue.name)
        is_long = since is not None and sight.now - since >= LONG_WAIT
        if is_long and not queue.is_paused and sight.listening(queue.name):
            yield Finding(
                False, f"The first job of queue {queue.name} waits for long.", "Give it more workers.",
                "long_wait", {"queue": queue.name, "count": queue.enqueued}, since,
            )  # fmt: skip


# ---- tasks -----------------------------------------------------------------------------------------------


def _counted(
    code: str, counts: str, noun: str, what: str, mend: str, *,
    of: State | None = State.SCHEDULED, is_error: bool = True,
) -> Callable[[Sight], Iterator[Finding]]:  # fmt: skip
    """Return the check of jobs counted by a name, the largest count first where all were counted."""

    def check(sight: Sight) -> Iterator[Finding]:
        found: Mapping[str, int] = getattr(sight, counts)
        for name, count in sorted(found.items(), key=lambda one: (0 if of else -one[1], one[0])):
            jobs = _jobs(count) if of is None else _seen(sight, of, count)
            yield Finding(is_error, f"{jobs} {what.format(name)}", mend, code, {noun: name, "count": count})

    return check


_check_unregistered = _counted(
    "unregistered", "unregistered", "task", "put off since no server that took them knows task {}.",
    "Deploy the code that has it, add its module by --import, or keep its old name as an alias.",
)  # fmt: skip
_check_unreadable = _counted(
    "unreadable", "unreadable", "serializer",
    "put off since no server that took them has the serializer {}.",
    "Install the plugin that offers it where the servers run, and restart them.",
)  # fmt: skip
_check_unread = _counted(
    "unread", "unread", "part",
    "put off since no server that took them can read {}, which a newer release may have stored.",
    "Upgrade the servers.",
)  # fmt: skip
_check_unknown_here = _counted(
    "unknown_here", "unknown_here", "task", "enqueued for task {}, which this app does not have.",
    "Nothing to do if another app has it; else look for a task renamed or removed.",
    of=State.ENQUEUED, is_error=False,
)  # fmt: skip
_check_unknown_tasks = _counted(
    "unknown_task", "unknown_tasks", "task", "enqueued for task {}, which no server knows.",
    "Deploy the code that has it, or keep its old name as an alias.", of=None,
)  # fmt: skip


def _check_failing(sight: Sight) -> Iterator[Finding]:
    found = []
    for task, ended in sight.lately.items():
        if ended.runs < _FEWEST_RUNS:
            continue
        told = ended.failed_attempts * (1 - sight.muted.get(task, 0.0))
        rate, usual = told / ended.runs, _usual_rate(ended, sight.usually.get(task))
        if rate >= (_VERY_HIGH_RATE if usual is None else max(_HIGH_RATE, _TIMES_USUAL * usual)):
            found.append((rate, task, usual))
    for rate, task, usual in sorted(found, key=lambda one: (-one[0], one[1])):
        what = f"Task {task} fails in {rate:.0%} of its attempts."
        values = {"task": task, "rate": rate, "usual": usual}
        yield Finding(rate >= _VERY_HIGH_RATE, what, "Look at its errors.", "failing", values)


def _usual_rate(lately: EndedRuns, usually: EndedRuns | None) -> float | None:
    """Return the day's rate of failed attempts, less what has just ended; None where that is too little."""
    runs = 0 if usually is None else usually.runs - lately.runs
    if usually is None or runs < _FEWEST_RUNS:
        return None
    return max(0, usually.failed_attempts - lately.failed_attempts) / runs


# ---- recurring jobs and continuations ----------------------------------------------------------------------


def _check_unpaused(sight: Sight) -> Iterator[Finding]:
    return _check_recurring(
        attrs.evolve(sight, recurring=[one for one in sight.recurring if not one.is_paused])
    )


def _check_recurring(sight: Sight) -> Iterator[Finding]:
    for one in sight.recurring:
        if one.error is not None:
            what = f"Recurring job {one.id} cannot be fired: {shorten(one.error, 300)}"
            mend = "Upgrade what is of the older version" if is_newer(one.record) else "Mend its definition"
            yield Finding(
                True, what, f"{mend}, or firelock recurring remove {one.id}", "recurring_error",
                {"recurring": one.id, "error": one.error}, one.record.last_at,
            )  # fmt: skip


def _check_late(sight: Sight) -> Iterator[Finding]:
    late = sorted(
        (one.record.next_at, one.id)
        for one in sight.recurring
        if one.record.next_at is not None and sight.now - one.record.next_at > _LATE_FIRING
        if not one.is_paused and not one.error
    )
    if late:  # mostly for one reason: no server is there to fire them
        since, first = late[0]
        values = {"count": len(late), "recurring": first, "others": len(late) - 1}
        what = f"Recurring job {first} did not fire in time."
        yield Finding(False, what, "Start a server: each of them fires.", "recurring_late", values, since)


def _check_gone(sight: Sight) -> Iterator[Finding]:
    for one in sight.recurring:
        if one.error is None and one.record.is_gone:
            what = f"Recurring job {one.id} is no longer declared in code and goes on running."
            yield Finding(False, what, f"firelock recurring remove {one.id}", "recurring_gone")
        if one.is_paused:
            last = clock_time(one.record.last_at)
            what = f"Recurring job {one.id} is paused; it {f'last ran for {last}' if last else 'never ran'}."
            yield Finding(False, what, f"firelock recurring resume {one.id}", "recurring_paused")


def _check_continuations(sight: Sight) -> Iterator[Finding]:
    if sight.in_vain:
        what = f"{_seen(sight, State.AWAITING, sight.in_vain)} waiting for a parent that has failed."
        mend = (
            "Requeue the parents (firelock jobs list --state failed), or delete them and what waits goes too."
        )
        yield Finding(False, what, mend, "in_vain", {"count": sight.in_vain})


def _check_overdue(sight: Sight) -> Iterator[Finding]:
    if sight.overdue:
        first = min(sight.overdue, key=lambda job: job.due_at or 0)
        what = f"{_seen(sight, State.AWAITING, len(sight.overdue))} waiting past the time-out."
        mend = "Start a server: each of them lets go on what is due. Else look at its log: upkeep fails."
        values = {"job": first.id, "count": len(sight.overdue)}
        yield Finding(True, what, mend, "wait_overdue", values, first.due_at)


def _check_still(sight: Sight) -> Iterator[Finding]:
    for batch in sight.still:
        name, tally, members = batch.name, batch.tally, batch.members
        values = {"batch": batch.id, "name": name}
        if batch.is_miscounted:
            what = (
                f"Batch {name} ({batch.id}) has not moved for an hour, and counts {_shown(tally)}, "
                f"while there are {_shown(members)}."
            )
            mend = f"This should not be: report it. firelock batches cancel {batch.id} ends it."
            yield Finding(True, what, mend, "batch_miscounted", values)
        else:
            what = (
                f"Batch {name} ({batch.id}) has {_shown(tally)}, and nobody has decided its end for an hour."
            )
            mend = "Start a server: each of them does. Else look at its log: upkeep fails."
            yield Finding(True, what, mend, "batch_undecided", values)


def _shown(tally: Tally) -> str:
    """Return the counts of a batch, without those of nothing."""
    counts = {
        "active": tally.active, "waiting": tally.waiting, "succeeded": tally.succeeded,
        "failed": tally.failed, "deleted": tally.deleted,
    }  # fmt: skip
    told = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
    return f"{tally.total:,} members ({told})" if told else "no members"


# ---- limits and unique keys --------------------------------------------------------------------------------


def _check_limit_zeros(sight: Sight) -> Iterator[Finding]:
    for name, waiting in _of_names(sight, lambda one: one.concurrent == 0 or one.rate == 0):
        what = f"Limit {name} has a number of zero: none of its jobs starts; {_jobs(waiting)} waiting."
        mend = f"If that was meant, firelock limits pause {name} says why; else firelock limits set {name}"
        yield Finding(False, what, mend, "limit_zero", {"limit": name, "count": waiting})


def _check_limit_pauses(sight: Sight) -> Iterator[Finding]:
    for name, waiting in _of_names(sight, lambda one: one.is_paused):
        one = next(one for one in (*sight.limits, *sight.limit_names) if _called(one, name) and one.is_paused)
        note = f": {one.note}" if one.note else ""
        since = None if one.paused_at is None else micros(one.paused_at)
        what = f"Limit {name} is paused{note}; {_jobs(waiting)} waiting."
        yield Finding(
            False, what, f"firelock limits resume {name}", "limit_paused",
            {"limit": name, "count": waiting, "note": one.note}, since,
        )  # fmt: skip


def _check_forgotten_limits(sight: Sight) -> Iterator[Finding]:
    for finding in _check_limit_pauses(sight):
        count = finding.values["count"]
        is_old = finding.since is not None and sight.now - finding.since >= _FORGOTTEN
        if isinstance(count, int) and (count >= _MANY_PAUSED or (count and is_old)):
            yield finding


def _of_names(sight: Sight, is_so: Callable[[LimitName], bool]) -> list[tuple[str, int]]:
    """Return names and keys that are so, keys whose name is so counted there, with how many jobs wait."""
    waiting: Counter[str] = Counter()
    for name in sight.limit_names:
        if is_so(name):
            waiting[name.name] += 0
    for view in sight.limits:
        if is_so(view):
            waiting[view.name if view.name in waiting and not view.is_own else view.key] += view.waiting
    return sorted(waiting.items(), key=lambda one: (-one[1], one[0]))


def _called(one: LimitName, name: str) -> bool:
    return name == (one.key if isinstance(one, LimitView) else one.name)


def _check_unserved_limits(sight: Sight) -> Iterator[Finding]:
    if not sight.alive:
        return  # said already
    paused = {queue.name for queue in sight.queues if queue.is_paused}
    unserved = [
        (key, queues)
        for key, queues in sorted(sight.waits_at.items())
        if not any(queue in paused or sight.listening(queue) for queue in queues)
    ]
    if unserved:
        key, queues = unserved[0]
        others = f", and of {len(unserved) - 1:,} more limits," if len(unserved) > 1 else ""
        where = ", ".join(sorted(queues))
        what = f"Jobs of limit {key}{others} wait in queues that no server listens to: {where}."
        mend = f"Start a server that does: firelock server app:fire --queues {min(queues)}"
        values = {"limit": key, "count": len(unserved), "queue": min(queues)}
        yield Finding(True, what, mend, "limit_unserved", values)


def _check_costs(sight: Sight) -> Iterator[Finding]:
    for view in sight.limits:
        if cost := sight.too_costly.get(view.key):
            what = (
                f"A job of limit {view.key} costs {cost:,}, and {view.numbers.units:,.0f} may be used at "
                "once. It is late, never lost: it waits until the key is wholly free, and others behind it."
            )
            mend = f"Allow more at once: firelock limits set {view.name} --burst {cost}"
            yield Finding(False, what, mend, "limit_cost", {"limit": view.key, "count": cost})


_check_unlimited = _counted(
    "unlimited", "unlimited", "task",
    "enqueued without limits for task {}, whose code has some.",
    "Where they were enqueued its stub (remote=True) or older code declares none: declare the same there. "
    "Nothing to do if the call said limits=[].",
    of=State.ENQUEUED, is_error=False,
)  # fmt: skip


def _check_keys_in_vain(sight: Sight) -> Iterator[Finding]:
    if sight.keys_in_vain:
        stored, job_id = sight.keys_in_vain[0]
        task, _, key = stored.partition(" ")
        count = len(sight.keys_in_vain)
        others = f"; so are {count - 1:,} more keys" if count > 1 else ""
        what = f"Unique key {key} of task {task} is held by job {job_id}, whose parent has failed{others}."
        mend = f"Until then its calls are duplicates. Requeue the parent, or firelock jobs delete {job_id}"
        values = {"key": key, "task": task, "job": job_id, "count": count}
        yield Finding(False, what, mend, "unique_in_vain", values)


def _check_apart(sight: Sight) -> Iterator[Finding]:
    for task, first, second in sight.apart:
        what = (
            f"Task {task} has keys {first} and {second}: this storage has partitions, and refuses a job "
            "whose keys do not begin alike up to their first '/'."
        )
        of_one, of_all = (first, second) if "{" in first else (second, first)
        mend = "Give them one beginning, as tenant:{tenant_id} and tenant:{tenant_id}/api."
        if "{" in of_one and "{" not in of_all and "(" not in of_all:
            mend = f"Write {of_all}/{of_one} in place of {of_one}: all jobs of {of_all} lie together then."
        yield Finding(True, what, mend, "limit_apart", {"task": task, "limit": first})


# ---- words -----------------------------------------------------------------------------------------------


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
