"""A caller's transactions, opened as callers open them: for the kit's `open_transaction`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager

import psycopg
from sqlalchemy import Connection, create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from tests.sql.databases import MysqlDatabase, PostgresqlDatabase

__all__ = ["OpenTransaction", "by_connection", "by_driver", "by_session"]

OpenTransaction = Callable[[bool], AbstractContextManager[object]]


def by_connection(database: PostgresqlDatabase | MysqlDatabase) -> OpenTransaction:
    """Return what opens a transaction of SQLAlchemy's Connection, told whether to commit it."""

    @contextmanager
    def transaction(commits: bool) -> Iterator[Connection]:
        engine = create_engine(database.engine_url(), poolclass=NullPool)
        with engine.connect() as connection, connection.begin() as begun:
            yield connection
            if not commits:
                begun.rollback()

    return transaction


def by_session(database: PostgresqlDatabase | MysqlDatabase) -> OpenTransaction:
    """Return what opens a transaction of the ORM's Session."""

    @contextmanager
    def transaction(commits: bool) -> Iterator[Session]:
        engine = create_engine(database.engine_url(), poolclass=NullPool)
        with Session(engine) as session:
            yield session
            if commits:
                session.commit()

    return transaction


def by_driver(database: PostgresqlDatabase) -> OpenTransaction:
    """Return what opens a transaction of psycopg's own connection."""

    @contextmanager
    def transaction(commits: bool) -> Iterator[psycopg.Connection]:
        with closing(psycopg.connect(database.url())) as connection:
            yield connection
            if commits:
                connection.commit()

    return transaction
