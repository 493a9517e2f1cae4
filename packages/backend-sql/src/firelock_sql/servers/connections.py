"""Connections of one SQLAlchemy engine, lent for one transaction each.

The engine is our own, made from a URL, or the caller's. Transactions are begun and ended by statements, so a
connection is in the driver's autocommit mode while it is lent.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
from sqlalchemy import Engine, PoolProxiedConnection
from sqlalchemy.exc import TimeoutError as NoConnectionLeft

from firelock.storage import StorageError, StorageUnavailable

__all__ = ["Connections", "Lent"]

_MET = "firelock: met"  # in what the pool keeps beside a connection

_living: weakref.WeakSet[Connections] = weakref.WeakSet()


def _leave_behind() -> None:
    for connections in list(_living):
        connections.leave_behind()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows cannot fork
    os.register_at_fork(after_in_child=_leave_behind)


@attrs.define
class Lent:
    """A driver's connection, lent for one transaction."""

    driver: Any
    is_lost: bool = False  # it is not used again


class Connections:
    """The pool, as transactions see it."""

    def __init__(self, name: str, make_engine: Callable[[], Engine], *, is_own: bool) -> None:
        self.meet: Callable[[Any], None] | None = None  # called with each new connection of the driver
        self._name = name
        self._make_engine = make_engine
        self.is_own = is_own
        self._engine: Engine | None = None
        self._is_closed = False
        _living.add(self)

    @property
    def engine(self) -> Engine:
        """Return the engine; none of its connections is open before the first is lent.

        Raises:
            StorageError: the storage was closed.
        """
        self.check_open()
        if self._engine is None:
            self._engine = self._make_engine()
        return self._engine

    def check_open(self) -> None:
        """The storage is open."""
        if self._is_closed:
            message = f"The storage {self._name} is closed. Open another one."
            raise StorageError(message)

    def leave_behind(self) -> None:
        """This is another process than the one that connected, whose connections stay its own."""
        if self._engine is not None:
            self._engine.dispose(close=False)

    @contextmanager
    def lend(self) -> Iterator[Lent]:
        """Yield a connection in autocommit mode.

        Raises:
            StorageUnavailable: every connection is in use, and stays so.
        """
        try:
            pooled = self.engine.raw_connection()
        except NoConnectionLeft as error:
            message = (
                f"{self._name}: every connection of the pool is in use; raise ?pool_size= or the engine's."
            )
            raise StorageUnavailable(message) from error
        lent = Lent(pooled.driver_connection)
        try:
            if self.is_own:
                self._introduce(pooled, lent)
                yield lent
            else:
                with _in_autocommit(lent.driver):
                    self._introduce(pooled, lent)
                    yield lent
        finally:
            if lent.is_lost:
                pooled.invalidate()
            pooled.close()

    def _introduce(self, pooled: PoolProxiedConnection, lent: Lent) -> None:
        """The connection has been met; one that did not do is not used again."""
        if self.meet is None or _MET in pooled.info:
            return
        try:
            self.meet(lent.driver)
        except BaseException:
            lent.is_lost = True
            raise
        pooled.info[_MET] = True

    def connect_apart(self) -> Any:  # noqa: ANN401 - any driver's connection
        """Return a new connection of the driver, in autocommit mode, that no pool knows; close it."""
        pooled = self.engine.pool.recreate().connect()
        driver: Any = pooled.driver_connection
        pooled.detach()
        try:
            driver.autocommit = True
            if self.meet is not None:
                self.meet(driver)
        except BaseException:
            driver.close()
            raise
        return driver

    def close(self) -> None:
        """Our own connections are closed; the caller's are the caller's."""
        self._is_closed = True
        if self._engine is not None and self.is_own:
            self._engine.dispose()


@contextmanager
def _in_autocommit(driver: Any) -> Iterator[None]:  # noqa: ANN401 - any driver's connection
    """The driver begins no transaction by itself."""
    flag = driver.autocommit
    if callable(flag):  # PyMySQL and mysqlclient: a method sets it, another gets it
        before = driver.get_autocommit()
        driver.autocommit(True)
    else:
        before = flag
        driver.autocommit = True
    try:
        yield
    finally:
        if not getattr(driver, "closed", False):
            if callable(flag):
                driver.autocommit(before)
            else:
                driver.autocommit = before
