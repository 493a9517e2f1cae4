"""A PostgreSQL with millions of jobs, made in minutes by copying some that were really stored and run.

The copies are rows of the same table, written by SQL behind the contender's back, with a row of differences
that counts them. They begin a tenth of a second earlier a round of copies, so that lists by time have what to
sort. Afterwards everything is as autovacuum and a checkpoint would have left it by then.
"""

from __future__ import annotations

from benchmarks.growth import ROUND_MICROS, SOURCES, WAITING
from benchmarks.postgresql_server import PostgresqlServer

ORIGINS = {"succeeded": "7000-8000-", "enqueued": "7000-8001-"}
"""What copies in a state have in their ids, behind the instant, so that new jobs sort behind all of them."""

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
    """Dead rows are gone, statistics are true, and nothing is left to write back."""
    server.ask("vacuum (analyze); checkpoint;")


def fill(server: PostgresqlServer, *, prefix: str, stored: int, waiting: int) -> None:
    """Leave `stored` finished jobs, and `waiting` ones in a queue of their own, where some of both are.

    `prefix` is what the names of the contender's tables begin with.

    Raises:
        RuntimeError: another table tells of jobs too, or there are more finished ones already.
    """
    for table in server.ask(OTHERS).splitlines():
        if server.ask(f"select exists (select from {table})") != "f":
            message = f"{table} has rows of jobs, which nobody copies"
            raise RuntimeError(message)
    multiply(server, prefix=prefix, state="succeeded", queue="default", stored=stored)
    multiply(server, prefix=prefix, state="enqueued", queue=WAITING, stored=waiting)
    settle(server)


def multiply(server: PostgresqlServer, *, prefix: str, state: str, queue: str, stored: int) -> None:
    """Leave so many jobs of one queue in one state, and counts that say so."""
    table = f"{prefix}jobs"
    where = f"state = '{state}' and queue = '{queue}'"
    copies = stored - int(server.ask(f"select count(*) from {table} where {where}"))
    if copies <= 0:
        message = f"there are {-copies} more {state} jobs than the {stored} to be stored"
        raise RuntimeError(message)
    names = server.ask(COLUMNS.format(table=table)).splitlines()
    values = ", ".join(value_of(name, state=state, copies=copies) for name in names)
    words = {"table": table, "state": state, "queue": queue, "copies": copies, "sources": SOURCES}
    copy = COPY.format(names=", ".join(names), values=values, **words)
    count = COUNT.format(prefix=prefix, state=state, queue=queue, copies=copies)
    server.ask(f"begin; {copy}; {count}; commit;")


def value_of(name: str, *, state: str, copies: int) -> str:
    """Return what a column of a copy holds, as SQL."""
    if name == "id":
        number = f"lpad(to_hex(round.number * {SOURCES} + source.place), 12, '0')"
        return f"substr(source.id, 1, 14) || '{ORIGINS[state]}' || {number}"
    if name.endswith("_at"):
        return f"source.{name} - ({copies // SOURCES} + 1 - round.number) * {ROUND_MICROS}"
    return f"source.{name}"
