"""Connections of one SQLAlchemy engine, each of which is checked out for one transaction.

The engine is either our own, created from a URL, or the caller's. Transactions are started and ended by
statements, so a connection is in the driver's autocommit mode while it is checked out.
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

_SET_UP = "firelock: set up"  # key in the `info` of pooled connections that have been set up
_RESERVED = 2  # number of connections for the server's own work, if the pool has more than these

_living: weakref.WeakSet[EnginePool] = weakref.WeakSet()


def _leave_behind() -> None:
    for connections in list(_living):
        connections.leave_behind()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows cannot fork
    os.register_at_fork(after_in_child=_leave_behind)


@attrs.define
class Checkout:
    """A driver's connection, checked out for one transaction."""

    driver: Any
    is_lost: bool = False  # the connection must not be used again
    is_new: bool = False  # the connection was just opened, not taken from the pool
    is_last: bool = False  # this is the last try, so the connection is not replaced if it is dead


class EnginePool:
    """The pool of an engine, as used by transactions."""

    def __init__(self, name: str, make_engine: Callable[[], Engine], *, is_own: bool) -> None:
        self.set_up: Callable[[Any], None] | None = None  # called with each new driver connection
        self._name = name
        self._make_engine = make_engine
        self.is_own = is_own
        self._engine: Engine | None = None
        self._is_closed = False
        self._reserving = threading.Lock()
        # limits connections for other work; None in a process without a server
        self._others: threading.Semaphore | None = None
        self._extra: Pool | None = None  # pool for work that must never wait for a connection
        _living.add(self)

    @property
    def engine(self) -> Engine:
        """The engine, which does not open a connection before the first checkout.

        Raises:
            StorageError: If the storage is closed.
        """
        self.check_open()
        if self._engine is None:
            self._engine = self._make_engine()
        return self._engine

    def check_open(self) -> None:
        """Raise `StorageError` if the storage is closed."""
        if self._is_closed:
            raise StorageError(f"The storage {self._name} is closed. Open a new one.")

    def leave_behind(self) -> None:
        """Drop the connections after a fork, because they belong to the parent process."""
        self._reserving, self._others, self._extra = threading.Lock(), None, None
        if self._engine is not None:
            self._engine.dispose(close=False)

    @contextmanager
    def check_out(self) -> Iterator[Checkout]:
        """Yield a connection in autocommit mode.

        As soon as a server has used the pool, two of our own connections are reserved for the server's own
        work. Work that has its own connection does not count against the pool.

        Raises:
            StorageUnavailable: If all connections are in use until the pool's timeout.
        """
        others = self._room_for_others()
        try:
            pooled, mode = self._taken()
            checkout = Checkout(pooled.driver_connection)
            try:
                self._set_up_if_new(pooled, checkout)
                yield checkout
            finally:
                if mode is not None and not checkout.is_lost:
                    checkout.is_lost = not mode.is_restored()
                if checkout.is_lost:
                    pooled.invalidate()
                pooled.close()
        finally:
            if others is not None:
                others.release()

    def _room_for_others(self) -> threading.Semaphore | None:
        """Acquire and return the semaphore that limits work outside a server; None if nothing limits it.

        Raises:
            StorageUnavailable: If all connections for such work are in use until the pool's timeout.
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
            f"{self._name}: all pool connections that are not reserved for the server are in use. "
            "Increase ?pool_size=."
        )

    def _reserve(self) -> None:
        """Reserve connections for the server from now on, but only in our own pool."""
        pool = self.engine.pool
        if self.is_own and isinstance(pool, QueuePool):
            with self._reserving:
                if self._others is None:
                    self._others = threading.Semaphore(pool.size() - min(_RESERVED, pool.size() - 1))

    def _taken(self) -> tuple[PoolProxiedConnection, _Mode | None]:
        """Return a connection in autocommit mode and, for a caller's connection, its previous mode.

        Changing the mode can reveal that a pooled connection is dead. If it is, take another connection.
        """
        while True:
            pooled = self._pooled()
            if self.is_own:
                return pooled, None
            try:
                return pooled, _Mode.changed(pooled.driver_connection)
            except BaseException as error:
                is_new = _SET_UP not in pooled.info
                pooled.invalidate()
                pooled.close()
                if is_new or not isinstance(error, Exception):
                    raise

    def _pooled(self) -> PoolProxiedConnection:
        try:
            return self._extra_pool().connect() if has_own_connection() else self.engine.raw_connection()
        except NoConnectionLeft as error:
            raise _in_use(
                f"{self._name}: all connections of the pool are in use. Increase ?pool_size= or the engine's "
                "pool size."
            ) from error

    def _set_up_if_new(self, pooled: PoolProxiedConnection, checkout: Checkout) -> None:
        """Set up the connection if it is new. If this fails, mark the connection as lost."""
        if self.set_up is None or _SET_UP in pooled.info:
            return
        try:
            self.set_up(checkout.driver)
        except BaseException:
            checkout.is_lost = True
            raise
        pooled.info[_SET_UP] = checkout.is_new = True

    def _extra_pool(self) -> Pool:
        """Return a pool that is like the engine's, but has one connection for each thread that uses it."""
        self.check_open()
        with self._reserving:
            if self._extra is None:
                self._extra = self.engine.pool.recreate()
            return self._extra

    def connect_outside_pool(self) -> Any:  # noqa: ANN401 - any driver's connection
        """Return a new driver connection in autocommit mode, outside any pool; the caller must close it."""
        pooled = self.engine.pool.recreate().connect()
        driver: Any = pooled.driver_connection
        pooled.detach()
        try:
            driver.autocommit = True
            if self.set_up is not None:
                self.set_up(driver)
        except BaseException:
            driver.close()
            raise
        return driver

    def close(self) -> None:
        """Close our own connections, but not those of a caller's engine."""
        self._is_closed = True
        if self._extra is not None:
            self._extra.dispose()
        if self._engine is not None and self.is_own:
            self._engine.dispose()


def _in_use(message: str) -> StorageUnavailable:
    error = StorageUnavailable(message)
    error.is_untouched = True
    return error


@attrs.frozen
class _Mode:
    """The original mode of a caller's connection."""

    driver: Any
    is_autocommit: bool

    @staticmethod
    def changed(driver: Any) -> _Mode:  # noqa: ANN401 - any driver's connection
        """Switch a caller's connection to autocommit; return its original mode.

        In this mode, the driver does not start transactions by itself.
        """
        # in PyMySQL and mysqlclient, the method `autocommit` sets the mode, and another method reads it
        is_method = callable(driver.autocommit)
        mode = _Mode(driver, driver.get_autocommit() if is_method else driver.autocommit)
        mode.set(is_autocommit=True)
        return mode

    def set(self, *, is_autocommit: bool) -> None:
        """Switch the connection to this mode."""
        if callable(self.driver.autocommit):
            self.driver.autocommit(is_autocommit)
        else:
            self.driver.autocommit = is_autocommit

    def is_restored(self) -> bool:
        """Return whether the connection is back in its original mode; if not, it is unusable."""
        try:
            self.set(is_autocommit=self.is_autocommit)
        except Exception:  # noqa: BLE001 - the connection is discarded in any case
            return False
        return True
