"""A database with a million finished jobs, created in seconds by copying jobs that really ran.

SQL statements copy the rows of the jobs and the rows of other tables that refer to a job, and set the counter
rows, without the contender's code. Tables are recognised by their columns, so the floor and Firelock share
this code; an unknown table stops the run.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path

import attrs

from benchmarks.entry import Figures

SOURCES = 1_000
"""The number of jobs that really run and are then copied."""
ROUND_MICROS = 100_000
"""Time between two rounds of copies, as if a thousand jobs were enqueued and run in a tenth of a second."""
WAITING = "waiting"
"""A queue that no server processes."""


@attrs.frozen
class Table:
    """A table and its copied columns."""

    name: str
    columns: tuple[str, ...]
    """The columns without a number that the database generates."""
    keys: frozenset[str]


def read_tables(connection: sqlite3.Connection) -> list[Table]:
    """Return the tables of a database."""
    names = connection.execute("select name from sqlite_master where type = 'table' order by name").fetchall()
    return [read_table(connection, name) for (name,) in names]


def read_table(connection: sqlite3.Connection, table: str) -> Table:
    """Return the columns of a table, without a primary key that SQLite generates."""
    columns = connection.execute("select name, type, pk from pragma_table_info(?)", (table,)).fetchall()
    keys = frozenset(name for name, _, place in columns if place)
    copied = tuple(
        name for name, kind, place in columns if not (place and len(keys) == 1 and kind.upper() in INTEGERS)
    )
    return Table(table, copied, keys)


INTEGERS = ("INTEGER", "BIGINT")


def find_table(tables: Collection[Table], *columns: str) -> Table:
    """Return the only table that has all these columns."""
    found = [table for table in tables if set(columns) <= set(table.columns)]
    if len(found) != 1:
        message = f"expected one table with {', '.join(columns)}, found {[table.name for table in found]}"
        raise RuntimeError(message)
    return found[0]


def multiply(database: Path, *, stored: int) -> None:
    """Copy jobs until `stored` finished jobs exist, and set the counter rows; needs at least `SOURCES` jobs.

    The copies keep the first part of their ids, the time, so new jobs still sort after all of them. Each
    round of copies is `ROUND_MICROS` older than the next, so lists have as many different times as usual.
    """
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        tables = read_tables(connection)
        jobs = find_table(tables, "id", "state", "ended_at")
        finished = connection.execute(
            f"select count(*) from {jobs.name} where state = 'succeeded'"
        ).fetchone()[0]
        connection.execute("begin immediate")
        prepare_copies(connection, jobs, copies=stored - finished)
        copy_rows(connection, jobs, key="id")
        for table in tables:
            if "job_id" in table.columns:
                copy_rows(connection, table, key="job_id")
        add_counts(connection, tables, jobs)
        connection.execute("commit")
        connection.execute("drop table temp.copies")
        connection.execute("analyze")


def count_finished(connection: sqlite3.Connection, jobs: Table) -> int:
    """Return the number of succeeded jobs, by counting their rows."""
    count: int = connection.execute(f"select count(*) from {jobs.name} where state = 'succeeded'").fetchone()[
        0
    ]
    return count


def prepare_copies(connection: sqlite3.Connection, jobs: Table, *, copies: int) -> None:
    """Fill a temporary table with the ids of each copy and its source."""
    connection.execute("create temp table copies (source text not null, copy text not null, micros integer)")
    connection.execute(
        f"""
        with recursive
            sources as (
                select id, row_number() over (order by id) as place from {jobs.name}
                where state = 'succeeded' order by id limit :sources
            ),
            rounds (number) as (
                select 0 union all select number + 1 from rounds where number < :copies / :sources
            )
        insert into temp.copies
        select
            id, substr(id, 1, 14) || printf('7000-8000-%012x', number * :sources + place),
            (:copies / :sources + 1 - number) * :micros
        from rounds cross join sources limit :copies
        """,
        {"sources": SOURCES, "copies": copies, "micros": ROUND_MICROS},
    )
    connection.execute("create index temp.copied on copies (source)")


def copy_rows(connection: sqlite3.Connection, table: Table, *, key: str) -> None:
    """Store copies of each source's rows with the ids of its copies and with earlier times."""
    others = [column for column in table.columns if column != key]
    names = ", ".join(f'"{column}"' for column in others)
    values = ", ".join(f'"{name}" - micros' if name.endswith("_at") else f'"{name}"' for name in others)
    connection.execute(
        f"""
        insert into "{table.name}" ("{key}", {names})
        select copies.copy, {values}
        from temp.copies join "{table.name}" on "{table.name}"."{key}" = copies.source
        """
    )


def add_counts(connection: sqlite3.Connection, tables: Collection[Table], jobs: Table) -> None:
    """Set the counter row of the finished jobs of each queue to the stored number, and delete all changes."""
    counters = [table for table in tables if table != jobs and {"state", "queue"} <= set(table.columns)]
    counts = find_table([table for table in counters if table.keys == {"state", "queue"}])
    for changes in counters:
        if changes != counts:
            connection.execute(f'delete from "{changes.name}"')
    (number,) = (column for column in counts.columns if column not in {"state", "queue"})
    connection.execute(
        f"""
        update "{counts.name}" set "{number}" = (
            select count(*) from "{jobs.name}" as stored
            where stored.state = 'succeeded' and stored.queue = "{counts.name}".queue
        )
        where state = 'succeeded'
        """
    )


def verbs(bulk: Figures, processed: Figures, single: Figures) -> Figures:
    """Return the rates of bulk enqueueing, running and single enqueueing."""
    measured = {"bulk": bulk, "process": processed, "one": single}
    return {f"{name}_jobs_per_s": figures["jobs_per_s"] for name, figures in measured.items()}


def shares(empty: Mapping[str, float], grown: Mapping[str, float]) -> Figures:
    """Return the grown figures, and each as a share of the empty one."""
    return {**grown, **{name.replace("jobs_per_s", "share"): grown[name] / empty[name] for name in empty}}
