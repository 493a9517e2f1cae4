"""A caller's transactions, opened as callers open them, for the kit's `open_transaction`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

OpenTransaction = Callable[[bool], AbstractContextManager[object]]


def by_connection(url: str) -> OpenTransaction:
    """Return a function that opens a transaction of SQLAlchemy's Connection.

    Its argument determines whether the transaction is committed or rolled back.
    """

    @contextmanager
    def transaction(commits: bool) -> Iterator[Connection]:
        with create_engine(url, poolclass=NullPool).connect() as connection:
            yield connection
            connection.commit() if commits else connection.rollback()

    return transaction


def by_session(url: str) -> OpenTransaction:
    """Return a function that opens a transaction of the ORM's Session."""

    @contextmanager
    def transaction(commits: bool) -> Iterator[Session]:
        with Session(create_engine(url, poolclass=NullPool)) as session:
            yield session
            session.commit() if commits else session.rollback()

    return transaction


def by_driver(url: str) -> OpenTransaction:
    """Return a function that opens a transaction of the driver's own connection."""

    @contextmanager
    def transaction(commits: bool) -> Iterator[object]:
        with closing(create_engine(url, poolclass=NullPool).raw_connection()) as pooled:
            yield pooled.driver_connection
            pooled.commit() if commits else pooled.rollback()

    return transaction


WAYS = [by_connection, by_session, by_driver]


@contextmanager
def lock_jobs(url: str) -> Iterator[Callable[[str], AbstractContextManager[object]]]:
    """Yield a function for the kit's `lock_job`, which locks the row of a job in a separate transaction."""
    engine = create_engine(url, poolclass=NullPool)

    @contextmanager
    def lock(job_id: str) -> Iterator[None]:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1 FROM firelock_jobs WHERE id = :id FOR UPDATE"), {"id": job_id})
            yield
            connection.rollback()

    try:
        yield lock
    finally:
        engine.dispose()
