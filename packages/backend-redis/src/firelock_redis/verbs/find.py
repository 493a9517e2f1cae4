"""Queries of jobs for people: pages in order of time, single jobs, and totals.

The jobs of a page can be in several lists, which are read and merged as far as the page needs.

Each partition has these lists: one per state and queue, ordered by the time of the change; one per tag,
parent, batch and recurring job, ordered by creation time; one of its scheduled jobs, ordered by due time; and
one of all its jobs. If few jobs match one part of the filter, the whole list of these jobs is read and
sorted. Otherwise, lists in the order of the page are read, and the rest of the filter is checked job by job,
up to a maximum cost. So the time for a page is bounded, regardless of the number of stored jobs. If the
search reaches this maximum cost, the page is short but has a cursor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import attrs
from typing_extensions import override

from firelock.storage import (
    Counts,
    ErrorInfo,
    FailedAttempt,
    FailureGroup,
    FoundJobs,
    JobFilter,
    JobHistory,
    JobRecord,
    Progress,
    State,
    rules,
)
from firelock_redis.connections.database import RedisDatabase, RedisVerbs
from firelock_redis.layout.encoding import (
    FAILURE,
    LETTERS,
    PAYLOAD,
    PROGRESS,
    number_word,
    read_history,
    record_of,
    state_of,
    task_head,
    text_word,
)
from firelock_redis.layout.words import Found, Walk, Word

RARE = 2_000
"""The maximum number of jobs, in all partitions together, for lists to be read whole."""

PAGE_COST = 40_000
"""The maximum cost of the scripts for a page if they find no job, in units of about a microsecond."""

SCRIPT_COST = 2_500
"""The maximum cost of one script, in the same units."""

_AT_ONCE = 1_000  # maximum number of places in one reply
_LEAST = 8  # number of jobs that are first requested from each search if there are several searches
_LEAST_COST = 300
_TOGETHER = 32  # maximum number of lists that one script reads together
_ALL = ("all",)
_DUE = ("due",)
_NOWHERE = ("", "")


@attrs.frozen
class Query:
    """A filter, a direction, and the place after which to start."""

    where: JobFilter
    after: rules.Place | None
    is_oldest_first: bool

    def is_before(self, one: rules.Place, other: rules.Place) -> bool:
        """Return whether the first place comes before the second one in the list."""
        return one < other if self.is_oldest_first else one > other

    def is_shown(self, place: rules.Place) -> bool:
        """Return whether the place is within the window of time and after the cursor."""
        since, until = self.where.since, self.where.until
        return (
            (since is None or since <= place[0])
            and (until is None or place[0] < until)
            and (self.after is None or self.is_before(self.after, place))
        )

    def in_order(self, places: Sequence[rules.Place]) -> list[rules.Place]:
        """Return the places in the order of the list."""
        return sorted(places, reverse=not self.is_oldest_first)


@attrs.define
class _ListWalk:
    """Lists of one partition that are searched together, and the progress of this search."""

    partition: int
    lists: Sequence[str]
    sets: Sequence[str] = ()  # other lists that must contain a matching job
    time_kind: str = (
        "score"  # for other values, the lists are not in the order of the page and are read completely
    )
    reached: rules.Place | None = None
    is_done: bool = False
    places: list[rules.Place] = attrs.field(factory=list)  # places that were found but not yet returned

    def read(self, database: RedisDatabase, query: Query, wanted: int, cost: int) -> bool:
        """Read up to `wanted` more places; return whether the search stopped at its maximum cost.

        If the order of the lists differs from that of the page, read all places.
        """
        if self.time_kind != "score":
            self._read_whole(database, query)
            return False
        wanted = min(wanted, _AT_ONCE)
        after = self.reached or query.after or _NOWHERE
        window = number_word(query.where.since), number_word(query.where.until)
        found = self._walk(database, query, wanted, cost, after=after, window=window)
        self.places += found
        return not self.is_done and len(found) < wanted

    def _read_whole(self, database: RedisDatabase, query: Query) -> None:
        found: list[rules.Place] = []
        while not self.is_done:
            found += self._walk(database, query, _AT_ONCE, SCRIPT_COST, after=self.reached or _NOWHERE)
        self.places = query.in_order([place for place in found if query.is_shown(place)])

    def _walk(
        self,
        database: RedisDatabase,
        query: Query,
        wanted: int,
        cost: int,
        *,
        after: tuple[Word, str],
        window: tuple[Word, Word] = ("", ""),
    ) -> list[rules.Place]:
        where = query.where
        # A condition that all jobs in these lists meet need not be checked for each job.
        are_of_state = all(name[:2] in {"l:", "he"} for name in self.lists)
        are_of_queue = all(name[:2] == "l:" for name in self.lists)
        state = State.SCHEDULED if where.by_due else where.state
        walk = Walk(
            oldest_first=int(query.is_oldest_first),
            since=window[0],
            before=window[1],
            place_score=after[0],
            place_id=after[1],
            wanted=wanted,
            budget=cost,
            time=self.time_kind,
            prefix=where.id_prefix or "",
            state="" if state is None or are_of_state else LETTERS[state],
            queue="" if where.queue is None or are_of_queue else where.queue,
            task="" if where.task is None else task_head(where.task),
            server=text_word(where.server),
            fingerprint=text_word(where.fingerprint),
            retrying="" if where.is_retrying is None else int(where.is_retrying),
            sets=len(self.sets),
        )
        is_done, time, id, *found = database.run("find", self.partition, *walk, *self.sets, *self.lists)
        self.is_done = bool(is_done)
        if id:
            self.reached = _micros(time), id
        return list(zip(map(_micros, found[::2]), found[1::2], strict=True))

    def take_until(self, query: Query, horizon: rules.Place | None) -> list[rules.Place]:
        """Remove and return the found places up to the horizon, or all of them if there is no horizon."""
        if horizon is None:
            taken, self.places = self.places, []
            return taken
        taken = [place for place in self.places if not query.is_before(horizon, place)]
        self.places = self.places[len(taken) :]
        return taken


def _micros(score: str) -> int:
    return int(score) if score.lstrip("-").isdigit() else int(float(score))


# ---- choice of lists -------------------------------------------------------------------------------------


def _walks(database: RedisDatabase, where: JobFilter) -> Iterator[_ListWalk]:
    """Yield searches that together find every job that matches the filter exactly once."""
    relative = where.parent_id if where.batch_id is None else where.batch_id
    if relative is not None:  # children are in their parent's partition, members in their batch's partition
        yield from _walks_in(database, database.partitions.of(relative), where)
        return
    for partition in range(database.partitions.number):
        yield from _walks_in(database, partition, where)


def _walks_in(database: RedisDatabase, partition: int, where: JobFilter) -> Iterator[_ListWalk]:
    rare, few = _rare_lists(where), RARE // database.partitions.number
    if where.by_due and not rare and where.queue is None:
        yield _ListWalk(partition, _DUE)
        return
    letters = _letters(where, is_rare=bool(rare))
    if not letters and not rare:
        yield _ListWalk(partition, _ALL)
        return
    queue = "" if where.queue is None else f"={where.queue}"
    reply = database.run("reading.lists", partition, letters, queue, *rare)
    lengths = sorted(zip(reply, rare, strict=False))
    lists = dict(zip(reply[len(rare) :: 2], reply[len(rare) + 1 :: 2], strict=True))
    total = sum(lists.values())
    if rare:
        length, name = lengths[0]
        others = [other for _, other in lengths[1:]]
        if where.by_due:
            is_few = length <= few
            yield _ListWalk(partition, [name], others, "due") if is_few else _ListWalk(partition, _DUE, rare)
        elif where.state is None:
            yield _ListWalk(partition, [name], others)
        elif length <= min(few, total):
            yield _ListWalk(partition, [name], others, "changed")
        else:
            yield from _merged(partition, list(lists), rare)
    elif where.by_due:
        is_few = total <= few
        yield from _merged(partition, list(lists), (), "due") if is_few else [_ListWalk(partition, _DUE)]
    elif where.state is not None:
        yield from _merged(partition, list(lists), ())
    elif total <= few:
        yield from _merged(partition, list(lists), (), "created")
    else:
        yield _ListWalk(partition, _ALL)


def _merged(
    partition: int, lists: Sequence[str], sets: Sequence[str], time_kind: str = "score"
) -> Iterator[_ListWalk]:
    for start in range(0, len(lists), _TOGETHER):
        yield _ListWalk(partition, lists[start : start + _TOGETHER], sets, time_kind)


def _rare_lists(where: JobFilter) -> list[str]:
    """Return the lists, ordered by creation time, that contain every job that matches the filter."""
    named = (
        ("bm", where.batch_id), ("c", where.parent_id), ("t", where.tag), ("rj", where.recurring_id)
    )  # fmt: skip
    return [f"{kind}:{value}" for kind, value in named if value is not None]


def _letters(where: JobFilter, *, is_rare: bool) -> str:
    """Return the letters of the states whose lists together contain every job that matches the filter.

    The string is empty if no lists by state are needed.
    """
    if where.by_due:
        return LETTERS[State.SCHEDULED]
    if where.state is not None:
        return LETTERS[where.state]
    if is_rare:
        return ""
    if where.is_retrying:
        return LETTERS[State.SCHEDULED]
    return "" if where.queue is None else "".join(LETTERS.values())


# ---- page ------------------------------------------------------------------------------------------------


def first_places(
    database: RedisDatabase, query: Query, limit: int
) -> tuple[list[rules.Place], rules.Place | None]:
    """Return the first places in order and, if the search is incomplete, the last place that it reached.

    If more than `limit` jobs match, more than `limit` places are returned. This takes one round trip per
    partition, two if the lists must be chosen first, and more for a limit above 1,000.
    """
    walks = list(_walks(database, query.where))
    found: list[rules.Place] = []
    horizon: rules.Place | None = None
    cost = min(SCRIPT_COST, max(_LEAST_COST, PAGE_COST // max(1, len(walks))))
    turn = spent = 0
    while True:
        wanted = limit + 1 - len(found)
        if len(walks) > 1:  # any number of the first jobs might come from one search
            wanted = min(wanted, max(_LEAST, 2 * wanted // len(walks)) << turn)
        turn += 1
        for walk in walks:
            if not walk.is_done and walk.reached == horizon:
                spent += cost * walk.read(database, query, wanted, cost)
        horizon = _least_reached(query, walks)
        found += query.in_order([place for walk in walks for place in walk.take_until(query, horizon)])
        if horizon is None or len(found) > limit:
            return found, None
        if spent >= PAGE_COST:
            return found, horizon


def _least_reached(query: Query, walks: Sequence[_ListWalk]) -> rules.Place | None:
    reached = [walk.reached for walk in walks if not walk.is_done and walk.reached is not None]
    if not reached:
        return None
    return min(reached) if query.is_oldest_first else max(reached)


Texts = tuple[str, str, str | None]
"""The stored record, payload and progress of a job."""

_READ_AT_ONCE = 500
_GROUPED_LIMIT = 10_000
_COUNTED = tuple(map(state_of, "WCESFDP"))
# The exceptions that damaged data can cause.
_GARBAGE = (ValueError, LookupError, TypeError, RecursionError)


# ---- jobs ------------------------------------------------------------------------------------------------


class FindVerbs(RedisVerbs):
    """The verbs that read jobs for people."""

    @override
    def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        """See `Storage.get`. This takes one round trip per 500 jobs of a partition, or per megabyte."""
        found = read_texts(self.database, ids)
        jobs = {id: read_job(id, texts) or damaged_job(id, texts, 0) for id, texts in found.items()}
        return [jobs.get(id) for id in ids]

    @override
    def find(
        self, where: JobFilter, *, limit: int, cursor: str | None = None, oldest_first: bool = False
    ) -> FoundJobs:
        """See `Storage.find`; first find the places on the page, then read the jobs at these places.

        A job whose place changes between these two reads is not on the page.
        """
        after = None if cursor is None else rules.read_cursor(cursor, where, oldest_first=oldest_first)
        is_scheduled = where.is_retrying or where.by_due
        if limit <= 0 or (is_scheduled and where.state not in {None, State.SCHEDULED}):
            return FoundJobs([], None)
        if where.id_prefix is not None and len(where.id_prefix) >= _ID_LENGTH:
            jobs = [job for job in self.get([where.id_prefix]) if job is not None]
            return rules.paged(jobs, where, limit=limit, cursor=cursor, oldest_first=oldest_first)
        places, reached = first_places(self.database, Query(where, after, oldest_first), limit)
        shown = places[:limit]
        following = shown[-1] if len(places) > limit else reached
        return FoundJobs(
            _read_listed(self.database, where, shown),
            None if following is None else rules.write_cursor(following, where, oldest_first=oldest_first),
        )

    @override
    def history(self, job_id: str) -> JobHistory:
        """See `Storage.history`. This takes two round trips, because the tracebacks are stored separately."""
        lines = self._run("reading.errors", self._partitions.of(job_id), job_id)
        attempts = [attempt for line in lines if (attempt := _read_attempt(line)) is not None]
        texts = read_texts(self.database, [job_id]).get(job_id)
        if texts is None:
            return JobHistory([], attempts)
        record, payload, _ = texts
        try:
            (created,) = PAYLOAD.read(payload, "created")
            return JobHistory(read_history(record, int(created)), attempts)
        except _GARBAGE:
            return JobHistory([], attempts)

    @override
    def counts(self) -> Counts:
        """See `Storage.counts`. This takes one round trip per 400 queues of a partition."""
        by_state: dict[State, int] = {}
        by_queue: dict[str, dict[State, int]] = {}
        for partition in range(self._partitions.number):
            for queue, *numbers in self._run_on("reading.counts", partition):
                for state, number in zip(_COUNTED, numbers, strict=True):
                    if number:
                        by_state[state] = by_state.get(state, 0) + number
                        states = by_queue.setdefault(queue, {})
                        states[state] = states.get(state, 0) + number
        return Counts(by_state, by_queue)

    @override
    def failure_groups(self, limit: int) -> list[FailureGroup]:
        """See `Storage.failure_groups`; find the failed jobs, then use one round trip per 500 of them."""
        query = Query(JobFilter(state=State.FAILED), None, is_oldest_first=False)
        places, _ = first_places(self.database, query, _GROUPED_LIMIT)
        sizes: Counter[str] = Counter()
        newest: dict[str, rules.Place] = {}
        for some, groups in _grouped(self.database, places[:_GROUPED_LIMIT]):
            for mark, size, first in groups:
                sizes[mark] += size
                newest[mark] = max(some[first], newest.get(mark, some[first]))
        largest = sorted(sizes, key=lambda mark: (-sizes[mark], mark))[: max(0, limit)]
        samples = self.get([newest[mark][1] for mark in largest])
        return [
            FailureGroup(
                fingerprint=mark,
                type=job.error.type,
                message=job.error.message,
                task=job.task,
                count=sizes[mark],
                newest_at=newest[mark][0],
                sample_id=job.id,
            )
            for mark, job in zip(largest, samples, strict=True)
            if job is not None and job.error is not None
        ]


def read_texts(database: RedisDatabase, ids: Iterable[str]) -> dict[str, Texts]:
    """Return the stored strings of the jobs by id; jobs that are not stored are missing."""
    found: dict[str, Texts] = {}
    for partition, asked in database.partitions.by_partition(dict.fromkeys(ids)).items():
        while asked:
            some = asked[:_READ_AT_ONCE]
            texts, width = database.run("reading.get", partition, *some), len(Found._fields)
            read = [Found(*texts[at : at + width]) for at in range(0, len(texts), width)]
            for id, one in zip(some, read, strict=False):
                if one.record is not None:
                    found[id] = one.record, one.payload or "", one.progress
            asked = asked[len(read) :]  # noqa: PLW2901
    return found


def read_job(id: str, texts: Texts) -> JobRecord | None:
    """Return the job; None if its strings do not have the expected format."""
    record, payload, progress = texts
    try:
        job = record_of(id, record, payload)
        return job if progress is None else attrs.evolve(job, progress=Progress(**PROGRESS.read(progress)))
    except _GARBAGE:
        return None


def damaged_job(id: str, texts: Texts, at: int) -> JobRecord:
    """Return a substitute for a job that cannot be read; if its state is unknown, the state is failed."""
    record, payload, _ = texts
    head, _, arguments = payload.partition("\n")
    try:
        state = state_of(record[:1])
    except KeyError:
        state = State.FAILED
    reason = "the stored data of this job cannot be read"
    return JobRecord(
        id=id,
        task=head.partition("\t")[0],
        arguments=arguments,
        serializer="",
        state=state,
        queue="",
        priority=0,
        created_at=at,
        reason=reason,
        changed_at=at,
    )


# ---- one job ---------------------------------------------------------------------------------------------


def _read_attempt(line: str) -> FailedAttempt | None:
    number, _, body = line.partition("\t")
    try:
        fields = FAILURE.read(body)
        return FailedAttempt(attempt=int(number), at=fields.pop("at"), error=ErrorInfo(**fields))
    except _GARBAGE:
        return None


# ---- totals ----------------------------------------------------------------------------------------------


def _grouped(
    database: RedisDatabase, places: Sequence[rules.Place]
) -> Iterator[tuple[list[rules.Place], list[Any]]]:
    """Yield places, newest first, and their groups by fingerprint.

    A group contains the fingerprint, the number of jobs, and the position of its first job among the places.
    """
    for partition, here in database.partitions.by_partition(places, itemgetter(1)).items():
        for start in range(0, len(here), _READ_AT_ONCE):
            some = here[start : start + _READ_AT_ONCE]
            yield some, database.run("reading.failures", partition, *(id for _, id in some))


_ID_LENGTH = 36


def _read_listed(database: RedisDatabase, where: JobFilter, places: Sequence[rules.Place]) -> list[JobRecord]:
    """Return the jobs that are still at the places where the search found them."""
    found = read_texts(database, [id for _, id in places])
    jobs: list[JobRecord] = []
    for at, id in places:
        if (texts := found.get(id)) is None:
            continue
        job = read_job(id, texts)
        if job is None:
            jobs.append(damaged_job(id, texts, at))
        elif rules.matches(job, where) and float(rules.listed_at(job, where)) == at:
            jobs.append(job)
    return jobs
