"""The statements on PostgreSQL that run for every job."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from firelock.limits import EXAMINED
from firelock_sql.connections.transaction import Text
from firelock_sql.postgresql.lanes import GATE
from firelock_sql.rows.job_row import CLAIMED_COLUMNS
from firelock_sql.verbs.limits import IN_LANE

# Stores new plain jobs of one kind. The clock is read in a subquery, because a column expression would read
# it once per row. An existing job violates the unique index and causes an error. Checking for existing jobs
# first would cost the server 11.2 µs per job instead of 9.4 (ON CONFLICT: 12.3), and ids are new except after
# a lost reply.
_INSERT = """
WITH stored AS (
    INSERT INTO firelock_jobs
        (state, enqueued_at, queue, priority, task, serializer, id, arguments, created_at,
            changed_at{columns})
    SELECT 'enqueued', clock.now, :queue, :priority::integer, :task, :serializer, job.id, job.arguments,
        job.at, job.at{values}
    FROM (
        SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + :offset AS now OFFSET 0
    ) AS clock, unnest(:ids::text[], :arguments::text[], :ats::bigint[]{arrays})
        AS job (id, arguments, at{names})
)
INSERT INTO firelock_count_deltas (state, queue, jobs) VALUES ('enqueued', :queue, cardinality(:ids::text[]))
"""
_PLAIN = {"columns": "", "values": "", "arrays": "", "names": ""}
_LIMITED = {
    "columns": ", lane, admission_json", "values": ", job.lane, job.admission_json",
    "arrays": ", :lanes::text[], :admissions::text[]", "names": ", lane, admission_json",
}  # fmt: skip
_CALLED = {"columns": ", relations_json", "values": ", :relations", "arrays": "", "names": ""}
INSERT = Text(_INSERT.format(**_PLAIN))
INSERT_CALLED = Text(_INSERT.format(**_CALLED))
INSERT_LIMITED = Text(_INSERT.format(**_LIMITED))

# Stores members of one batch in the same way. An earlier statement has locked the batch, so this one sees
# whether the batch is still open. It returns a row only for an open batch; otherwise, it does not store
# anything. The expression on the state keeps the planner from using the index of states: if few jobs are
# awaiting when the statement is planned, the plan would be to read all awaiting jobs to find the batch.
KEEP_OPEN = Text("SELECT FROM firelock_batches WHERE id = :batch FOR SHARE")
_INSERT_MEMBERS = """
WITH clock AS MATERIALIZED (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + :offset AS now,
        cardinality(:ids::text[]) AS number
    FROM firelock_jobs AS job, firelock_batches AS batch
    WHERE job.id = :batch AND job.state || '' = 'awaiting'
        AND batch.id = :batch AND batch.is_unopened = 0 AND batch.is_cancelled = 0
), stored AS (
    INSERT INTO firelock_jobs
        (state, enqueued_at, queue, priority, task, serializer, id, arguments, created_at,
            changed_at, relations_json, marks{columns})
    SELECT 'enqueued', clock.now, :queue, :priority::integer, :task, :serializer, job.id, job.arguments,
        job.at, job.at, :relations, 2{values}
    FROM clock, unnest(:ids::text[], :arguments::text[], :ats::bigint[]{arrays})
        AS job (id, arguments, at{names})
), listed AS (
    INSERT INTO firelock_members (batch_id, created_at, job_id)
    SELECT :batch, job.at, job.id FROM clock, unnest(:ids::text[], :ats::bigint[]) AS job (id, at)
), batch_counted AS (
    {batch_counted}
), counted AS (
    INSERT INTO firelock_count_deltas (state, queue, jobs) SELECT 'enqueued', :queue, number FROM clock
)
SELECT FROM clock
"""
_BATCH_DELTA = (
    "INSERT INTO firelock_batch_deltas (batch_id, total, active) SELECT :batch, number, number FROM clock"
)
INSERT_MEMBERS = Text(_INSERT_MEMBERS.format(**_PLAIN, batch_counted=_BATCH_DELTA))
INSERT_LIMITED_MEMBERS = Text(_INSERT_MEMBERS.format(**_LIMITED, batch_counted=_BATCH_DELTA))

# Stores members of a batch that this transaction has just stored without members, so no other transaction has
# changed its counts.
_FILLED = """UPDATE firelock_batches
    SET total = total + number, active = active + number, is_changed = 0 FROM clock WHERE id = :batch"""
FILL = Text(_INSERT_MEMBERS.format(**_PLAIN, batch_counted=_FILLED))
FILL_LIMITED = Text(_INSERT_MEMBERS.format(**_LIMITED, batch_counted=_FILLED))

_OF_JOBS = "SELECT FROM firelock_jobs WHERE"
_READY = "state = 'enqueued' AND session IS NULL AND lane IS NULL"
_OPEN = "NOT EXISTS (SELECT FROM firelock_records AS paused WHERE is_paused = 1 AND paused.key = asked.name)"


def _first_queue(also: str = "") -> str:
    """Return a query for the first queue with a ready job; `also` is a further condition.

    Like `_first_plain`, it has an order that only one index provides. With `min(queue)` and the statistics of
    a time without ready jobs, the planner would choose an index that reads all ready jobs for each queue.
    """
    order = "ORDER BY queue, priority DESC, enqueued_at LIMIT 1"
    return f"SELECT queue FROM firelock_jobs WHERE {_READY}{also} {order}"  # noqa: S608 - our own conditions


# The unpaused queues of a claim, in order.
_OPEN_NAMED = f"""
WITH open AS MATERIALIZED (
    SELECT name, place FROM unnest(:queues::text[]) WITH ORDINALITY AS asked (name, place) WHERE {_OPEN}
)"""  # noqa: S608 - our own conditions
_OPEN_EVERY = f"""
WITH RECURSIVE turn AS (
    SELECT ({_first_queue()}) AS name
    UNION ALL
    SELECT ({_first_queue(" AND queue > turn.name")})
    FROM turn WHERE turn.name IS NOT NULL
), open AS MATERIALIZED (
    SELECT name, row_number() OVER (ORDER BY name <= :served, name) AS place FROM turn AS asked
    WHERE name IS NOT NULL AND {_OPEN}
)"""  # noqa: S608 - our own conditions


def _first_plain(queue: str) -> str:
    """Return a query for the first job of a queue that is not in a lane.

    This query and the next one have an order that only one index provides. Otherwise, the planner would
    choose another index while the table is empty.
    """
    return f"{_OF_JOBS} {_READY} AND queue = {queue} ORDER BY priority DESC, enqueued_at, seq LIMIT 1"


def _first_in_lane(queue: str) -> str:
    """Return a query for the first job in the first lane of a queue."""
    order = "ORDER BY lane, priority DESC, enqueued_at, seq LIMIT 1"
    return f"{_OF_JOBS} {IN_LANE} AND queue = {queue} {order}"


_OF_NAMED = f"""EXISTS (
    SELECT FROM unnest(:queues::text[]) AS name, LATERAL ({_first_in_lane("name")}) AS job
)"""  # noqa: RUF100, S608
_OF_EVERY = f"""EXISTS (
    SELECT FROM ({_OF_JOBS} {IN_LANE} ORDER BY queue, lane LIMIT 1) AS job
)"""  # noqa: RUF100, S608


@attrs.frozen
class _Queues:
    """The SQL parts that read the queues of a claim: the named queues, or all queues."""

    opened: str  # the beginning of the statement, which reads the unpaused queues in order
    has_lanes: str  # the query for whether one of these queues may have lanes
    share: str  # the expression for the maximum number of jobs from each queue


_NAMED = _Queues(_OPEN_NAMED, _OF_NAMED, ":limit")
_EVERY = _Queues(_OPEN_EVERY, _OF_EVERY, "ceil(:limit / (SELECT count(*)::float FROM open))")

# The next due time. Jobs that are due before a start time are ignored: see `DueFloor`.
_DUE = """
least(
    (
        SELECT due_at FROM firelock_jobs WHERE due_at IS NOT NULL AND due_at >= :due_from
        ORDER BY due_at LIMIT 1
    ),
    (SELECT min(due_at) FROM firelock_recurring WHERE kind = 'recurring' AND due_at IS NOT NULL)
)"""


@attrs.frozen
class _Ends:
    """The parts of a statement that settle plain outcomes, including those of members if `:batches` is used.

    An element of `:batches` is NULL for a job that is not a member. The changes to the counts are inserted as
    one row per batch, so no batch is locked.
    """

    are_members: bool

    def settled(self) -> str:
        """Return the part that locks and settles the ends."""
        batches, batch_id = (", :batches::text[]", ", batch_id") if self.are_members else ("", "")
        ended_batch = ", ended.batch_id" if self.are_members else ""
        batch_counted = (
            """, batch_counted AS (
    INSERT INTO firelock_batch_deltas (batch_id, active, succeeded)
    SELECT batch_id, -count(*), count(*) FROM settled WHERE batch_id IS NOT NULL GROUP BY batch_id
)"""
            if self.are_members
            else ""
        )
        return f"""
ended AS MATERIALIZED (
    SELECT job.*, stored.ctid AS row
    FROM unnest(
        :seqs::bigint[], :ids::text[], :fences::integer[], :ats::bigint[], :starts::bigint[],
        :expiries::bigint[], :results::text[], :absent::text[]{batches}
    ) AS job (seq, id, fence, at, started_at, expires_at, result, result_absent{batch_id}), LATERAL (
        SELECT ctid FROM firelock_jobs
        WHERE {self._is_held} FOR NO KEY UPDATE SKIP LOCKED
    ) AS stored
), settled AS (
    UPDATE firelock_jobs AS job
    SET state = 'succeeded', changed_at = ended.at, ended_at = ended.at, started_at = ended.started_at,
        expires_at = ended.expires_at, result = ended.result, result_absent = ended.result_absent,
        is_plain_end = 1, session = NULL, reason = NULL, due_at = NULL
    FROM ended WHERE job.ctid = ended.row
    RETURNING job.queue, job.seq{ended_batch}
){batch_counted}"""  # noqa: S608 - our own conditions

    def unsettled(self) -> str:
        """Return the columns with the settled and the locked jobs; NULL if all jobs were settled.

        If a job meets the conditions in the snapshot but was not settled, another transaction has locked it,
        or has changed it since the snapshot.
        """
        batches, batch_id = (", :batches::text[]", ", batch_id") if self.are_members else ("", "")
        return f"""
CASE WHEN (SELECT count(*) FROM settled) < cardinality(:seqs::bigint[])
    THEN ARRAY (SELECT seq FROM settled) END,
CASE WHEN (SELECT count(*) FROM settled) < cardinality(:seqs::bigint[]) THEN ARRAY (
    SELECT job.seq
    FROM unnest(:seqs::bigint[], :ids::text[], :fences::integer[]{batches}) AS job (seq, id, fence{batch_id}),
        LATERAL (SELECT FROM firelock_jobs WHERE {self._is_held}) AS stored
    WHERE job.seq NOT IN (SELECT seq FROM ended)
) END
"""  # noqa: S608 - our own conditions

    @property
    def _is_held(self) -> str:
        marks = "CASE WHEN job.batch_id IS NULL THEN 4 ELSE 6 END" if self.are_members else "4"
        return f"""seq = job.seq AND id = job.id AND coalesce(session, '') = :session AND fence = job.fence
            AND state = 'processing' AND marks | 4 = {marks} AND (SELECT count(*) FROM holder) = 1"""  # noqa: S608 - numbers


@attrs.frozen
class Settling:
    """A statement that settles plain outcomes in addition to its other effects."""

    alone: Text
    with_members: Text  # the form that has the additional parameter `batches`

    @classmethod
    def of(cls, write: Callable[[_Ends], str]) -> Settling:
        """Return both forms of the statement that the function `write` composes."""
        return cls(Text(write(_Ends(are_members=False))), Text(write(_Ends(are_members=True))))


# Assigns the found jobs to the session.
_CLAIMED = f"""
claimed AS (
    UPDATE firelock_jobs
    SET state = 'processing', attempt = attempt + 1, fence = fence + 1, session = :session,
        server = (SELECT server FROM holder), claimed_at = :now, changed_at = :now, started_at = NULL,
        reason = NULL
    WHERE ctid = ANY (ARRAY (SELECT row FROM found))
    RETURNING {CLAIMED_COLUMNS}, seq, marks
)"""  # noqa: S608 - names of columns

# The jobs of a queue that a claim may take. A claim that skips tasks reads the first jobs, then locks the
# jobs that it may take. It sorts these jobs again, because a list of rows has no order.
_NEAR = f"""
            SELECT ctid FROM firelock_jobs
            WHERE {_READY} AND queue = queue.name AND (SELECT count(*) FROM holder) = 1
            ORDER BY priority DESC, enqueued_at, seq LIMIT 512 FOR NO KEY UPDATE SKIP LOCKED
"""  # noqa: S608 - our own conditions
_NEAR_LEAVING_OUT = f"""
            SELECT ctid FROM firelock_jobs
            WHERE {_READY} AND (SELECT count(*) FROM holder) = 1 AND ctid = ANY (ARRAY (
                SELECT seen.ctid FROM (
                    SELECT ctid, task FROM (
                        SELECT ctid, task FROM firelock_jobs WHERE {_READY} AND queue = queue.name
                        ORDER BY priority DESC, enqueued_at, seq LIMIT {EXAMINED}
                    ) AS first
                    LIMIT greatest({EXAMINED} / (SELECT count(*) FROM open), 1)
                ) AS seen
                WHERE seen.task <> ALL (:left_out::text[])
            ))
            ORDER BY priority DESC, enqueued_at, seq LIMIT 512 FOR NO KEY UPDATE SKIP LOCKED
"""  # noqa: S608 - our own conditions


# Settles plain outcomes and claims as many jobs as the limit allows; each of these parts may be used alone.
# If a queue may have jobs with limits, the statement does not claim any job, unless `:with_lanes` is set. In
# this case, `lanes` claims jobs with limits, and uses this statement for the other jobs.
#
# The statement first locks the session, so that the session cannot end before this transaction. Then it locks
# the jobs in order of id; the lists are sorted by id. It does not wait for a job that another transaction has
# locked. A claim that does not find any job does not lock anything. Each ended job is found by its number.
# Otherwise, the planner, which expects that a session holds few jobs, would read all of them for each ended
# job. The inner limits, such as 512, help the planner, which ignores the outer limits.
#
# Each result row contains: the living session's server, the next due time, the number of unpaused queues, the
# numbers of the settled and of the locked jobs if not all were settled, whether lanes may exist, the duration
# in microseconds, and a claimed job or NULLs.
def _exchange(queues: _Queues, near: str) -> Settling:
    def write(ends: _Ends) -> str:
        return f"""{queues.opened}
, work AS MATERIALIZED (
    SELECT CASE WHEN cardinality(:seqs::bigint[]) > 0 THEN true ELSE EXISTS (
        SELECT FROM open, LATERAL (
            SELECT FROM firelock_jobs WHERE {_READY} AND queue = open.name
            ORDER BY priority DESC, enqueued_at, seq LIMIT 1
        ) AS job
    ) END AS is_there, {queues.has_lanes} AS has_lanes
), holder AS MATERIALIZED (
    SELECT server FROM firelock_sessions
    WHERE id = :session AND died_at IS NULL AND (SELECT is_there FROM work) FOR KEY SHARE
), {ends.settled()}, found AS MATERIALIZED (
    SELECT job.ctid AS row
    FROM (SELECT name FROM open ORDER BY place) AS queue, LATERAL (
        SELECT ctid FROM ({near}) AS near
        LIMIT {queues.share}
    ) AS job
    LIMIT CASE WHEN :with_lanes OR NOT (SELECT has_lanes FROM work) THEN :limit ELSE 0 END
), {_CLAIMED}, counted AS (
    INSERT INTO firelock_count_deltas (state, queue, jobs)
    SELECT state, queue, sum(jobs) FROM (
        SELECT 'processing', queue, -1 FROM settled
        UNION ALL SELECT 'succeeded', queue, 1 FROM settled
        UNION ALL SELECT 'enqueued', queue, -1 FROM claimed
        UNION ALL SELECT 'processing', queue, 1 FROM claimed
    ) AS moved (state, queue, jobs)
    GROUP BY state, queue HAVING sum(jobs) <> 0
)
SELECT common.*, (extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000000)::bigint, claimed.*
FROM (
    SELECT CASE WHEN (SELECT is_there FROM work) THEN (SELECT server FROM holder)
            ELSE (SELECT server FROM firelock_sessions WHERE id = :session AND died_at IS NULL) END,
        {_DUE}, (SELECT count(*) FROM open), {ends.unsettled()}, (SELECT has_lanes FROM work)
) AS common LEFT JOIN claimed ON true
"""  # noqa: S608 - our own conditions

    return Settling.of(write)


EXCHANGE, EXCHANGE_OF_EVERY = _exchange(_NAMED, _NEAR), _exchange(_EVERY, _NEAR)
EXCHANGE_LEAVING_OUT = _exchange(_NAMED, _NEAR_LEAVING_OUT)
EXCHANGE_OF_EVERY_LEAVING_OUT = _exchange(_EVERY, _NEAR_LEAVING_OUT)

# Begins a claim with lanes: settles plain outcomes, and always locks the session. The result row contains:
# the server of the session, the next due time, the settled and the locked jobs if not all were settled,
# whether lanes may exist, the unpaused queues with lanes, the unpaused queues with other work, and the time.
# Queues that are known to have lanes are not read: see `lanes.LaneFloors`.
_KNOWN, _IS_KNOWN = "name = ANY (:known::text[])", "(cardinality(:known::text[]) > 0)"


def _begin_lane_claim(queues: _Queues, *, laned: str, plain: str, before: str = "") -> Settling:
    def write(ends: _Ends) -> str:
        return f"""{queues.opened}{before}
, gate AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared({GATE})), holder AS MATERIALIZED (
    SELECT server FROM firelock_sessions
    WHERE id = :session AND died_at IS NULL AND (SELECT count(*) FROM gate) = 1 FOR KEY SHARE
), {ends.settled()}, counted AS (
    INSERT INTO firelock_count_deltas (state, queue, jobs)
    SELECT 'processing', queue, -count(*) FROM settled GROUP BY queue
    UNION ALL SELECT 'succeeded', queue, count(*) FROM settled GROUP BY queue
)
SELECT (SELECT server FROM holder), {_DUE}, {ends.unsettled()}, {_IS_KNOWN} OR {queues.has_lanes},
    ARRAY ({laned}), ARRAY ({plain}),
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
"""  # noqa: S608 - our own conditions

    return Settling.of(write)


BEGIN_LANE_CLAIM = _begin_lane_claim(
    _NAMED,
    laned=f"""SELECT name FROM open
        WHERE {_KNOWN} OR EXISTS (SELECT FROM ({_first_in_lane("open.name")}) AS job)""",  # noqa: S608 - our own conditions
    plain=f"SELECT name FROM open WHERE EXISTS (SELECT FROM ({_first_plain('open.name')}) AS job)",  # noqa: S608 - our own conditions
)
BEGIN_LANE_CLAIM_OF_EVERY = _begin_lane_claim(
    _EVERY,
    before=f""", lane_turn AS (
    SELECT CASE WHEN NOT {_IS_KNOWN} THEN (
        SELECT queue FROM firelock_jobs WHERE {IN_LANE} ORDER BY queue, lane LIMIT 1
    ) END AS name
    UNION ALL
    SELECT (
        SELECT queue FROM firelock_jobs WHERE {IN_LANE} AND queue > lane_turn.name
        ORDER BY queue, lane LIMIT 1
    )
    FROM lane_turn WHERE lane_turn.name IS NOT NULL
), laned AS (SELECT name FROM lane_turn UNION ALL SELECT name FROM unnest(:known::text[]) AS name)""",  # noqa: S608 - our own conditions
    laned=f"SELECT name FROM laned AS asked WHERE name IS NOT NULL AND {_OPEN}",  # noqa: S608 - ours
    plain="SELECT name FROM open",
)

# Claims by probes: see `claim_start`. The result is the same as that of EXCHANGE, but contains the unpaused
# queues instead of their number.
_HAS_LANES = f"CASE WHEN :every THEN {_OF_EVERY} ELSE {_OF_NAMED} END"
CLAIM_BY_PROBES = Text(f"""
WITH new AS MATERIALIZED (
    SELECT ({_first_queue(" AND queue > gap.low AND queue < gap.high")}) AS name
    FROM unnest(:gap_lows::text[], :gap_highs::text[]) AS gap (low, high)
    UNION ALL
    SELECT ({_first_queue(" AND queue > :last_known")})
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
                WHERE state = 'enqueued' AND session IS NULL AND lane IS NULL AND queue = queue.name
                    AND (SELECT count(*) FROM holder) = 1
                    AND probe.low = probe.high AND priority = probe.low
                    AND (enqueued_at, seq) > (probe.at, probe.after)
                ORDER BY enqueued_at, seq LIMIT 512 FOR NO KEY UPDATE SKIP LOCKED
            ) AS level
            UNION ALL SELECT ctid FROM (
                SELECT ctid FROM firelock_jobs
                WHERE state = 'enqueued' AND session IS NULL AND lane IS NULL AND queue = queue.name
                    AND (SELECT count(*) FROM holder) = 1
                    AND probe.low < probe.high AND priority > probe.low AND priority < probe.high
                ORDER BY priority DESC, enqueued_at, seq LIMIT 512 FOR NO KEY UPDATE SKIP LOCKED
            ) AS between
        ) AS near
        LIMIT :limit
    ) AS job
    LIMIT CASE WHEN {_HAS_LANES} THEN 0 ELSE :limit END
), {_CLAIMED}, counted AS (
    INSERT INTO firelock_count_deltas (state, queue, jobs)
    SELECT 'enqueued', queue, -count(*) FROM claimed GROUP BY queue
    UNION ALL SELECT 'processing', queue, count(*) FROM claimed GROUP BY queue
)
SELECT common.*, NULL, claimed.*
FROM (
    SELECT (SELECT server FROM holder), {_DUE},
        (SELECT array_agg(name) FROM open), NULL, NULL, {_HAS_LANES}
) AS common LEFT JOIN claimed ON true
""")  # noqa: S608 - our own conditions

# The result row contains: the next due time of a job, the next due time of a recurring job, the current time,
# and the duration in microseconds.
FIND_DUE = Text("""
SELECT due.*, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    (extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000000)::bigint
FROM (
    SELECT (
        SELECT due_at FROM firelock_jobs WHERE due_at IS NOT NULL AND due_at >= :due_from
        ORDER BY due_at LIMIT 1
    ), (SELECT min(due_at) FROM firelock_recurring WHERE kind = 'recurring' AND due_at IS NOT NULL)
    OFFSET 0
) AS due
""")
