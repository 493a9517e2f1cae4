"""The verbs that run for every job, on PostgreSQL: plain ones in one statement, which is one round trip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, repeat, zip_longest
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from psycopg.errors import UniqueViolation
from sqlalchemy import select
from sqlalchemy.engine import Dialect
from typing_extensions import override

from firelock.storage import (
    Applied,
    Claim,
    ClaimedJob,
    Exchange,
    NewJob,
    Transition,
)
from firelock_sql.claim import CLAIMED_COLUMNS, Asked, Taken, Turns, claimed_job, serving, take_jobs
from firelock_sql.job_engine import KIND, Clash, Held, ServerHot, are_plain, kind
from firelock_sql.names import index_name, table_name
from firelock_sql.postgresql.connect import number_array, text_array
from firelock_sql.postgresql.lanes import Lanes, Look
from firelock_sql.settle import apply_transitions
from firelock_sql.statements import Statement, among
from firelock_sql.tables import ONE, count_deltas, jobs, records, recurring, sessions

if TYPE_CHECKING:
    from firelock_sql.postgresql.database import PostgresqlDatabase
    from firelock_sql.transaction import Transaction

__all__ = [
    "NOW",
    "PostgresqlHot",
    "exchange_text",
    "insert_text",
]


NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

# The clock is read once: a volatile function in a row's own columns would be called for each row.
_INSERT = """
WITH stored AS (
    INSERT INTO {jobs} (state, enqueued_at, {kind}, id, arguments, created_at, changed_at)
    SELECT 'enqueued', clock.now, {values}, job.id, job.arguments, job.at, job.at
    FROM (SELECT {now} + %(offset)s AS now OFFSET 0) AS clock, {rows}
)
INSERT INTO {count_deltas} (state, queue, jobs)
SELECT 'enqueued', delta.queue, delta.jobs
FROM unnest(%(queues)s::text[], %(numbers)s::bigint[]) AS delta (queue, jobs)
"""
_KIND_TYPES = {"priority": "integer"}
_OWN = (("id", "text"), ("arguments", "text"), ("at", "bigint"))

# A session that lives is held, so that it cannot end before this does; before any job is locked. A claim
# that finds nothing holds nothing: whoever only looks writes nothing.
_HOLDER = """
holder AS MATERIALIZED (
    SELECT server FROM {sessions}
    WHERE id = %(session)s AND died_at IS NULL AND (SELECT is_there FROM work) FOR KEY SHARE
)"""
# A limit of its own keeps the look at a queue from being made a join that reads every ready job.
_LOOK = """
work AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM open AS queue CROSS JOIN LATERAL ({ready_of_queue} LIMIT 1) AS job) AS is_there
)"""
_WORK = """
work AS MATERIALIZED (SELECT true AS is_there)"""
_IS_HELD = "(SELECT count(*) FROM holder) = 1"

# Whoever locks several jobs locks them in the order of their ids; so are these lists sorted. Each is found by
# its number: what a session holds is so little in the planner's eyes that it would read all of it for each.
_SETTLE = """
ended AS MATERIALIZED (
    SELECT job.*, place.ctid AS place
    FROM unnest(
        %(seqs)s::bigint[], %(ids)s::text[], %(fences)s::integer[], %(ends)s::bigint[], %(starts)s::bigint[],
        %(expiries)s::bigint[], %(results)s::text[], %(absent)s::text[]
    ) AS job (seq, id, fence, at, started_at, expires_at, result, result_absent)
    CROSS JOIN LATERAL (
        SELECT ctid FROM {jobs}
        WHERE seq = job.seq AND id = job.id AND coalesce(session, '') = %(session)s AND fence = job.fence
            AND state = 'processing' AND is_parent = 0 AND {is_held}
        FOR NO KEY UPDATE
    ) AS place
), settled AS (
    UPDATE {jobs} AS stored
    SET state = 'succeeded', changed_at = ended.at, ended_at = ended.at, started_at = ended.started_at,
        expires_at = ended.expires_at, result = ended.result, result_absent = ended.result_absent,
        is_plain_end = 1, session = NULL, reason = NULL, due_at = NULL
    FROM ended WHERE stored.ctid = ended.place
    RETURNING stored.queue, stored.seq
)"""

# The steps that a look takes along its index are counted by the server, dead entries among them.
_BEFORE = """
before AS MATERIALIZED (
    SELECT ready.index, pg_stat_get_xact_tuples_returned(ready.index) AS steps
    FROM (SELECT to_regclass('{index}')::oid AS index OFFSET 0) AS ready
)"""
_STEPS = """pg_stat_get_xact_tuples_returned((SELECT index FROM before)) - (SELECT steps FROM before)"""
_HAVE_BEGUN = "(SELECT count(*) FROM before) = 1 AND "
_OPEN = """
open AS MATERIALIZED (
    SELECT name, place FROM {names}
    WHERE {begun}NOT EXISTS (SELECT FROM {records} AS queue WHERE queue.is_paused = 1 AND queue.key = name)
)"""
_NAMED = "unnest(%(queues)s::text[]) WITH ORDINALITY AS asked (name, place)"
# One short step along the index of ready jobs for each queue that has some; the one behind the queue that was
# served last comes first.
_ALL = """
turn AS (
    SELECT min(queue) AS name FROM {jobs} WHERE {ready}
    UNION ALL
    SELECT (SELECT min(queue) FROM {jobs} WHERE {ready} AND queue > turn.name) FROM turn
    WHERE turn.name IS NOT NULL
)"""
_TURNS = (
    "(SELECT name, row_number() OVER (ORDER BY name <= %(served)s, name) AS place FROM turn"
    " WHERE name IS NOT NULL) AS asked"
)
# A short look knows the lanes of the queues, and finds queues between them by one step each: see `lanes`.
_NEW = """
new AS MATERIALIZED (
    SELECT (SELECT min(queue) FROM {jobs} WHERE {ready} AND queue > gap.low AND queue < gap.high) AS name
    FROM unnest(%(gap_lows)s::text[], %(gap_highs)s::text[]) AS gap (low, high)
    UNION ALL SELECT min(queue) FROM {jobs} WHERE {ready} AND queue > %(last_known)s
)"""
_PROBE = """
probe AS MATERIALIZED (
    SELECT * FROM unnest(
        %(probe_queues)s::text[], %(lows)s::bigint[], %(highs)s::bigint[], %(ats)s::bigint[],
        %(afters)s::bigint[]
    ) WITH ORDINALITY AS probe (queue, low, high, at, after, place){new}
)"""
_UNBOUND = "\n    UNION ALL SELECT name, -2147483649, 2147483648, -1, -1, 0 FROM new WHERE name IS NOT NULL"
_KNOWN = (
    "(SELECT name, row_number() OVER (ORDER BY name <= %(served)s, name) AS place"
    " FROM (SELECT DISTINCT queue AS name FROM probe) AS known) AS asked"
)
_WHOLE = """
SELECT ctid FROM {jobs} WHERE {ready} AND queue = queue.name{held}
ORDER BY priority DESC, enqueued_at, seq"""
_SHORT = """
SELECT near.ctid FROM (SELECT * FROM probe WHERE probe.queue = queue.name ORDER BY probe.place) AS probe
CROSS JOIN LATERAL (
    SELECT ctid FROM (
        SELECT ctid FROM {jobs}
        WHERE {ready} AND queue = queue.name{held}
            AND probe.low = probe.high AND priority = probe.low
            AND (enqueued_at, seq) > (probe.at, probe.after)
        ORDER BY enqueued_at, seq{taken}
    ) AS lane
    UNION ALL SELECT ctid FROM (
        SELECT ctid FROM {jobs}
        WHERE {ready} AND queue = queue.name{held}
            AND probe.low < probe.high AND priority > probe.low AND priority < probe.high
        ORDER BY priority DESC, enqueued_at, seq{taken}
    ) AS between
) AS near"""
# The constant is for the planner, which knows nothing of the limits around it where a plan is made for all.
_TAKEN = " LIMIT {most} FOR NO KEY UPDATE SKIP LOCKED"

_CLAIM = """
found AS MATERIALIZED (
    SELECT job.ctid AS place
    FROM (SELECT name FROM open ORDER BY place) AS queue
    CROSS JOIN LATERAL ({ready_of_queue}) AS job
    LIMIT %(limit)s
), claimed AS (
    UPDATE {jobs}
    SET state = 'processing', attempt = attempt + 1, fence = fence + 1, session = %(session)s,
        server = (SELECT server FROM holder), claimed_at = %(now)s, changed_at = %(now)s, started_at = NULL,
        reason = NULL
    WHERE ctid = ANY (ARRAY (SELECT place FROM found))
    RETURNING {columns}, seq, is_parent
)"""
_READY = "state = 'enqueued' AND session IS NULL AND held_by IS NULL"
_SHARE = "(%(limit)s + (SELECT count(*) FROM open) - 1) / (SELECT greatest(count(*), 1) FROM open)"

_COUNT = """
counted AS (
    INSERT INTO {count_deltas} (state, queue, jobs)
    SELECT state, queue, sum(jobs) FROM ({moves}) AS moved (state, queue, jobs)
    GROUP BY state, queue HAVING sum(jobs) <> 0
)"""
_MOVES = {
    "settled": ("'processing', queue, -count(*)", "'succeeded', queue, count(*)"),
    "claimed": ("'enqueued', queue, -count(*)", "'processing', queue, count(*)"),
}

# Where fewer were settled than were asked for, which ones; the rest is looked at one by one afterwards.
_ALL_SETTLED = """CASE WHEN (SELECT count(*) FROM settled) < cardinality(%(seqs)s::bigint[])
    THEN ARRAY(SELECT seq FROM settled) END"""
_NEXT_DUE = """least(
    (SELECT due_at FROM {jobs} WHERE state = 'scheduled' ORDER BY due_at LIMIT 1),
    (SELECT min(next_at) FROM {recurring} WHERE is_paused = 0 AND next_at IS NOT NULL)
)"""
_NUMBER = "(SELECT count(*) FROM open)"
# The snapshot may show a session alive that died while its row was waited for: the held row knows better.
_SERVER = """CASE WHEN (SELECT is_there FROM work) THEN (SELECT server FROM holder)
    ELSE (SELECT server FROM {sessions} WHERE id = %(session)s AND died_at IS NULL) END"""


@lru_cache(maxsize=64)
def insert_text(dialect: Dialect, *, is_uniform: bool) -> str:
    """Return the statement that stores plain jobs; where they are uniform, their kind is told once."""
    columns = [*_OWN]
    values = [f"%({name})s::{_KIND_TYPES.get(name, 'text')}" for name in KIND]
    if not is_uniform:
        columns += [(name, _KIND_TYPES.get(name, "text")) for name in KIND]
        values = [f"job.{name}" for name in KIND]
    arrays = ", ".join(f"%({name})s::{type_}[]" for name, type_ in columns)
    names = ", ".join(name for name, _ in columns)
    text = _INSERT.format(
        jobs=table_name(dialect, jobs),
        count_deltas=table_name(dialect, count_deltas),
        kind=", ".join(KIND),
        values=", ".join(values),
        now=NOW,
        rows=f"unnest({arrays}) AS job ({names})",
    )
    return _short(text)


def _short(text: str) -> str:
    """Return the statement on one line: psycopg remembers how it read texts of less than 4,096 characters."""
    return " ".join(text.split())


@lru_cache(maxsize=64)
def exchange_text(
    dialect: Dialect,
    *,
    settles: bool,
    claims: bool,
    names_queues: bool,
    is_short: bool = False,
    most: int = 512,
) -> str:
    """Return the statement that settles plain ends, or claims, or both; a short look is one by probes.

    No claim takes more than `most`.

    Its rows begin with the living session's server and the next due instant, where it claims, the number of
    open queues, and the steps of a whole look or the names of those queues. The claimed job follows, nothing
    but NULL where none was. Last in each row, and alone without a claim, are the numbers of the jobs that
    were settled where not all were, else NULL.
    """
    parts = _claim_parts(names_queues=names_queues, is_short=is_short) if claims else []
    parts += [_WORK if settles else _LOOK.replace("{ready_of_queue}", _SHORT if is_short else _WHOLE)]
    parts = [part.replace("{held}", "").replace("{taken}", "") for part in [*parts, _HOLDER]]
    if settles:
        parts.append(_SETTLE)
    if claims:
        parts.append(_claim(takes_all=names_queues or is_short, is_short=is_short))
    moving = [name for name, takes_part in (("settled", settles), ("claimed", claims)) if takes_part]
    moves = [f"SELECT {move} FROM {name} GROUP BY queue" for name in moving for move in _MOVES[name]]  # noqa: S608 - names
    parts.append(_COUNT.replace("{moves}", " UNION ALL ".join(moves)))
    answer = _answer(settles=settles, is_short=is_short) if claims else f"SELECT {_ALL_SETTLED}"
    text = f"WITH RECURSIVE {','.join(parts)}\n{answer}"
    text = text.replace("{ready}", _READY).replace("{is_held}", _IS_HELD)
    for table in (jobs, count_deltas, records, recurring, sessions):
        text = text.replace("{" + table.name.removeprefix("firelock_") + "}", table_name(dialect, table))
    text = text.replace("{most}", str(most)).replace("{index}", index_name(dialect, jobs, "ready"))
    text = text.replace("{columns}", ", ".join(column.name for column in CLAIMED_COLUMNS))
    return _short(text)


def _claim_parts(*, names_queues: bool, is_short: bool) -> list[str]:
    if is_short:
        new = [] if names_queues else [_NEW]
        probe = _PROBE.replace("{new}", "" if names_queues else _UNBOUND)
        names = _NAMED if names_queues else _KNOWN
        return [*new, probe, _OPEN.replace("{names}", names).replace("{begun}", "")]
    turns = [] if names_queues else [_ALL]
    names = _NAMED if names_queues else _TURNS
    return [_BEFORE, *turns, _OPEN.replace("{names}", names).replace("{begun}", _HAVE_BEGUN)]


def _claim(*, takes_all: bool, is_short: bool) -> str:
    whole = f"SELECT ctid FROM ({_WHOLE}{_TAKEN}) AS near"  # noqa: S608 - texts of ours
    ready = (_SHORT.replace("{taken}", _TAKEN) if is_short else whole) + " LIMIT {share}"
    text = _CLAIM.replace("{ready_of_queue}", ready).replace("{held}", " AND {is_held}")
    return text.replace("{share}", "%(limit)s" if takes_all else _SHARE)


def _answer(*, settles: bool, is_short: bool) -> str:
    checked = f", {_ALL_SETTLED} AS settled" if settles else ""
    looked = "(SELECT array_agg(name) FROM open)" if is_short else _STEPS
    return (
        f"SELECT said.server, said.due_at, said.open, {looked}, claimed.*"
        f"{', said.settled' if settles else ''}\n"
        f"FROM (SELECT {_SERVER} AS server, {_NEXT_DUE} AS due_at,\n"
        f"{_NUMBER} AS open{checked}) AS said\n"
        "LEFT JOIN claimed ON true"
    )


_T = TypeVar("_T")
_LOCK = Statement(
    select(ONE)
    .select_from(jobs)
    .where(among(jobs.c.id, "ids"))
    .order_by(jobs.c.id)
    .with_for_update(key_share=True)
)
_MOST, _MOST_EVER = 512, 1 << 30  # what a claim may take as a rule, and at all
# Places in the answer to a claim.
_AT_SERVER, _DUE, _AT_OPEN, _LOOKED, _FIRST = 0, 1, 2, 3, 4
_QUEUE, _PRIORITY, _ENQUEUED_AT, _SEQ, _IS_PARENT = 8, 9, 15, 22, 23
_IN_LANE = itemgetter(_QUEUE, _PRIORITY, _ENQUEUED_AT, _SEQ)


class PostgresqlHot(ServerHot["PostgresqlDatabase"]):
    """`insert`, `claim`, `apply` and `exchange` of one database."""

    def __init__(self, database: PostgresqlDatabase) -> None:
        super().__init__(database)
        self._turns = Turns()
        self._lanes = Lanes()

    def _run(self, work: Callable[[Any], _T]) -> _T:
        """The work, one statement run by a cursor, is committed as one transaction."""
        if self._database.is_direct:
            return self._database.at_once(work)
        return self._database.write(lambda tx: work(tx.cursor))

    # ---- insert ------------------------------------------------------------------------------------------

    @override
    def insert(self, batch: Sequence[NewJob]) -> list[bool]:
        """See `Storage.insert`."""
        if not batch:
            return []
        if are_plain(batch):
            try:
                self._insert_plain(batch)
            except Clash:
                pass
            else:
                return [True] * len(batch)
        return self._insert_any(batch)

    def _insert_plain(self, batch: Sequence[NewJob]) -> None:
        kinds = Counter(map(kind, batch))
        is_uniform = len(kinds) == 1
        queues = Counter({queue: 0 for queue, *_ in kinds})
        for (queue, *_), number in kinds.items():
            queues[queue] += number
        common: dict[str, object] = {
            "offset": self._database.clock_offset,
            "queues": text_array(list(queues)),
            "numbers": number_array(list(queues.values())),
        }
        if is_uniform:
            common |= zip(KIND, kind(batch[0]), strict=True)
        text = insert_text(self._database.dialect, is_uniform=is_uniform)
        orders = _orders(batch)

        def store(cursor: Any) -> None:  # noqa: ANN401 - psycopg's, of whatever rows
            try:
                cursor.execute(text, common | _stored(next(orders), is_uniform=is_uniform))
            except UniqueViolation as error:
                raise Clash from error

        self._run(store)
        self._database.tell(set(queues))

    # ---- claim -------------------------------------------------------------------------------------------

    @override
    def claim(self, queues: Sequence[str] | None, limit: int, session: str, now: int) -> Claim:
        """See `Storage.claim`; a look that finds nothing writes nothing."""
        self._database.looks_for_work(queues)
        look = self._lanes.look(Asked(queues, limit, session, now))
        rows = self._run(lambda cursor: self._fetch(cursor, look, []))
        return self._topped_up(self._kept(look, rows), rows, look)

    def _fetch(
        self,
        cursor: Any,  # noqa: ANN401 - see above
        look: Look | None,
        plain: Sequence[tuple[Transition, Held]],
    ) -> list[Any]:
        """Return the answer to one statement that settles, claims or both."""
        values: dict[str, object] = {}
        if look is not None:
            asked = look.asked
            values = {
                "session": asked.session, "queues": text_array(list(dict.fromkeys(asked.queues or ()))),
                "limit": max(asked.limit, 0), "now": asked.now, "served": self._turns.last,
            }  # fmt: skip
            if look.probes is not None:
                values |= look.values
        if plain:
            values |= {"session": plain[0][0].session} | _ended(plain)
        text = exchange_text(
            self._database.dialect,
            settles=bool(plain),
            claims=look is not None,
            names_queues=look is not None and look.asked.queues is not None,
            is_short=look is not None and look.probes is not None,
            most=_MOST if look is None or look.asked.limit <= _MOST else _MOST_EVER,
        )
        cursor.execute(text, values, prepare=self._database.is_direct)
        found: list[Any] = cursor.fetchall()
        return found

    def _kept(self, look: Look, rows: list[Any]) -> Claim:
        """Return the answer as a claim; what was claimed for sure is remembered."""
        server, next_due_at, _, looked = rows[0][:_FIRST]
        asked = look.asked
        if server is None:
            self.forget(asked.session)
            return Claim([], next_due_at, is_session_lost=True)
        if rows[0][_FIRST] is None:
            self._lanes.looked(look, [], looked)
            return Claim([], next_due_at)
        self._lanes.looked(look, [_IN_LANE(row) for row in rows], looked)
        rows = self._in_order(asked, rows)
        claimed = [claimed_job(row[_FIRST:_SEQ]) for row in rows]
        self._remember(
            asked.session,
            server,
            [(job, row[_SEQ]) for row, job in zip(rows, claimed, strict=True) if not row[_IS_PARENT]],
        )
        return Claim(claimed, next_due_at)

    def _in_order(self, asked: Asked, rows: list[Any]) -> list[Any]:
        """Return the claimed rows in the order to run them: queue by queue as named, or by turns."""
        rows.sort(key=lambda row: (-row[_PRIORITY], row[_ENQUEUED_AT], row[_SEQ]))
        if asked.queues is not None:
            if len(asked.queues) > 1:
                places = {name: place for place, name in enumerate(dict.fromkeys(asked.queues))}
                rows.sort(key=lambda row: places[row[_QUEUE]])
            return rows
        of: dict[str, list[Any]] = {}
        for row in rows:
            of.setdefault(row[_QUEUE], []).append(row)
        if len(of) > 1:
            turns = [of[name] for name in self._turns.of(sorted(of))]
            rows = [row for row in chain.from_iterable(zip_longest(*turns)) if row is not None]
        self._turns.served(rows[-1][_QUEUE])
        return rows

    def _topped_up(self, claim: Claim, rows: list[Any], look: Look) -> Claim:
        """Return the claim with what some queues have beyond their share and others have left to them."""
        asked = look.asked
        left = asked.limit - len(claim.jobs)
        if asked.queues is not None or look.probes is not None or not claim.jobs or left <= 0:
            return claim
        number = rows[0][_AT_OPEN]
        share = -(-asked.limit // number)
        if number == 1 or max(Counter(job.queue for job in claim.jobs).values()) < share:
            return claim
        more = attrs.evolve(asked, limit=left)
        rest = self._remembered(more, self._database.write(lambda tx: self._take(tx, more)))
        return Claim([*claim.jobs, *rest.jobs], claim.next_due_at)

    def _take(self, tx: Transaction, asked: Asked) -> Taken:
        return take_jobs(tx, self._database, asked, self._turns)

    def _remember(self, session: str, server: str, claimed: Iterable[tuple[ClaimedJob, int]]) -> None:
        """The jobs, each with its number, were claimed for sure: their ends need no reading."""
        held = ((job.id, (seq, job.queue, job.attempt, job.claimed_at)) for job, seq in claimed)
        self._holdings.remember(session, server, held)

    # ---- apply -------------------------------------------------------------------------------------------

    @override
    def _apply_fast(self, transitions: Sequence[Transition]) -> list[Applied]:
        results, _ = self._done_fast(transitions, None)
        return results

    def _done_fast(
        self, transitions: Sequence[Transition], look: Look | None
    ) -> tuple[list[Applied], list[Any]]:
        """Return what became of the transitions, and the answer to a claim beside them.

        Ends that turn out not to be plain, as of a job that is a parent by now, are applied after the others.

        Raises:
            Clash: nothing of it was done, and the long way has to be taken.
        """
        batch = self._holdings.parted(transitions, None if look is None else look.asked.session)
        results = [Applied.APPLIED] * len(transitions)
        if not batch.plain or len({one.job_id for one in transitions}) < len(transitions):
            raise Clash
        places = {one.job_id: place for place, one in enumerate(transitions)}

        def left_by(rows: list[Any]) -> list[int]:
            return sorted([*batch.others, *(places[id] for id in _unsettled(batch.plain, rows))])

        def rest(tx: Transaction, left: Sequence[int]) -> None:
            found = apply_transitions(tx, self._database, [transitions[place] for place in left])
            for place, result in zip(left, found, strict=True):
                results[place] = result

        def both(tx: Transaction) -> list[Any]:
            serving(tx, str(batch.plain[0][0].session))
            tx.all(_LOCK, {"ids": [one.job_id for one in transitions]})
            rest(tx, left_by(self._fetch(tx.cursor, None, batch.plain)))
            return [] if look is None else self._fetch(tx.cursor, look, [])

        if batch.others:
            return results, self._database.write(both)
        rows = self._run(lambda cursor: self._fetch(cursor, look, batch.plain))
        if left := left_by(rows):
            self._database.write(lambda tx: rest(tx, left))
        return results, rows

    # ---- exchange ----------------------------------------------------------------------------------------

    @override
    def _exchange(self, transitions: Sequence[Transition], asked: Asked) -> Exchange:
        def both(tx: Transaction) -> tuple[list[Applied], Taken]:
            serving(tx, asked.session)  # locked before the jobs are, as by who ends a session
            return apply_transitions(tx, self._database, transitions), self._take(tx, asked)

        look = self._lanes.look(asked)
        try:
            results, rows = self._done_fast(transitions, look)
        except Clash:
            results, taken = self._database.write(both)
            self._holdings.let_go(transitions)
            return Exchange(results, self._remembered(asked, taken))
        self._holdings.let_go(transitions)
        return Exchange(results, self._topped_up(self._kept(look, rows), rows, look))


def _unsettled(plain: Sequence[tuple[Transition, Held]], rows: list[Any]) -> list[str]:
    """Return the ids of the jobs that the statement has left alone."""
    settled = rows[0][-1]
    if settled is None:
        return []
    found = frozenset(settled)
    return [end.job_id for end, held in plain if held[0] not in found]


def _orders(batch: Sequence[NewJob]) -> Iterator[Sequence[NewJob]]:
    """Yield the jobs as they are given; from then on, as others store some too, in everybody's order."""
    yield batch
    yield from repeat(sorted(batch, key=attrgetter("id")))


def _stored(batch: Sequence[NewJob], *, is_uniform: bool) -> dict[str, object]:
    """Return what an insert is told of each job."""
    values: dict[str, object] = {
        "id": text_array([job.id for job in batch]),
        "arguments": text_array([job.arguments for job in batch]),
        "at": number_array([job.created_at for job in batch]),
    }
    if not is_uniform:
        for name, column in zip(KIND, zip(*map(kind, batch), strict=True), strict=True):
            values[name] = number_array(column) if name == "priority" else text_array(column)
    return values


def _ended(plain: Sequence[tuple[Transition, Held]]) -> dict[str, object]:
    """Return what a settle is told of plain ends."""
    ends = [transition for transition, _ in plain]
    return {
        "seqs": number_array([held[0] for _, held in plain]),
        "ids": text_array([end.job_id for end in ends]),
        "fences": number_array([end.fence for end in ends]),
        "ends": number_array([end.at for end in ends]),
        "starts": number_array([end.started_at for end in ends]),
        "expiries": number_array([end.expires_at for end in ends]),
        "results": text_array([end.result for end in ends]),
        "absent": text_array([end.result_absent for end in ends]),
    }
