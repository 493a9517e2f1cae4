"""Across modules: the text of every statement of the package, in every dialect that it is written for."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sqlite3
from contextlib import closing

import psycopg
import pytest
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.schema import CreateIndex, CreateTable

import firelock_sql
from firelock import Firelock
from firelock_sql.connections.transaction import Text
from firelock_sql.mysql.connect import dialect_of as mysql_dialect
from firelock_sql.postgresql.connect import dialect_of as postgresql_dialect
from firelock_sql.schema.names import PREFIX, Names
from firelock_sql.schema.tables import METADATA, is_of
from firelock_sql.verbs.find import (
    _CONDITIONS,
    _LISTS,
    _RARE_INDEXES,
    _count_up_to,
    _statement,
    _Walk,
)
from firelock_sql.verbs.records import _Statements

OURS = Names("elsewhere", "mine_")
DIALECTS = {
    "mysql": mysql_dialect("mysql", OURS),
    "mariadb": mysql_dialect("mariadb", OURS),
    "postgresql": postgresql_dialect("psycopg", OURS),
    "sqlite": SQLiteDialect_pysqlite(paramstyle="qmark"),
}
FOLDERS = {"mysql": "mysql", "mariadb": "mysql", "postgresql": "postgresql", "sqlite": "sqlite"}
LISTS = {"ids", "seqs"}


def walks():
    """Every way to a page that a filter can lead to, with every condition tested on the way."""
    everything = frozenset(_CONDITIONS)
    for index in ("listed", "due", "by_task", "holder", *_LISTS, *filter(None, _RARE_INDEXES.values())):
        for is_oldest_first in (True, False):
            led_by = frozenset(
                {index} if index in _LISTS else {"state"} if index in {"listed", "due"} else ()
            )
            time = "due_at" if index == "due" else "changed_at"
            yield _Walk(index, led_by, everything - led_by, time, is_oldest_first, True, True, True)


def several(value):
    """What a name stands for: itself, the items of a list, or what is asked of a table of records."""
    if isinstance(value, _Statements):
        return vars(value).values()
    return value if isinstance(value, list) else [value]


def every_statement():
    """Every `Text` of the package by where it is defined."""
    found = {}
    for module in pkgutil.walk_packages(firelock_sql.__path__, "firelock_sql."):
        for name, value in vars(importlib.import_module(module.name)).items():
            for place, one in enumerate(several(value)):
                if isinstance(one, Text):
                    found[f"{module.name}.{name}.{place}"] = one
    for place, walk in enumerate(walks()):
        found[f"firelock_sql.verbs.find.walk.{place}"] = _statement(walk)
    for name, index in _RARE_INDEXES.items():
        found[f"firelock_sql.verbs.find.rare.{name}"] = _count_up_to(name, index)
    return found


STATEMENTS = every_statement()


def statements_for(dialect, *, but=None):
    """Every statement that this dialect may have to run: what all databases share, and its own."""
    others = {but or "nothing"} | {
        f"firelock_sql.{folder}." for folder in FOLDERS.values() if folder != FOLDERS[dialect]
    }
    return [one for name, one in STATEMENTS.items() if not name.startswith(tuple(others))]


def text_of(statement, dialect):
    """The statement's text in one line."""
    return " ".join(statement.compiled(DIALECTS[dialect]).text.split())


def test_statements_are_found():
    """A rule about nothing would hold."""
    assert len(STATEMENTS) > 100


@pytest.mark.parametrize("dialect", ["mysql", "mariadb", "postgresql"])
def test_every_statement_names_the_tables_as_they_are_called(dialect):
    """A schema and a prefix of the user's choice reach every text, indexes' names too."""
    wrong = [
        text
        for one in statements_for(dialect)
        if PREFIX in (text := text_of(one, dialect)) or "mine_" not in text
    ]

    assert wrong == []


@pytest.mark.parametrize("dialect", ["mysql", "mariadb"])
def test_rows_are_locked_as_mysql_writes_it(dialect):
    """No clause of another database is in a text, and no lock is left out."""
    locking = [text for one in statements_for(dialect) if " FOR " in (text := text_of(one, "postgresql"))]

    texts = [text_of(one, dialect) for one in statements_for(dialect)]

    endings = {
        found[0]
        for text in texts
        if (found := re.search(r"(FOR UPDATE|FOR SHARE|LOCK IN SHARE MODE).*$", text))
    }
    shared = {"mysql": "FOR SHARE", "mariadb": "LOCK IN SHARE MODE"}[dialect]
    exclusive = {f"FOR UPDATE{how}" for how in ("", " SKIP LOCKED", " NOWAIT")}
    assert endings == {*exclusive, "LOCK IN SHARE MODE", f"{shared} SKIP LOCKED"}
    locks = ("FOR UPDATE", "FOR SHARE", "SHARE MODE")
    assert sum(any(lock in text for lock in locks) for text in texts) == len(locking)
    assert [text for text in texts if "KEY SHARE" in text or "INDEXED BY" in text or "ANY(" in text] == []


@pytest.mark.parametrize("dialect", ["mysql", "mariadb"])
def test_jobs_are_locked_along_an_index_that_is_named(dialect):
    """A plan that walks another way would lock other jobs, in another order: two batches would cross."""
    locking = [
        text
        for one in statements_for(dialect)
        if "mine_jobs" in (text := text_of(one, dialect)) and re.search("FOR UPDATE|SHARE MODE", text)
    ]

    assert len(locking) > 4
    assert [text for text in locking if "FORCE INDEX" not in text] == []


@pytest.mark.parametrize("dialect", ["mysql", "mariadb"])
def test_no_change_reads_the_table_that_it_changes(dialect):
    """MySQL refuses it (error 1093), and MariaDB locks what is read on the way."""
    changes = [
        (found[1], text)
        for one in statements_for(dialect)
        if (found := re.match(r"(?:UPDATE|DELETE(?: FROM)?) (\S+)", text := text_of(one, dialect)))
    ]

    assert len(changes) > 20
    assert [text for table, text in changes if text.count(f"FROM {table} ") > text.startswith("DELETE")] == []


@pytest.mark.parametrize("dialect", ["mysql", "mariadb"])
def test_a_list_is_the_last_parameter_of_a_change(dialect):
    """So the cursor knows where it is, and joins the change to it."""
    changes = [
        text
        for one in statements_for(dialect)
        if re.match("UPDATE|DELETE", text := text_of(one, dialect)) and " IN " in text
    ]

    assert len(changes) > 10
    assert [text for text in changes if " IN %s" not in text or "%s" in text.partition(" IN %s")[2]] == []


def test_sqlite_takes_every_statement():
    """Each one is explained, whatever its parameters."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for table in METADATA.sorted_tables:
            connection.execute(str(CreateTable(table).compile(dialect=DIALECTS["sqlite"])))
            for index in table.indexes:
                if is_of(index, "sqlite"):
                    connection.execute(str(CreateIndex(index).compile(dialect=DIALECTS["sqlite"])))
        for statement in statements_for(
            "sqlite", but="firelock_sql.verbs.find."
        ):  # those are tied to partial indexes
            compiled = statement.compiled(DIALECTS["sqlite"])
            explained = connection.execute(f"EXPLAIN {compiled.text}", [None] * len(compiled.names))

            assert explained.fetchall()


def test_postgresql_takes_every_statement(postgresql):
    """Each one is explained by the server, as its own kind of parameters."""
    with closing(Firelock(postgresql.url())) as fire:
        fire.storage.migrate()
    dialect = postgresql_dialect("psycopg", Names())

    with psycopg.connect(postgresql.socket_url(), autocommit=True) as connection:
        for statement in statements_for("postgresql"):
            compiled = statement.compiled(dialect)
            values = dict.fromkeys(compiled.names) if "%(" in compiled.text else [None] * len(compiled.names)

            assert connection.execute(f"EXPLAIN {compiled.text}", values).fetchall()


def test_mariadb_takes_every_statement(mariadb):
    """Each one is explained by the server, with some value for every parameter."""
    with closing(Firelock(mariadb.url())) as fire:
        fire.storage.migrate()
    dialect = mysql_dialect("mariadb", Names())
    explained = []

    with mariadb.server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"USE {mariadb.name}")
        for statement in statements_for("mariadb"):
            compiled = statement.compiled(dialect)
            cursor.execute(
                f"EXPLAIN {compiled.text}", [(1,) if name in LISTS else 1 for name in compiled.names]
            )
            explained.append(cursor.fetchall())

    assert len(explained) == len(statements_for("mariadb"))
