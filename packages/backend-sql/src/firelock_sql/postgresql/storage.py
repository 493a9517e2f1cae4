"""A PostgreSQL storage: the verbs that run for every job, plain ones in one statement, one round trip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, repeat, zip_longest
from operator import attrgetter, itemgetter
from typing import Any, TypeVar

import attrs
from psycopg.errors import UniqueViolation
from psycopg.pq import Conninfo
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import QueuePool
from typing_extensions import override

from firelock import ConfigurationError
from firelock.storage import (
    ANY_QUEUE,
    Applied,
    Claim,
    ClaimRequest,
    Duplicate,
    Exchange,
    Feature,
    NewJob,
    Transition,
)
from firelock_sql.claim import PLACE_SEQ, TakenRows, serving, started_job
from firelock_sql.job_row import claimed_job
from firelock_sql.limits import IN_LANE
from firelock_sql.names import Names
from firelock_sql.pool import EnginePool
from firelock_sql.postgresql.connect import number_array, patient_for, text_array
from firelock_sql.postgresql.database import PostgresqlDatabase
from firelock_sql.postgresql.keyed import MAKE_KEYS, TAKE, ClaimBeside, PostgresqlLanes
from firelock_sql.postgresql.lanes import Lanes, Look
from firelock_sql.settle import apply_transitions
from firelock_sql.storage import KIND, LOCK, Held, Parted, SqlStorage, freed_by, held_of, kind
from firelock_sql.transaction import Text, Transaction
from firelock_sql.url import ServerUrl, parse_server_url

# Stores plain jobs of one kind, none of which is known. The clock is read once, as it would be for each row
# among a row's columns. That a job is known the unique key tells, by an error: to look for them first costs
# the server 11.2 µs a job where this costs 9.4 (ON CONFLICT 12.3), and ids are new but for lost replies.
INSERT = Text("""
WITH stored AS (
    INSERT INTO firelock_jobs
        (state, enqueued_at, queue, priority, task, serializer, id, arguments, created_at, changed_at)
    SELECT 'enqueued', clock.now, :queue, :priority::integer, :task, :serializer, job.id, job.arguments,
        job.at, job.at
    FROM (
        SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + :offset AS now OFFSET 0
    ) AS clock, unnest(:ids::text[], :arguments::text[], :ats::bigint[]) AS job (id, arguments, at)
)
INSERT INTO firelock_count_deltas (state, queue, jobs) VALUES ('enqueued', :queue, cardinality(:ids::text[]))
""")

# Queues that are looked at and have jobs with limits.
_LANED = f"""
lane_turn AS (
    SELECT CASE WHEN :every THEN (SELECT min(queue) FROM firelock_jobs WHERE {IN_LANE}) END AS name
    UNION ALL
    SELECT (SELECT min(queue) FROM firelock_jobs WHERE {IN_LANE} AND queue > lane_turn.name)
    FROM lane_turn WHERE lane_turn.name IS NOT NULL
), laned AS MATERIALIZED (
    SELECT name FROM (
        SELECT name FROM unnest(:queues::text[]) AS named (name)
        WHERE EXISTS (SELECT FROM firelock_jobs WHERE {IN_LANE} AND queue = named.name)
        UNION ALL SELECT name FROM lane_turn WHERE name IS NOT NULL
    ) AS asked
    WHERE NOT EXISTS (SELECT FROM firelock_records AS paused WHERE is_paused = 1 AND paused.key = asked.name)
)"""  # noqa: S608 - a condition of ours

# Settles plain ends, and claims what there is room for; either may be asked for alone. Where a queue has jobs
# with limits it claims nothing: they are claimed beside the others, by the statements of `keyed`.
#
# It locks the session first, so that it cannot end before this does, then jobs in the order of their ids,
# in which the lists are sorted. A claim that finds nothing locks nothing. Each end is found by its number:
# what a session holds is so little in the planner's eyes that it would read all of it for each. The limits of
# 512 and of the look are for the planner as well: it knows nothing of the limits around them.
#
# A row is: the living session's server, the next due instant, the number of open queues, the numbers of the
# jobs that were settled where not all were, the queues with lanes; beside a claim of those the queues with
# other work; the time, the micros that it took, and a claimed job or NULLs.
EXCHANGE = Text(
    """
WITH RECURSIVE turn AS (
    SELECT CASE WHEN :every THEN (
        SELECT min(queue) FROM firelock_jobs WHERE state = 'enqueued' AND session IS NULL AND held_by IS NULL
    ) END AS name
    UNION ALL
    SELECT (
        SELECT min(queue) FROM firelock_jobs
        WHERE state = 'enqueued' AND session IS NULL AND held_by IS NULL AND queue > turn.name
    ) FROM turn WHERE turn.name IS NOT NULL
), LANES, open AS MATERIALIZED (
    SELECT name, place FROM (
        SELECT name, place FROM unnest(:queues::text[]) WITH ORDINALITY AS named (name, place)
        UNION ALL
        SELECT name, row_number() OVER (ORDER BY name <= :served, name) FROM turn WHERE name IS NOT NULL
    ) AS asked
    WHERE NOT EXISTS (SELECT FROM firelock_records AS paused WHERE is_paused = 1 AND paused.key = asked.name)
), work AS MATERIALIZED (
    SELECT CASE WHEN :beside OR cardinality(:seqs::bigint[]) > 0 THEN true ELSE EXISTS (
        SELECT FROM open, LATERAL (
            SELECT FROM firelock_jobs
            WHERE state = 'enqueued' AND session IS NULL AND held_by IS NULL AND queue = open.name
            ORDER BY priority DESC, enqueued_at, seq LIMIT 1
        ) AS job
    ) END AS is_there
), holder AS MATERIALIZED (
    SELECT server FROM firelock_sessions
    WHERE id = :session AND died_at IS NULL AND (SELECT is_there FROM work) FOR KEY SHARE
), ended AS MATERIALIZED (
    SELECT job.*, stored.ctid AS row
    FROM unnest(
        :seqs::bigint[], :ids::text[], :fences::integer[], :ats::bigint[], :starts::bigint[],
        :expiries::bigint[], :results::text[], :absent::text[]
    ) AS job (seq, id, fence, at, started_at, expires_at, result, result_absent), LATERAL (
        SELECT ctid FROM firelock_jobs
        WHERE seq = job.seq AND id = job.id AND coalesce(session, '') = :session AND fence = job.fence
            AND state = 'processing' AND is_parent = 0 AND (SELECT count(*) FROM holder) = 1
        FOR NO KEY UPDATE
    ) AS stored
), settled AS (
    UPDATE firelock_jobs AS job
    SET state = 'succeeded', changed_at = ended.at, ended_at = ended.at, started_at = ended.started_at,
        expires_at = ended.expires_at, result = ended.result, result_absent = ended.result_absent,
        is_plain_end = 1, session = NULL, reason = NULL, due_at = NULL
    FROM ended WHERE job.ctid = ended.row
    RETURNING job.queue, job.seq
), found AS MATERIALIZED (
    SELECT job.ctid AS row
    FROM (SELECT name FROM open ORDER BY place) AS queue, LATERAL (
        SELECT ctid FROM (
            SELECT ctid FROM firelock_jobs
            WHERE state = 'enqueued' AND session IS NULL AND held_by IS NULL AND queue = queue.name
                AND (SELECT count(*) FROM holder) = 1
            ORDER BY priority DESC, enqueued_at, seq LIMIT 512 FOR NO KEY UPDATE SKIP LOCKED
        ) AS near
        LIMIT CASE WHEN :every THEN ceil(:limit / (SELECT count(*)::float FROM open)) ELSE :limit END
    ) AS job
    LIMIT CASE WHEN EXISTS (SELECT FROM laned) THEN 0 ELSE :limit END
), claimed AS (
    UPDATE firelock_jobs
    SET state = 'processing', attempt = attempt + 1, fence = fence + 1, session = :session,
        server = (SELECT server FROM holder), claimed_at = :now, changed_at = :now, started_at = NULL,
        reason = NULL
    WHERE ctid = ANY (ARRAY (SELECT row FROM found))
    RETURNING id, task, arguments, serializer, queue, priority, attempt, retries, crashes, fence, created_at,
        enqueued_at, claimed_at, nominal_at, tags, timeout_seconds, retry, recurring_id, meta_json,
        admission_json, seq, is_parent
), counted AS (
    INSERT INTO firelock_count_deltas (state, queue, jobs)
    SELECT state, queue, sum(jobs) FROM (
        SELECT 'processing', queue, -1 FROM settled
        UNION ALL SELECT 'succeeded', queue, 1 FROM settled
        UNION ALL SELECT 'enqueued', queue, -1 FROM claimed
        UNION ALL SELECT 'processing', queue, 1 FROM claimed
    ) AS moved (state, queue, jobs)
    GROUP BY state, queue HAVING sum(jobs) <> 0
)
SELECT said.*, (extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000000)::bigint, claimed.*
FROM (
    SELECT CASE WHEN (SELECT is_there FROM work) THEN (SELECT server FROM holder)
            ELSE (SELECT server FROM firelock_sessions WHERE id = :session AND died_at IS NULL) END,
        least(
            (SELECT due_at FROM firelock_jobs WHERE state = 'scheduled' ORDER BY due_at LIMIT 1),
            (SELECT min(due_at) FROM firelock_recurring WHERE kind = 'recurring' AND due_at IS NOT NULL)
        ),
        (SELECT count(*) FROM open),
        CASE WHEN (SELECT count(*) FROM settled) < cardinality(:seqs::bigint[])
            THEN ARRAY(SELECT seq FROM settled) END,
        (SELECT array_agg(name) FROM laned),
        CASE WHEN :beside THEN ARRAY (
            SELECT name FROM open WHERE :every OR EXISTS (
                SELECT FROM firelock_jobs
                WHERE state = 'enqueued' AND session IS NULL AND held_by IS NULL AND queue = open.name
            )
        ) END,
        (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
) AS said LEFT JOIN claimed ON true
""".replace("LANES", _LANED)
)

# Claims by probes: see `lanes`. Its answer is the one of EXCHANGE, with the open queues for their number.
CLAIM_BEHIND = Text(
    """
WITH RECURSIVE LANES, new AS MATERIALIZED (
    SELECT (
        SELECT min(queue) FROM firelock_jobs
        WHERE state = 'enqueued' AND session IS NULL AND held_by IS NULL
            AND queue > gap.low AND queue < gap.high
    ) AS name
    FROM unnest(:gap_lows::text[], :gap_highs::text[]) AS gap (low, high)
    UNION ALL
    SELECT min(queue) FROM firelock_jobs
    WHERE state = 'enqueued' AND session IS NULL AND held_by IS NULL AND queue > :last_known
), probe AS MATERIALIZED (
    SELECT * FROM unnest(
        :probe_queues::text[], :lows::bigint[], :highs::bigint[], :ats::bigint[], :afters::bigint[]
    ) WITH ORDINALITY AS probe (queue, low, high, at, after, place)
    UNION ALL SELECT name, -2147483649, 2147483648, -1, -1, 0 FROM new WHERE name IS NOT NULL
), open AS MATERIALIZED (
    SELECT name, place FROM (
        SELECT name, place FROM unnest(:queues::text[]) WITH ORDINALITY AS named (name, place)
        UNION ALL
        SELECT queue, row_number() OVER (ORDER BY queue <= :served, queue)
        FROM (SELECT DISTINCT queue FROM probe) AS known WHERE :every
    ) AS asked
    WHERE NOT EXISTS (SELECT FROM firelock_records AS paused WHERE is_paused = 1 AND paused.key = asked.name)
), holder AS MATERIALIZED (
    SELECT server FROM firelock_sessions WHERE id = :session AND died_at IS NULL FOR KEY SHARE
), found AS MATERIALIZED (
    SELECT job.ctid AS row
    FROM (SELECT name FROM open ORDER BY place) AS queue CROSS JOIN LATERAL (
        SELECT near.ctid
        FROM (SELECT * FROM probe WHERE probe.queue = queue.name ORDER BY probe.place) AS probe
        CROSS JOIN LATERAL (
            SELECT ctid FROM (
                SELECT ctid FROM firelock_jobs
                WHERE state = 'enqueued' AND session IS NULL AND held_by IS NULL AND queue = queue.name
                    AND (SELECT count(*) FROM holder) = 1
                    AND probe.low = probe.high AND priority = probe.low
                    AND (enqueued_at, seq) > (probe.at, probe.after)
                ORDER BY enqueued_at, seq LIMIT 512 FOR NO KEY UPDATE SKIP LOCKED
            ) AS lane
            UNION ALL SELECT ctid FROM (
                SELECT ctid FROM firelock_jobs
                WHERE state = 'enqueued' AND session IS NULL AND held_by IS NULL AND queue = queue.name
                    AND (SELECT count(*) FROM holder) = 1
                    AND probe.low < probe.high AND priority > probe.low AND priority < probe.high
                ORDER BY priority DESC, enqueued_at, seq LIMIT 512 FOR NO KEY UPDATE SKIP LOCKED
            ) AS between
        ) AS near
        LIMIT :limit
    ) AS job
    LIMIT CASE WHEN EXISTS (SELECT FROM laned) THEN 0 ELSE :limit END
), claimed AS (
    UPDATE firelock_jobs
    SET state = 'processing', attempt = attempt + 1, fence = fence + 1, session = :session,
        server = (SELECT server FROM holder), claimed_at = :now, changed_at = :now, started_at = NULL,
        reason = NULL
    WHERE ctid = ANY (ARRAY (SELECT row FROM found))
    RETURNING id, task, arguments, serializer, queue, priority, attempt, retries, crashes, fence, created_at,
        enqueued_at, claimed_at, nominal_at, tags, timeout_seconds, retry, recurring_id, meta_json,
        admission_json, seq, is_parent
), counted AS (
    INSERT INTO firelock_count_deltas (state, queue, jobs)
    SELECT 'enqueued', queue, -count(*) FROM claimed GROUP BY queue
    UNION ALL SELECT 'processing', queue, count(*) FROM claimed GROUP BY queue
)
SELECT said.*, NULL, claimed.*
FROM (
    SELECT (SELECT server FROM holder),
        least(
            (SELECT due_at FROM firelock_jobs WHERE state = 'scheduled' ORDER BY due_at LIMIT 1),
            (SELECT min(due_at) FROM firelock_recurring WHERE kind = 'recurring' AND due_at IS NOT NULL)
        ),
        (SELECT array_agg(name) FROM open), NULL, (SELECT array_agg(name) FROM laned), NULL, NULL
) AS said LEFT JOIN claimed ON true
""".replace("LANES", _LANED)
)

_T = TypeVar("_T")
_MOST = 512  # that one statement claims
# Places in its answer.
_SERVER, _DUE, _OPEN, _SETTLED, _LANES, _PLAIN, _NOW, _TOOK, _FIRST = range(9)
_QUEUE, _PRIORITY, _ENQUEUED_AT, _SEQ, _IS_PARENT = 12, 13, 19, 28, 29
_IN_LANE = itemgetter(_QUEUE, _PRIORITY, _ENQUEUED_AT, _SEQ)

_Plain = Sequence[tuple[Transition, Held]]


class _KnownJob(Exception):
    """A job of the batch was stored before."""


class PostgresqlStorage(SqlStorage):
    """Jobs in one database of a PostgreSQL server."""

    admits = frozenset({Feature.LIMITS})
    _database: PostgresqlDatabase

    def __init__(
        self, shown: str, connect_url: str, connections: EnginePool, names: Names, listen: str
    ) -> None:
        database = PostgresqlDatabase(shown, connections, names, listen)
        database.connect_url = connect_url
        # What a pooler makes of it is known when it is met: `describe` says it then.
        super().__init__(database, is_notified=database.wake.has_mailbox)
        self._lanes = Lanes()
        self._laned: set[tuple[str, ...] | None] = set()  # queues of whose last claim some had lanes

    def _run(self, work: Callable[[Any], _T]) -> _T:
        """The work, one statement run by a cursor, is committed as one transaction."""
        if self._database.is_direct:
            return self._database.at_once(work)
        return self._database.write(lambda tx: work(tx.cursor))

    def _rows(self, cursor: Any, statement: Text, values: Mapping[str, object]) -> list[Any]:  # noqa: ANN401 - psycopg's
        self._execute(cursor, statement, values)
        rows: list[Any] = cursor.fetchall()
        return rows

    def _execute(self, cursor: Any, statement: Text, values: Mapping[str, object]) -> None:  # noqa: ANN401 - psycopg's
        text = statement.compiled(self._database.dialect).text
        cursor.execute(text, values, prepare=self._database.is_direct)

    # ---- insert ------------------------------------------------------------------------------------------

    @override
    def _insert(self, batch: Sequence[NewJob]) -> Sequence[bool | Duplicate]:
        if not all(job.is_plain for job in batch):
            return self._insert_any(batch)
        orders = _orders(batch)
        kinds = set(map(kind, batch))
        try:
            if len(kinds) == 1:
                self._run(lambda cursor: self._store(cursor, next(orders)))
            else:
                self._database.write(lambda tx: self._store_kinds(tx.cursor, next(orders)))
        except _KnownJob:
            return self._insert_any(batch)
        self._database.wake.tell({queue for queue, *_ in kinds})
        return [True] * len(batch)

    def _store_kinds(self, cursor: Any, batch: Sequence[NewJob]) -> None:  # noqa: ANN401 - psycopg's
        for one in dict.fromkeys(map(kind, batch)):
            self._store(cursor, [job for job in batch if kind(job) == one])

    def _store(self, cursor: Any, batch: Sequence[NewJob]) -> None:  # noqa: ANN401 - psycopg's
        """The jobs of one kind are stored.

        Raises:
            _KnownJob: one of them was stored before; the transaction is of no use any more.
        """
        values = {
            "ids": text_array([job.id for job in batch]),
            "arguments": text_array([job.arguments for job in batch]),
            "ats": number_array([job.created_at for job in batch]),
            "offset": self._database.clock_offset,
            **dict(zip(KIND, kind(batch[0]), strict=True)),
        }
        try:
            cursor.execute(INSERT.compiled(self._database.dialect).text, values)
        except UniqueViolation as error:
            raise _KnownJob from error

    # ---- claim -------------------------------------------------------------------------------------------

    @override
    def claim(self, request: ClaimRequest) -> Claim:
        self._database.wake.mark(request.queues)
        if self._has_lanes(request):
            rows, taken = self._beside(request, ())
            return self._topped_up(self._remembered(request, taken), rows, Look(request))
        return self._claim(self._lanes.look(request))

    def _claim(self, look: Look) -> Claim:
        rows = self._run(lambda cursor: self._ask(cursor, look))
        return self._answered(look, rows)

    def _answered(self, look: Look, rows: list[Any]) -> Claim:
        """Return the claim of a hot statement, which has left everything alone where a queue has lanes."""
        request = look.request
        if not rows[0][_LANES] or request.limit <= 0:
            return self._topped_up(self._kept(look, rows), rows, look)
        self._laned.add(_queues_of(request))
        return self._remembered(request, self._beside(request, ())[1])

    def _ask(
        self,
        cursor: Any,  # noqa: ANN401 - psycopg's
        look: Look,
        plain: _Plain = (),
        *,
        is_beside: bool = False,
    ) -> list[Any]:
        """Return the answer to a claim, beside the settling of plain ends where it looks everywhere."""
        request = look.request
        values: dict[str, object] = {
            "session": request.session, "limit": max(request.limit, 0), "now": request.now,
            "queues": text_array(list(dict.fromkeys(request.queues or ()))), "every": request.queues is None,
            "served": self._turns.last, "beside": is_beside,
        }  # fmt: skip
        if look.probes is not None:
            return self._rows(cursor, CLAIM_BEHIND, values | look.values)
        return self._rows(cursor, EXCHANGE, values | _ended(plain))

    def _kept(self, look: Look, rows: list[Any]) -> Claim:
        """Return the answer as a claim; what was claimed for sure is remembered."""
        server, next_due_at, opened, *_, took = rows[0][:_FIRST]
        request = look.request
        if server is None:
            self._holdings.forget(request.session)
            return Claim([], next_due_at, is_session_lost=True)
        if rows[0][_FIRST] is None:
            rows = []
        self._lanes.looked(look, [_IN_LANE(row) for row in rows], opened if took is None else took)
        if not rows:
            return Claim([], next_due_at)
        rows = self._in_order(request, rows)
        claimed = [claimed_job(row[_FIRST:_SEQ]) for row in rows]
        self._holdings.remember(
            request.session,
            server,
            (
                (job.id, held_of(job, row[_SEQ]))
                for row, job in zip(rows, claimed, strict=True)
                if not row[_IS_PARENT]
            ),
        )
        return Claim(claimed, next_due_at)

    def _in_order(self, request: ClaimRequest, rows: list[Any]) -> list[Any]:
        """Return the claimed rows in the order to run them: queue by queue as named, or by turns."""
        rows.sort(key=lambda row: (-row[_PRIORITY], row[_ENQUEUED_AT], row[_SEQ]))
        if request.queues is not None:
            if len(request.queues) > 1:
                places = {name: place for place, name in enumerate(dict.fromkeys(request.queues))}
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
        """Return the claim with what queues have beyond their share, or beyond what a statement takes."""
        request, most = look.request, _MOST
        left = request.limit - len(claim.jobs)
        if not claim.jobs or left <= 0 or rows[0][_LANES]:
            return claim
        if request.queues is None and look.probes is None:
            most = min(most, -(-request.limit // rows[0][_OPEN]))
            if rows[0][_OPEN] == 1:
                most = _MOST
        if max(Counter(job.queue for job in claim.jobs).values()) < most:
            return claim
        more = attrs.evolve(request, limit=left)
        rest = self._remembered(more, self._database.write(lambda tx: self._take(tx, more)))
        return Claim([*claim.jobs, *rest.jobs], claim.next_due_at)

    # ---- beside lanes ------------------------------------------------------------------------------------

    def _has_lanes(self, request: ClaimRequest) -> bool:
        """Tell whether the last claim of these queues found jobs with limits."""
        return bool(self._laned) and request.limit > 0 and _queues_of(request) in self._laned

    def _beside(self, request: ClaimRequest, plain: _Plain) -> tuple[list[Any], TakenRows]:
        """Plain ends are settled, jobs with limits and others claimed; return the answer, and what was."""
        missing: set[str] = set()

        def work(tx: Transaction) -> tuple[list[Any], TakenRows]:
            missing.clear()
            return self._keyed(tx, request, plain, missing)

        database = self._database
        found = database.write_planned(work) if database.is_direct else database.write(work)
        if missing:
            keys = text_array(sorted(missing))
            self._run(lambda cursor: self._rows(cursor, MAKE_KEYS, {"keys": keys}))
        return found

    def _keyed(
        self, tx: Transaction, request: ClaimRequest, plain: _Plain, missing: set[str]
    ) -> tuple[list[Any], TakenRows]:
        rows = self._ask(tx.cursor, Look(request), plain, is_beside=True)
        server, next_due_at, _, settled, laned, others, now, *_ = rows[0]
        if server is None:
            return rows, TakenRows(Claim([], next_due_at, is_session_lost=True), [], "")
        tx.let_go += freed_by([one for one in plain if settled is None or one[1][0] in settled])
        if laned:
            timed = attrs.evolve(tx, began=now + self._database.clock_offset)
            lanes = PostgresqlLanes(timed)
            claim = ClaimBeside(timed, lanes, self._cursors, others, laned)
            found = claim.rows(request.queues, request.limit, self._turns)
            jobs = [started_job(row, request.now) for row in found]
            if found:
                values = {"session": request.session, "server": server, "now": request.now}
                seqs = number_array([row[PLACE_SEQ] for row in found])
                self._execute(tx.cursor, TAKE, {**values, **lanes.values, "seqs": seqs})
            elif not (plain or lanes.has_written or lanes.unreadable):
                tx.is_given_up = True
            missing |= lanes.missing
            taken = TakenRows(Claim(jobs, next_due_at, look_again_at=claim.look_again_at), found, server)
        else:
            self._laned.discard(_queues_of(request))
            rows_in_order = [] if rows[0][_FIRST] is None else self._in_order(request, rows)
            jobs = [claimed_job(row[_FIRST:_SEQ]) for row in rows_in_order]
            taken = TakenRows(Claim(jobs, next_due_at), [row[_FIRST:] for row in rows_in_order], server)
        if tx.let_go:
            self._take_freed(tx, request, taken.claim)
        return rows, taken

    # ---- apply -------------------------------------------------------------------------------------------

    @override
    def _settle(self, transitions: Sequence[Transition]) -> list[Applied]:
        batch = self._holdings.parted(transitions, None)
        if batch.others:
            return self._database.write(lambda tx: self._settle_mixed(tx, transitions, batch))
        rows = self._run(lambda cursor: self._end(cursor, batch.plain))
        self._tell_of_keys(batch.plain)
        return self._settle_rest(transitions, batch, rows)

    def _tell_of_keys(self, plain: _Plain) -> None:
        """Jobs that wait for the same keys as these may start."""
        if freed_by(plain):
            self._database.wake.tell({ANY_QUEUE})

    def _end(self, cursor: Any, plain: _Plain) -> list[Any]:  # noqa: ANN401 - psycopg's
        """Return the answer to the settling of plain ends alone."""
        nobody = ClaimRequest([], 0, str(plain[0][0].session), 0)
        return self._ask(cursor, Look(nobody), plain)

    def _settle_mixed(
        self, tx: Transaction, transitions: Sequence[Transition], batch: Parted
    ) -> list[Applied]:
        """Return the results; the session is locked before the jobs are, as by who ends a session."""
        if not batch.plain:
            return apply_transitions(tx, transitions)
        serving(tx, str(batch.plain[0][0].session))
        tx.all(LOCK, ids=[one.job_id for one in transitions])
        left = _unsettled(transitions, batch, self._end(tx.cursor, batch.plain))
        tx.let_go += freed_by(batch.plain)
        return self._apply_rest(tx, transitions, left)

    def _settle_rest(
        self, transitions: Sequence[Transition], batch: Parted, rows: list[Any]
    ) -> list[Applied]:
        """Return the results; an end that turned out not to be plain, as a parent's, is applied now."""
        left = _unsettled(transitions, batch, rows)
        if not left:
            return [Applied.APPLIED] * len(transitions)
        return self._database.write(lambda tx: self._apply_rest(tx, transitions, left))

    # ---- exchange ----------------------------------------------------------------------------------------

    @override
    def _settle_and_claim(self, transitions: Sequence[Transition], request: ClaimRequest) -> Exchange:
        look = self._lanes.look(request)
        batch = self._holdings.parted(transitions, request.session)
        if batch.others:
            results, taken = self._database.write(lambda tx: self._both(tx, transitions, batch, request))
            self._holdings.let_go(transitions)
            return Exchange(results, self._remembered(request, taken))
        if self._has_lanes(request):
            rows, taken = self._beside(request, batch.plain)
            results = self._settle_rest(transitions, batch, rows)
            self._holdings.let_go(transitions)
            claim = self._remembered(request, taken)
            return Exchange(results, self._topped_up(claim, rows, Look(request)))
        if look.probes is not None:
            return Exchange(self.apply(transitions), self._claim(look))
        rows = self._run(lambda cursor: self._ask(cursor, look, batch.plain))
        results = self._settle_rest(transitions, batch, rows)
        self._holdings.let_go(transitions)
        claim = self._answered(look, rows)
        if request.queues is not None or len(claim.jobs) >= request.limit:
            self._tell_of_keys(batch.plain)
        return Exchange(results, claim)

    def _both(
        self, tx: Transaction, transitions: Sequence[Transition], batch: Parted, request: ClaimRequest
    ) -> tuple[list[Applied], TakenRows]:
        serving(tx, request.session)
        results = self._settle_mixed(tx, transitions, batch)
        if not self._has_lanes(request):
            taken = self._take(tx, request)
        else:
            taken = self._keyed(tx, request, (), set())[1]
        if tx.let_go:
            self._take_freed(tx, request, taken.claim)
        return results, taken


def _queues_of(request: ClaimRequest) -> tuple[str, ...] | None:
    return None if request.queues is None else tuple(request.queues)


def _unsettled(transitions: Sequence[Transition], batch: Parted, rows: list[Any]) -> list[int]:
    """Return the places of what the statement has left alone."""
    if rows[0][_SETTLED] is None:
        return batch.others
    found = frozenset(rows[0][_SETTLED])
    left = {end.job_id for end, held in batch.plain if held[0] not in found}
    return sorted([*batch.others, *(n for n, one in enumerate(transitions) if one.job_id in left)])


def _orders(batch: Sequence[NewJob]) -> Iterator[Sequence[NewJob]]:
    """Yield the jobs as they are given; from then on, as others store some too, in everybody's order."""
    yield batch
    yield from repeat(sorted(batch, key=attrgetter("id")))


def _ended(plain: _Plain) -> dict[str, object]:
    """Return what a settle is told of plain ends, in the order of their ids."""
    if not plain:
        return _NO_ENDS
    plain = sorted(plain, key=lambda one: one[0].job_id)
    ends = [transition for transition, _ in plain]
    return {
        "seqs": number_array([held[0] for _, held in plain]),
        "ids": text_array([end.job_id for end in ends]),
        "fences": number_array([end.fence for end in ends]),
        "ats": number_array([end.at for end in ends]),
        "starts": number_array([end.started_at for end in ends]),
        "expiries": number_array([end.expires_at for end in ends]),
        "results": text_array([end.result for end in ends]),
        "absent": text_array([end.result_absent for end in ends]),
    }


_NO_ENDS: dict[str, object] = dict.fromkeys(
    ("seqs", "ids", "fences", "ats", "starts", "expiries", "results", "absent"), "{}"
)


# ---- opening ---------------------------------------------------------------------------------------------

_CHOICES = {"listen": ("auto", "on", "off")}
_CONNECT_SECONDS = 10
_POOL_SECONDS = 15.0
SILENT_SECONDS = 90.0  # no answer for so long: longer than any statement may take


def open_url(url: str) -> SqlStorage:
    """Return the storage of a `postgresql://` URL; nothing is connected yet."""
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    parsed = parse_server_url(url, scheme="postgresql", choices=_CHOICES, known=known)
    connections = EnginePool(str(parsed), lambda: _make_engine(parsed), is_own=True)
    return PostgresqlStorage(
        str(parsed), parsed.connect_url, connections, parsed.names, parsed.options["listen"]
    )


def open_engine(engine: Engine) -> SqlStorage:
    """Return the storage in a caller's database, by the caller's own connections.

    Raises:
        ConfigurationError: its driver is not psycopg 3.
    """
    if engine.dialect.driver not in {"psycopg", "psycopg_async"}:
        raise ConfigurationError(
            f"The engine uses {engine.dialect.driver}; firelock-sql uses psycopg 3. Make the engine from "
            "postgresql+psycopg://…, or pass its URL; jobs can still be enqueued within transactions on it."
        )
    shown = engine.url.set(query={}, drivername="postgresql").render_as_string(hide_password=True)
    connections = EnginePool(shown, lambda: engine, is_own=False)
    return PostgresqlStorage(shown, "", connections, Names(), "auto")


def _make_engine(parsed: ServerUrl) -> Engine:
    """Return an engine whose transactions are begun and ended by our statements alone."""
    engine = create_engine(
        parsed.url.set(drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",
        poolclass=QueuePool,
        pool_size=parsed.pool_size,
        max_overflow=0,
        pool_timeout=_POOL_SECONDS,
        pool_reset_on_return=None,
        pool_use_lifo=True,  # the connection used last has its statements prepared
        connect_args=_connect_args(parsed),
    )
    kind = patient_for(SILENT_SECONDS)

    @event.listens_for(engine, "do_connect")
    def connect(dialect: object, record: object, words: Sequence[Any], named: Mapping[str, Any]) -> object:
        del dialect, record
        return kind.connect(*words, **named)

    return engine


def _connect_args(parsed: ServerUrl) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "application_name": "firelock",
        "connect_timeout": _CONNECT_SECONDS,
        # A server that vanished without a word is noticed within half a minute, by whoever only listens too.
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    return {name: value for name, value in defaults.items() if name not in parsed.url.query}
