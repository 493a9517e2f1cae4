"""A PostgreSQL database with millions of jobs, created in minutes by copying jobs that really ran.

SQL statements write the copies to the same table, with a row of differences that counts them, without the
contender's code. Each round of copies is a tenth of a second older than the next, so that lists by time have
different times to sort. Afterwards, the database is in the state after autovacuum and a checkpoint.
"""

from __future__ import annotations

from benchmarks.growth import ROUND_MICROS, SOURCES, WAITING
from benchmarks.postgresql_server import PostgresqlServer

ORIGINS = {"succeeded": "7000-8000-", "enqueued": "7000-8001-"}
"""The part of copies' ids after the time, by state; it makes new jobs sort after all copies."""

COLUMNS = """
select column_name from information_schema.columns
where table_schema = current_schema() and table_name = '{table}' and is_identity = 'NO'
    and coalesce(column_default, '') not like 'nextval(%' order by ordinal_position
"""
COPY = """
with
    source as (
        select *, row_number() over (order by id) as place from {table}
        where state = '{state}' and queue = '{queue}' order by id limit {sources}
    ),
    round as (select generate_series(0, {copies} / {sources}) as number)
insert into {table} ({names})
select {values} from round cross join source order by round.number, source.place limit {copies}
"""
COUNT = "insert into {prefix}count_deltas (state, queue, jobs) values ('{state}', '{queue}', {copies})"
OTHERS = """
select table_name from information_schema.columns
where table_schema = current_schema() and column_name in ('job_id', 'parent_id')
"""


def settle(server: PostgresqlServer) -> None:
    """Remove dead rows, update the statistics, and write all changes to the disk."""
    server.query("vacuum (analyze); checkpoint;")


def fill(server: PostgresqlServer, *, prefix: str, stored: int, waiting: int) -> None:
    """Copy jobs until there are `stored` finished jobs, and `waiting` jobs in a separate queue.

    Some jobs of both kinds must exist. `prefix` is the common prefix of the contender's tables.

    Raises:
        RuntimeError: If another table also has rows of jobs, or more finished jobs already exist.
    """
    for table in server.query(OTHERS).splitlines():
        if server.query(f"select exists (select from {table})") != "f":
            message = f"{table} has rows of jobs, which are not copied"
            raise RuntimeError(message)
    multiply(server, prefix=prefix, state="succeeded", queue="default", stored=stored)
    multiply(server, prefix=prefix, state="enqueued", queue=WAITING, stored=waiting)
    settle(server)


def multiply(server: PostgresqlServer, *, prefix: str, state: str, queue: str, stored: int) -> None:
    """Copy jobs until one state of one queue has `stored` jobs, and count the copies."""
    table = f"{prefix}jobs"
    where = f"state = '{state}' and queue = '{queue}'"
    copies = stored - int(server.query(f"select count(*) from {table} where {where}"))
    if copies <= 0:
        message = f"there are {-copies} more {state} jobs than the {stored} to be stored"
        raise RuntimeError(message)
    names = server.query(COLUMNS.format(table=table)).splitlines()
    values = ", ".join(value_of(name, state=state, copies=copies) for name in names)
    words = {"table": table, "state": state, "queue": queue, "copies": copies, "sources": SOURCES}
    copy = COPY.format(names=", ".join(names), values=values, **words)
    count = COUNT.format(prefix=prefix, state=state, queue=queue, copies=copies)
    server.query(f"begin; {copy}; {count}; commit;")


def value_of(name: str, *, state: str, copies: int) -> str:
    """Return the value of a copy's column, as SQL."""
    if name == "id":
        number = f"lpad(to_hex(round.number * {SOURCES} + source.place), 12, '0')"
        return f"substr(source.id, 1, 14) || '{ORIGINS[state]}' || {number}"
    if name.endswith("_at"):
        return f"source.{name} - ({copies // SOURCES} + 1 - round.number) * {ROUND_MICROS}"
    return f"source.{name}"
