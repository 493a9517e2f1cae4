"""Connections to one Redis: as many as there are calls at once, none shared, none used after an error."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

from redis import exceptions as driver
from redis.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.sentinel import MasterNotFoundError, Sentinel

from firelock.storage import StorageError, StorageUnavailable
from firelock_redis.failures import is_leaving, translated
from firelock_redis.url import RedisUrl

__all__ = ["Connections", "Reply", "options_of"]

Reply: TypeAlias = Any
"""What a server answers: texts, whole numbers, None, and lists of these; a script's header says which."""

_LOOKED_AT_AFTER = 1.0  # seconds without use from which on a connection may have been closed by the server

try:
    from hiredis import pack_command
except ImportError:
    _pack: Callable[..., bytes] | None = None  # the driver's own, in Python
else:
    _pack = cast("Callable[..., bytes]", pack_command)


class _Packer:
    """Lays out a command as it is sent: the driver's way looks at each word once more, 0.2 µs apiece."""

    def __init__(self, pack: Callable[..., bytes]) -> None:
        self._pack = pack

    def pack(self, *words: object) -> list[bytes]:
        """Return the command; a batch of jobs has thousands of words."""
        return [self._pack(words)]


_packer = None if _pack is None else _Packer(_pack)

_living: weakref.WeakSet[Connections] = weakref.WeakSet()


def _leave_behind() -> None:
    for connections in list(_living):
        connections.leave_behind()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows cannot fork
    os.register_at_fork(after_in_child=_leave_behind)


def options_of(url: RedisUrl) -> dict[str, Any]:
    """Return what the driver is told of every connection."""
    return {
        "username": url.username,
        "password": url.password,
        "socket_timeout": url.timeout_seconds,
        "socket_connect_timeout": url.timeout_seconds,
        "decode_responses": True,
        "encoding_errors": "surrogatepass",
        "protocol": 2,
        "driver_info": None,
        **(url.tls or {}),
    }


class Connections:
    """The connections to one server, or to the primary that Sentinels name.

    A call takes one for itself and gives it back when its reply is read to the end; after anything else than
    a reply the connection is closed, so that nobody ever reads what was meant for another.
    """

    def __init__(self, url: RedisUrl) -> None:
        self._url = url
        self._idle: list[tuple[AbstractConnection, float]] = []
        self._number = 0  # of the generation: connections of a former one are not used again
        self._is_closed = False
        self._sentinel = _sentinel(url) if url.is_sentinel else None
        _living.add(self)

    # ---- calls -------------------------------------------------------------------------------------------

    def call(self, *words: object) -> Reply:
        """Return the reply to one command.

        Raises:
            StorageUnavailable: it cannot be reached, or not now.
            StorageError: it refuses.
            NoScriptError: of the driver, for the one who knows the script.
        """
        with self.taken() as connection:
            connection.send_command(*words)
            return connection.read_response()

    def call_many(self, commands: Sequence[Sequence[object]]) -> list[Reply]:
        """Return the replies to commands sent together; an error is raised when all replies are read."""
        with self.taken() as connection:
            connection.send_packed_command(connection.pack_commands(commands))
            replies, failed = [], None
            for _ in commands:
                try:
                    replies.append(connection.read_response())
                except driver.ResponseError as error:
                    failed = failed or error
            if failed is not None:
                raise failed
            return replies

    @contextmanager
    def taken(self) -> Iterator[AbstractConnection]:
        """Yield a connection that nobody else uses meanwhile."""
        number, connection = self._number, None
        try:
            connection = self._take()
            yield connection
        except driver.NoScriptError:
            self._give_back(number, connection)
            raise
        except driver.ResponseError as error:
            if is_leaving(error):
                self._leave(connection)
            else:
                self._give_back(number, connection)
            raise translated(error, self._url) from error
        except (driver.RedisError, OSError, UnicodeError) as error:
            self._leave(connection)
            raise translated(error, self._url) from error
        except BaseException:
            _drop(connection)
            raise
        else:
            self._give_back(number, connection)

    # ---- taking and giving back --------------------------------------------------------------------------

    def _take(self) -> AbstractConnection:
        if self._is_closed:
            message = f"Storage {self._url} is closed; open a new handle."
            raise StorageError(message)
        try:
            connection, used_at = self._idle.pop()
        except IndexError:
            return self._new()
        if time.monotonic() - used_at > _LOOKED_AT_AFTER and _is_spoilt(connection):
            self._leave(connection)  # it would connect again to what may not be the primary now
            return self._new()
        return connection

    def _give_back(self, number: int, connection: AbstractConnection | None) -> None:
        if connection is None:
            return
        if self._is_closed or number != self._number:
            _drop(connection)
        else:
            self._idle.append((connection, time.monotonic()))

    def _leave(self, connection: AbstractConnection | None) -> None:
        """The server is gone, or another one now: no connection to it is used again."""
        _drop(connection)
        self._number += 1
        self._drop_idle()

    def _drop_idle(self) -> None:
        while True:
            try:
                connection, _ = self._idle.pop()
            except IndexError:
                return
            _drop(connection)

    def listener(self) -> AbstractConnection:
        """Return a connection of its own for what is published; the caller closes it."""
        return self._new()

    def _new(self) -> AbstractConnection:
        """Return a new connection, which connects when it is first used."""
        url = self._url
        options = {**options_of(url), "db": url.database, "command_packer": _packer}
        if url.path:
            kind = cast("Callable[..., AbstractConnection]", UnixDomainSocketConnection)
            return kind(path=url.path, **options)
        host, port = url.hosts[0] if self._sentinel is None else self._primary(self._sentinel)
        return (Connection if url.tls is None else SSLConnection)(host=host, port=port, **options)

    def _primary(self, sentinel: Sentinel) -> tuple[str, int]:
        """Return where the primary is at present, as the Sentinels say."""
        url = self._url
        try:
            host, port = sentinel.discover_master(url.service)
        except MasterNotFoundError as error:
            message = (
                f"Redis at {url}: no Sentinel that answers knows a primary for {url.service!r} that is up. "
                "Look at the name and at the Sentinels' addresses."
            )
            raise StorageUnavailable(message) from error
        return str(host), int(port)

    # ---- the end, and forks ------------------------------------------------------------------------------

    def close(self) -> None:
        """Every connection is closed; a call under way ends first."""
        self._is_closed = True
        self._drop_idle()
        for client in () if self._sentinel is None else self._sentinel.sentinels:
            client.close()

    def leave_behind(self) -> None:
        """This is another process than the one that connected: it makes connections of its own."""
        self._idle = []
        self._number += 1
        self._sentinel = _sentinel(self._url) if self._url.is_sentinel else None


def _sentinel(url: RedisUrl) -> Sentinel:
    tls = {} if url.tls is None else {**url.tls, "ssl": True}
    return Sentinel(
        url.hosts,
        sentinel_kwargs={
            "username": url.sentinel_username,
            "password": url.sentinel_password,
            "socket_timeout": min(1.0, url.timeout_seconds),
            "socket_connect_timeout": min(1.0, url.timeout_seconds),
            "decode_responses": True,
            "protocol": 2,
            **tls,
        },
    )


def _is_spoilt(connection: AbstractConnection) -> bool:
    """Tell whether there is something to read where nothing was asked: the server has closed it."""
    try:
        return bool(connection.can_read(timeout=0))
    except (driver.RedisError, OSError):
        return True


def _drop(connection: AbstractConnection | None) -> None:
    if connection is not None:
        connection.disconnect()
