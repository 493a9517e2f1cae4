"""The statements on PostgreSQL that run for every job."""

from __future__ import annotations

import attrs

from firelock.limits import EXAMINED
from firelock_sql.connections.transaction import Text
from firelock_sql.postgresql.lanes import GATE
from firelock_sql.rows.job_row import CLAIMED_COLUMNS
from firelock_sql.verbs.limits import IN_LANE

# Stores plain jobs of one kind, none of which is known. The clock is read once, as it would be for each row
# among a row's columns. That a job is known the unique key tells, by an error: to look for them first costs
# the server 11.2 µs a job where this costs 9.4 (ON CONFLICT 12.3), and ids are new but for lost replies.
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
        AS job (id, arguments, at{columns})
)
INSERT INTO firelock_count_deltas (state, queue, jobs) VALUES ('enqueued', :queue, cardinality(:ids::text[]))
"""
_LIMITED = {
    "columns": ", held_by, admission_json", "values": ", job.held_by, job.admission_json",
    "arrays": ", :lanes::text[], :admissions::text[]",
}  # fmt: skip
INSERT = Text(_INSERT.format(columns="", values="", arrays=""))
INSERT_LIMITED = Text(_INSERT.format(**_LIMITED))

# Members of one batch, likewise, behind a statement that has locked it: only then does this one see whether
# it is still open. There is a row for an open batch alone; else nothing is stored. No index serves the state
# so: where few jobs waited when it was planned, all that wait would be read to find the batch.
KEEP_OPEN = Text("SELECT FROM firelock_batches WHERE id = :batch FOR SHARE")
_INSERT_MEMBERS = """
WITH clock AS MATERIALIZED (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + :offset AS now,
        cardinality(:ids::text[]) AS number
    FROM firelock_jobs AS job, firelock_batches AS batch
    WHERE job.id = :batch AND job.state || '' = 'awaiting'
        AND batch.id = :batch AND batch.is_shut = 0 AND batch.is_cancelled = 0
), stored AS (
    INSERT INTO firelock_jobs
        (state, enqueued_at, queue, priority, task, serializer, id, arguments, created_at,
            changed_at, ties_json, marks{columns})
    SELECT 'enqueued', clock.now, :queue, :priority::integer, :task, :serializer, job.id, job.arguments,
        job.at, job.at, :ties, 2{values}
    FROM clock, unnest(:ids::text[], :arguments::text[], :ats::bigint[]{arrays})
        AS job (id, arguments, at{columns})
), listed AS (
    INSERT INTO firelock_members (batch_id, created_at, job_id)
    SELECT :batch, job.at, job.id FROM clock, unnest(:ids::text[], :ats::bigint[]) AS job (id, at)
), told AS (
    INSERT INTO firelock_batch_deltas (batch_id, total, active) SELECT :batch, number, number FROM clock
), counted AS (
    INSERT INTO firelock_count_deltas (state, queue, jobs) SELECT 'enqueued', :queue, number FROM clock
)
SELECT FROM clock
"""
INSERT_MEMBERS = Text(_INSERT_MEMBERS.format(columns="", values="", arrays=""))
INSERT_LIMITED_MEMBERS = Text(_INSERT_MEMBERS.format(**_LIMITED))

# Members of a batch that this transaction has stored empty: nobody else has changed what it counts.
_TOLD = "INSERT INTO firelock_batch_deltas (batch_id, total, active) SELECT :batch, number, number FROM clock"
_FILLED = """UPDATE firelock_batches
    SET total = total + number, active = active + number, is_changed = 0 FROM clock WHERE id = :batch"""
_FILL = _INSERT_MEMBERS.replace(_TOLD, _FILLED)
FILL = Text(_FILL.format(columns="", values="", arrays=""))
FILL_LIMITED = Text(_FILL.format(**_LIMITED))

_OF_JOBS = "SELECT FROM firelock_jobs WHERE"
_READY = "state = 'enqueued' AND session IS NULL AND held_by IS NULL"
_OPEN = "NOT EXISTS (SELECT FROM firelock_records AS paused WHERE is_paused = 1 AND paused.key = asked.name)"
# The queues of a claim that are not paused, in their order; and whether one of them may have lanes.
_NAMED = f"""
WITH open AS MATERIALIZED (
    SELECT name, place FROM unnest(:queues::text[]) WITH ORDINALITY AS asked (name, place) WHERE {_OPEN}
)"""  # noqa: S608 - conditions of ours
_EVERY = f"""
WITH RECURSIVE turn AS (
    SELECT (SELECT min(queue) FROM firelock_jobs WHERE {_READY}) AS name
    UNION ALL
    SELECT (SELECT min(queue) FROM firelock_jobs WHERE {_READY} AND queue > turn.name)
    FROM turn WHERE turn.name IS NOT NULL
), open AS MATERIALIZED (
    SELECT name, row_number() OVER (ORDER BY name <= :served, name) AS place FROM turn AS asked
    WHERE name IS NOT NULL AND {_OPEN}
)"""  # noqa: S608 - conditions of ours
# Each is in an order that one index alone has: the planner would take another for an empty table's.
_FIRST_PLAIN = f"{_OF_JOBS} {_READY} AND queue = QUEUE ORDER BY priority DESC, enqueued_at, seq LIMIT 1"
_FIRST_IN_LANE = (
    f"{_OF_JOBS} {IN_LANE} AND queue = QUEUE ORDER BY held_by, priority DESC, enqueued_at, seq LIMIT 1"
)
_OF_NAMED = f"""EXISTS (
    SELECT FROM unnest(:queues::text[]) AS name, LATERAL ({_FIRST_IN_LANE.replace("QUEUE", "name")}) AS job
)"""  # noqa: RUF100, S608
_OF_EVERY = f"""EXISTS (
    SELECT FROM ({_OF_JOBS} {IN_LANE} ORDER BY queue, held_by LIMIT 1) AS job
)"""  # noqa: RUF100, S608
# Of jobs from an instant on: see `DueFloor`.
_DUE = """
least(
    (
        SELECT due_at FROM firelock_jobs WHERE due_at IS NOT NULL AND due_at >= :due_from
        ORDER BY due_at LIMIT 1
    ),
    (SELECT min(due_at) FROM firelock_recurring WHERE kind = 'recurring' AND due_at IS NOT NULL)
)"""
_SETTLED = """
ended AS MATERIALIZED (
    SELECT job.*, stored.ctid AS row
    FROM unnest(
        :seqs::bigint[], :ids::text[], :fences::integer[], :ats::bigint[], :starts::bigint[],
        :expiries::bigint[], :results::text[], :absent::text[]
    ) AS job (seq, id, fence, at, started_at, expires_at, result, result_absent), LATERAL (
        SELECT ctid FROM firelock_jobs
        WHERE seq = job.seq AND id = job.id AND coalesce(session, '') = :session AND fence = job.fence
            AND state = 'processing' AND marks | 4 = 4 AND (SELECT count(*) FROM holder) = 1
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS stored
), settled AS (
    UPDATE firelock_jobs AS job
    SET state = 'succeeded', changed_at = ended.at, ended_at = ended.at, started_at = ended.started_at,
        expires_at = ended.expires_at, result = ended.result, result_absent = ended.result_absent,
        is_plain_end = 1, session = NULL, reason = NULL, due_at = NULL
    FROM ended WHERE job.ctid = ended.row
    RETURNING job.queue, job.seq
)"""
# Where not all were settled: the numbers of those that were, and of those that others have locked. What the
# snapshot shows as held, with all guards, would have been settled; it may have been changed since.
_UNSETTLED = """
CASE WHEN (SELECT count(*) FROM settled) < cardinality(:seqs::bigint[])
    THEN ARRAY (SELECT seq FROM settled) END,
CASE WHEN (SELECT count(*) FROM settled) < cardinality(:seqs::bigint[]) THEN ARRAY (
    SELECT job.seq
    FROM unnest(:seqs::bigint[], :ids::text[], :fences::integer[]) AS job (seq, id, fence), LATERAL (
        SELECT FROM firelock_jobs
        WHERE seq = job.seq AND id = job.id AND coalesce(session, '') = :session AND fence = job.fence
            AND state = 'processing' AND marks | 4 = 4 AND (SELECT count(*) FROM holder) = 1
    ) AS stored
    WHERE job.seq NOT IN (SELECT seq FROM ended)
) END
"""

# What makes of such a statement one for ends of which some are members' of a batch: `:batches` names it, or
# is NULL. What they change of its tally is one row a batch; nobody locks it.
_FOR_MEMBERS = (
    (":absent::text[]", ":absent::text[], :batches::text[]"),
    ("result, result_absent), LATERAL", "result, result_absent, batch_id), LATERAL"),
    (
        ":fences::integer[]) AS job (seq, id, fence)",
        ":fences::integer[], :batches::text[]) AS job (seq, id, fence, batch_id)",
    ),
    ("marks | 4 = 4", "marks | 4 = CASE WHEN job.batch_id IS NULL THEN 4 ELSE 6 END"),
    (
        "RETURNING job.queue, job.seq\n)",
        """RETURNING job.queue, job.seq, ended.batch_id
), told AS (
    INSERT INTO firelock_batch_deltas (batch_id, active, succeeded)
    SELECT batch_id, -count(*), count(*) FROM settled WHERE batch_id IS NOT NULL GROUP BY batch_id
)""",
    ),
)


@attrs.frozen
class Settling:
    """A statement that settles plain ends, besides whatever else it does."""

    alone: Text
    with_members: Text  # takes `batches` too


def _settling(statement: str) -> Settling:
    of_members = statement
    for plain, written in _FOR_MEMBERS:
        assert plain in of_members  # noqa: S101 - it is ours
        of_members = of_members.replace(plain, written)
    return Settling(Text(statement), Text(of_members))


# Makes what was found the session's.
_CLAIMED = f"""
claimed AS (
    UPDATE firelock_jobs
    SET state = 'processing', attempt = attempt + 1, fence = fence + 1, session = :session,
        server = (SELECT server FROM holder), claimed_at = :now, changed_at = :now, started_at = NULL,
        reason = NULL
    WHERE ctid = ANY (ARRAY (SELECT row FROM found))
    RETURNING {CLAIMED_COLUMNS}, seq, marks
)"""  # noqa: S608 - names of columns

# The jobs of a queue that a claim may take. One that leaves out tasks reads the first ones, and locks those
# of them that it may take, which it sorts again: a list has no order.
_NEAR = f"""
            SELECT ctid FROM firelock_jobs
            WHERE {_READY} AND queue = queue.name AND (SELECT count(*) FROM holder) = 1
            ORDER BY priority DESC, enqueued_at, seq LIMIT 512 FOR NO KEY UPDATE SKIP LOCKED
"""  # noqa: S608 - conditions of ours
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
"""  # noqa: S608 - conditions of ours

# Settles plain ends, and claims what there is room for; either may be asked for alone. Where a queue may have
# jobs with limits it claims nothing, unless it is told to: `lanes` claims them, and the others beside them.
#
# It locks the session first, so that it cannot end before this does, then jobs in the order of their ids,
# in which the lists are sorted; a job that others have locked is not waited for. A claim that finds nothing
# locks nothing. Each end is found by its number: what a session holds is so little in the planner's eyes that
# it would read all of it for each. The limits of 512 and of the look are for the planner as well: it knows
# nothing of the limits around them.
#
# A row is: the living session's server, the next due instant, the number of open queues, the numbers of the
# jobs that were settled and of those that others have locked, where not all were settled, whether there may
# be lanes, the micros that it took, and a claimed job or NULLs.
_EXCHANGE = f"""
, work AS MATERIALIZED (
    SELECT CASE WHEN cardinality(:seqs::bigint[]) > 0 THEN true ELSE EXISTS (
        SELECT FROM open, LATERAL (
            SELECT FROM firelock_jobs WHERE {_READY} AND queue = open.name
            ORDER BY priority DESC, enqueued_at, seq LIMIT 1
        ) AS job
    ) END AS is_there, HAS_LANES AS has_lanes
), holder AS MATERIALIZED (
    SELECT server FROM firelock_sessions
    WHERE id = :session AND died_at IS NULL AND (SELECT is_there FROM work) FOR KEY SHARE
), {_SETTLED}, found AS MATERIALIZED (
    SELECT job.ctid AS row
    FROM (SELECT name FROM open ORDER BY place) AS queue, LATERAL (
        SELECT ctid FROM ({_NEAR}) AS near
        LIMIT PER_QUEUE
    ) AS job
    LIMIT CASE WHEN :beside OR NOT (SELECT has_lanes FROM work) THEN :limit ELSE 0 END
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
SELECT said.*, (extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000000)::bigint, claimed.*
FROM (
    SELECT CASE WHEN (SELECT is_there FROM work) THEN (SELECT server FROM holder)
            ELSE (SELECT server FROM firelock_sessions WHERE id = :session AND died_at IS NULL) END,
        {_DUE}, (SELECT count(*) FROM open), {_UNSETTLED}, (SELECT has_lanes FROM work)
) AS said LEFT JOIN claimed ON true
"""  # noqa: S608 - conditions of ours
_EXCHANGE_NAMED = _NAMED + _EXCHANGE.replace("HAS_LANES", _OF_NAMED).replace("PER_QUEUE", ":limit", 1)
_EXCHANGE_EVERY = _EVERY + _EXCHANGE.replace("HAS_LANES", _OF_EVERY).replace(
    "PER_QUEUE", "ceil(:limit / (SELECT count(*)::float FROM open))", 1
)
EXCHANGE, EXCHANGE_OF_EVERY = _settling(_EXCHANGE_NAMED), _settling(_EXCHANGE_EVERY)


def _leaving_out(statement: str) -> Settling:
    assert _NEAR in statement  # noqa: S101 - it is ours
    return _settling(statement.replace(_NEAR, _NEAR_LEAVING_OUT))


EXCHANGE_LEAVING_OUT = _leaving_out(_EXCHANGE_NAMED)
EXCHANGE_OF_EVERY_LEAVING_OUT = _leaving_out(_EXCHANGE_EVERY)

# Begins a claim beside lanes: settles plain ends, and locks the session in any case. A row is: its server,
# the next due instant, the jobs that were settled and those that are locked where not all were settled,
# whether there may be lanes, the queues that have some, those that have other work, none of them paused, and
# the time.
_BESIDE = f"""
, gate AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared({GATE})), holder AS MATERIALIZED (
    SELECT server FROM firelock_sessions
    WHERE id = :session AND died_at IS NULL AND (SELECT count(*) FROM gate) = 1 FOR KEY SHARE
), {_SETTLED}, counted AS (
    INSERT INTO firelock_count_deltas (state, queue, jobs)
    SELECT 'processing', queue, -count(*) FROM settled GROUP BY queue
    UNION ALL SELECT 'succeeded', queue, count(*) FROM settled GROUP BY queue
)
SELECT (SELECT server FROM holder), {_DUE}, {_UNSETTLED}, HAS_LANES, ARRAY (LANED), ARRAY (PLAIN),
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
"""  # noqa: S608 - conditions of ours
# Queues that are known to have lanes are not looked at: see `lanes.LaneFloors`.
_KNOWN, _IS_KNOWN = "name = ANY (:known::text[])", "(cardinality(:known::text[]) > 0)"
_LANE_OF_OPEN = f"SELECT FROM ({_FIRST_IN_LANE.replace('QUEUE', 'open.name')}) AS job"  # noqa: RUF100, S608
_PLAIN_OF_OPEN = f"SELECT FROM ({_FIRST_PLAIN.replace('QUEUE', 'open.name')}) AS job"  # noqa: RUF100, S608
BESIDE = _settling(
    _NAMED
    + _BESIDE.replace("HAS_LANES", f"{_IS_KNOWN} OR {_OF_NAMED}")
    .replace("LANED", f"SELECT name FROM open WHERE {_KNOWN} OR EXISTS ({_LANE_OF_OPEN})")  # noqa: S608 - conditions of ours
    .replace("PLAIN", f"SELECT name FROM open WHERE EXISTS ({_PLAIN_OF_OPEN})")  # noqa: S608 - conditions of ours
)
BESIDE_OF_EVERY = _settling(
    _EVERY  # noqa: S608 - conditions of ours
    + f""", lane_turn AS (
    SELECT CASE WHEN NOT {_IS_KNOWN} THEN (
        SELECT queue FROM firelock_jobs WHERE {IN_LANE} ORDER BY queue, held_by LIMIT 1
    ) END AS name
    UNION ALL
    SELECT (
        SELECT queue FROM firelock_jobs WHERE {IN_LANE} AND queue > lane_turn.name
        ORDER BY queue, held_by LIMIT 1
    )
    FROM lane_turn WHERE lane_turn.name IS NOT NULL
), laned AS (SELECT name FROM lane_turn UNION ALL SELECT name FROM unnest(:known::text[]) AS name)"""  # noqa: S608 - conditions of ours
    + _BESIDE.replace("HAS_LANES", f"{_IS_KNOWN} OR {_OF_EVERY}")
    .replace("LANED", f"SELECT name FROM laned AS asked WHERE name IS NOT NULL AND {_OPEN}")  # noqa: S608 - conditions of ours
    .replace("PLAIN", "SELECT name FROM open")
)

# Claims by probes: see `claim_start`. Its answer is that of EXCHANGE, with the open queues for their number.
CLAIM_BEHIND = Text(
    """
WITH new AS MATERIALIZED (
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
            ) AS level
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
    LIMIT CASE WHEN HAS_LANES THEN 0 ELSE :limit END
), CLAIMED, counted AS (
    INSERT INTO firelock_count_deltas (state, queue, jobs)
    SELECT 'enqueued', queue, -count(*) FROM claimed GROUP BY queue
    UNION ALL SELECT 'processing', queue, count(*) FROM claimed GROUP BY queue
)
SELECT said.*, NULL, claimed.*
FROM (
    SELECT (SELECT server FROM holder), DUE,
        (SELECT array_agg(name) FROM open), NULL, NULL, HAS_LANES
) AS said LEFT JOIN claimed ON true
""".replace("HAS_LANES", f"CASE WHEN :every THEN {_OF_EVERY} ELSE {_OF_NAMED} END")
    .replace("CLAIMED", _CLAIMED)
    .replace("DUE", _DUE)
)

# A row is: the next due instant of a job, of a recurring job, the time, and the micros that the look took.
LOOK_FOR_DUE = Text("""
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
