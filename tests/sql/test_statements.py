"""Across modules: the SQL of every statement of the package, in every dialect that it is written for."""

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
    """Yield every way of reading a page that a filter can cause, with every condition tested on the way."""
    everything = frozenset(_CONDITIONS)
    for index in ("listed", "due", "by_task", "holder", *_LISTS, *filter(None, _RARE_INDEXES.values())):
        for is_oldest_first in (True, False):
            led_by = frozenset(
                {index} if index in _LISTS else {"state"} if index in {"listed", "due"} else ()
            )
            time = "due_at" if index == "due" else "changed_at"
            yield _Walk(index, led_by, everything - led_by, time, is_oldest_first, True, True, True)


def several(value):
    """Return the statements in a value: the value itself, the items of a list, or a table's statements."""
    if isinstance(value, _Statements):
        return vars(value).values()
    return value if isinstance(value, list) else [value]


def every_statement():
    """Return every `Text` of the package by the place of its definition."""
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
    """Return every statement that this dialect may run: the shared ones and its own."""
    others = {but or "nothing"} | {
        f"firelock_sql.{folder}." for folder in FOLDERS.values() if folder != FOLDERS[dialect]
    }
    return [one for name, one in STATEMENTS.items() if not name.startswith(tuple(others))]


def text_of(statement, dialect):
    """Return the statement's SQL in one line."""
    return " ".join(statement.compiled(DIALECTS[dialect]).text.split())


def test_statements_are_found():
    """If no statements were found, every rule about them would be fulfilled."""
    assert len(STATEMENTS) > 100


@pytest.mark.parametrize("dialect", ["mysql", "mariadb", "postgresql"])
def test_every_statement_uses_the_schema_and_prefix(dialect):
    """Every statement contains the user's schema and prefix, and so do the names of indexes."""
    wrong = [
        text
        for one in statements_for(dialect)
        if PREFIX in (text := text_of(one, dialect)) or "mine_" not in text
    ]

    assert wrong == []


@pytest.mark.parametrize("dialect", ["mysql", "mariadb"])
def test_row_locks_use_the_syntax_of_mysql(dialect):
    """No statement contains a clause of another database, and no row lock is omitted."""
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
def test_jobs_are_locked_with_a_named_index(dialect):
    """With another index, a plan would lock jobs in a different order, and two calls would deadlock."""
    locking = [
        text
        for one in statements_for(dialect)
        if "mine_jobs" in (text := text_of(one, dialect)) and re.search("FOR UPDATE|SHARE MODE", text)
    ]

    assert len(locking) > 4
    assert [text for text in locking if "FORCE INDEX" not in text] == []


@pytest.mark.parametrize("dialect", ["mysql", "mariadb"])
def test_changes_do_not_read_the_changed_table(dialect):
    """MySQL refuses such a statement with error 1093, and MariaDB locks the rows that the statement reads."""
    changes = [
        (found[1], text)
        for one in statements_for(dialect)
        if (found := re.match(r"(?:UPDATE|DELETE(?: FROM)?) (\S+)", text := text_of(one, dialect)))
    ]

    assert len(changes) > 20
    assert [text for table, text in changes if text.count(f"FROM {table} ") > text.startswith("DELETE")] == []


@pytest.mark.parametrize("dialect", ["mysql", "mariadb"])
def test_list_is_the_last_parameter_of_a_change(dialect):
    """To merge the changes of several rows, the cursor must know the position of the list."""
    changes = [
        text
        for one in statements_for(dialect)
        if re.match("UPDATE|DELETE", text := text_of(one, dialect)) and " IN " in text
    ]

    assert len(changes) > 10
    assert [text for text in changes if " IN %s" not in text or "%s" in text.partition(" IN %s")[2]] == []


def test_sqlite_accepts_every_statement():
    """SQLite can explain each statement with any parameters."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for table in METADATA.sorted_tables:
            connection.execute(str(CreateTable(table).compile(dialect=DIALECTS["sqlite"])))
            for index in table.indexes:
                if is_of(index, "sqlite"):
                    connection.execute(str(CreateIndex(index).compile(dialect=DIALECTS["sqlite"])))
        for statement in statements_for(
            "sqlite", but="firelock_sql.verbs.find."
        ):  # those depend on partial indexes
            compiled = statement.compiled(DIALECTS["sqlite"])
            explained = connection.execute(f"EXPLAIN {compiled.text}", [None] * len(compiled.names))

            assert explained.fetchall()


def test_postgresql_accepts_every_statement(postgresql):
    """The server can explain each statement with parameters of the right kind."""
    with closing(Firelock(postgresql.url())) as fire:
        fire.storage.migrate()
    dialect = postgresql_dialect("psycopg", Names())

    with psycopg.connect(postgresql.socket_url(), autocommit=True) as connection:
        for statement in statements_for("postgresql"):
            compiled = statement.compiled(dialect)
            values = dict.fromkeys(compiled.names) if "%(" in compiled.text else [None] * len(compiled.names)

            assert connection.execute(f"EXPLAIN {compiled.text}", values).fetchall()


def test_mariadb_accepts_every_statement(mariadb):
    """The server can explain each statement with a value for every parameter."""
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
