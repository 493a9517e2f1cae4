"""Connections of one SQLAlchemy engine, lent for one transaction each.

The engine is our own, made from a URL, or the caller's. Transactions are begun and ended by statements, so a
connection is in the driver's autocommit mode while it is lent.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
from sqlalchemy import Engine, PoolProxiedConnection
from sqlalchemy.exc import TimeoutError as NoConnectionLeft
from sqlalchemy.pool import Pool, QueuePool

from firelock.storage import StorageError, StorageUnavailable, has_own_connection, is_server_work

_MET = "firelock: met"  # in what the pool keeps beside a connection
_RESERVED = 2  # connections for the server's own work, if the pool has more

_living: weakref.WeakSet[EnginePool] = weakref.WeakSet()


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
    is_new: bool = False  # just made, not out of the pool
    is_last: bool = False  # no other one is tried where this one is dead


class EnginePool:
    """The pool, as transactions see it."""

    def __init__(self, name: str, make_engine: Callable[[], Engine], *, is_own: bool) -> None:
        self.meet: Callable[[Any], None] | None = None  # called with each new connection of the driver
        self._name = name
        self._make_engine = make_engine
        self.is_own = is_own
        self._engine: Engine | None = None
        self._is_closed = False
        self._reserving = threading.Lock()
        self._others: threading.Semaphore | None = None  # limits other work; None in a process without server
        self._apart: Pool | None = None  # for the work that never waits for a connection
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
            raise StorageError(f"The storage {self._name} is closed. Open another one.")

    def leave_behind(self) -> None:
        """This is another process than the one that connected, whose connections stay its own."""
        self._reserving, self._others, self._apart = threading.Lock(), None, None
        if self._engine is not None:
            self._engine.dispose(close=False)

    @contextmanager
    def lend(self) -> Iterator[Lent]:
        """Yield a connection in autocommit mode.

        As soon as a server has used the pool, two connections of ours are lent for its own work alone. Work
        that has its own connection is not counted among those of the pool.

        Raises:
            StorageUnavailable: every connection is in use, and stays so.
        """
        others = self._room_for_others()
        try:
            pooled, mode = self._taken()
            lent = Lent(pooled.driver_connection)
            try:
                self._introduce(pooled, lent)
                yield lent
            finally:
                if mode is not None and not lent.is_lost:
                    lent.is_lost = not mode.is_restored()
                if lent.is_lost:
                    pooled.invalidate()
                pooled.close()
        finally:
            if others is not None:
                others.release()

    def _room_for_others(self) -> threading.Semaphore | None:
        """Return what to release after work that is not a server's; None if nothing limits this work.

        Raises:
            StorageUnavailable: all connections for such work are in use, and stay so.
        """
        others = self._others
        if is_server_work():
            if others is None:
                self._reserve()
            return None
        pool: Any = self.engine.pool if others is not None else None
        if others is None or others.acquire(timeout=pool.timeout()):
            return others
        raise _in_use(
            f"{self._name}: every connection of the pool that is not reserved for the server is in use; "
            "raise ?pool_size=."
        )

    def _reserve(self) -> None:
        """Keep connections free for the server from now on; a caller's pool is the caller's to divide."""
        pool = self.engine.pool
        if self.is_own and isinstance(pool, QueuePool):
            with self._reserving:
                if self._others is None:
                    self._others = threading.Semaphore(pool.size() - min(_RESERVED, pool.size() - 1))

    def _taken(self) -> tuple[PoolProxiedConnection, _Mode | None]:
        """Return a connection in autocommit mode, and the mode it was in where it is the caller's.

        To change the mode may tell that a connection has died in the pool: then another one is taken.
        """
        while True:
            pooled = self._pooled()
            if self.is_own:
                return pooled, None
            try:
                return pooled, _Mode.changed(pooled.driver_connection)
            except BaseException as error:
                is_new = _MET not in pooled.info
                pooled.invalidate()
                pooled.close()
                if is_new or not isinstance(error, Exception):
                    raise

    def _pooled(self) -> PoolProxiedConnection:
        try:
            return self._pool_apart().connect() if has_own_connection() else self.engine.raw_connection()
        except NoConnectionLeft as error:
            raise _in_use(
                f"{self._name}: every connection of the pool is in use; raise ?pool_size= or the engine's."
            ) from error

    def _introduce(self, pooled: PoolProxiedConnection, lent: Lent) -> None:
        """The connection has been met; one that did not do is not used again."""
        if self.meet is None or _MET in pooled.info:
            return
        try:
            self.meet(lent.driver)
        except BaseException:
            lent.is_lost = True
            raise
        pooled.info[_MET] = lent.is_new = True

    def _pool_apart(self) -> Pool:
        """Return a pool like the engine's, which has a connection for each thread that uses it."""
        self.check_open()
        with self._reserving:
            if self._apart is None:
                self._apart = self.engine.pool.recreate()
            return self._apart

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
        if self._apart is not None:
            self._apart.dispose()
        if self._engine is not None and self.is_own:
            self._engine.dispose()


def _in_use(message: str) -> StorageUnavailable:
    error = StorageUnavailable(message)
    error.is_untouched = True
    return error


@attrs.frozen
class _Mode:
    """The mode that a caller's connection was in."""

    driver: Any
    is_autocommit: bool

    @staticmethod
    def changed(driver: Any) -> _Mode:  # noqa: ANN401 - any driver's connection
        """Return the mode of a connection whose driver from now on begins no transaction by itself."""
        is_method = callable(driver.autocommit)  # PyMySQL and mysqlclient: one sets it, another gets it
        mode = _Mode(driver, driver.get_autocommit() if is_method else driver.autocommit)
        mode.set(is_autocommit=True)
        return mode

    def set(self, *, is_autocommit: bool) -> None:
        """The connection is in this mode."""
        if callable(self.driver.autocommit):
            self.driver.autocommit(is_autocommit)
        else:
            self.driver.autocommit = is_autocommit

    def is_restored(self) -> bool:
        """Tell whether the connection is in its own mode again; else it is of no use any more."""
        try:
            self.set(is_autocommit=self.is_autocommit)
        except Exception:  # noqa: BLE001 - whatever it is, the connection is given up
            return False
        return True
