"""PostgreSQL's own texts of the hot path: each does all of its work in one statement, in one round trip.

Rows are found by their place in the table (ctid) once they are locked. A join would do, but its plan turns on
what the server believes about the table: believed empty, a thousand jobs were read for each one settled.
All parts of one statement see one snapshot, so a claim does not see what the settle beside it changes, and
no row is changed twice. Parameters are named (`psycopg`), names of tables are those of the storage.
"""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy.engine import Dialect

from firelock_sql.claiming import CLAIMED_COLUMNS
from firelock_sql.plain import KIND
from firelock_sql.servers.names import index_name, table_name
from firelock_sql.tables import count_deltas, jobs, records, recurring, sessions

__all__ = ["NOW", "exchange_text", "insert_text"]

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
