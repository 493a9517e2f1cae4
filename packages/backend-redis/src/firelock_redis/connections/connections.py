"""Connections to Redis: to one server, to the primary that Sentinels report, or to the nodes of a cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar, cast

from redis import exceptions as driver
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from firelock.storage import StorageError, StorageUnavailable
from firelock_redis.connections.errors import (
    has_lost_its_role,
    note_partly_executed,
    note_unsent,
    translated,
)
from firelock_redis.connections.url import RedisUrl

Reply: TypeAlias = Any
"""The reply of a server: strings, integers, None, and lists of these.

The header of each script documents its replies.
"""

_T = TypeVar("_T")
_CHECKED_AFTER = 1.0  # seconds; the server might have closed connections that were unused for longer
_MOVING_PAUSE = 0.02  # seconds between two attempts of a call while its slot is being moved
# RedisClusterException does not derive from RedisError.
_FAILURES = (driver.RedisError, driver.RedisClusterException, OSError)


class RedisConnections:
    """The connections to one server, or to the primary that Sentinels report: one for each call in progress.

    A call takes a connection from the pool and returns it after reading the whole reply. If the call fails
    without a reply, the connection is closed, so that no other call can read a late reply.
    """

    def __init__(self, url: RedisUrl) -> None:
        self._url = url
        self._idle: list[tuple[AbstractConnection, float]] = []
        self._number = 0  # number of the generation; connections of earlier ones are not used again
        self._is_closed = False
        self._sentinel = _sentinel(url) if url.is_sentinel else None

    # ---- calls -------------------------------------------------------------------------------------------

    def call(self, *words: object) -> Reply:
        """Return the reply to one command.

        Raises:
            StorageUnavailable: If the server is unreachable, or cannot run the command now.
            StorageError: If the server rejects the command.
            NoScriptError: If the server does not have the script. This is the driver's error; the caller
                sends the whole script.
        """
        return self._with_connection(lambda connection: _reply(connection, words))

    def call_together(self, _key: str, commands: Sequence[Sequence[object]]) -> list[Reply]:
        """Return the replies to commands that are sent together.

        If a command fails, its error is raised after all replies have been read.
        """
        return self._with_connection(lambda connection: _replies(connection, commands))

    def call_primaries(self, *words: object) -> Mapping[str, Reply]:
        """Return each primary's reply to a command without a key, by the address of the primary."""
        return {str(self._url): self.call(*words)}

    def _with_connection(self, call: Callable[[AbstractConnection], _T]) -> _T:
        """Run `call` with a connection that no other call uses at the same time, and return its result."""
        number, connection = self._number, None
        try:
            connection = self._take()
            result = call(connection)
        except driver.NoScriptError:
            self._give_back(number, connection)
            raise
        except driver.ResponseError as error:
            if has_lost_its_role(error):
                self._drop_all(connection)
            else:
                self._give_back(number, connection)
            raise translated(error, self._url) from error
        except (driver.RedisError, OSError, UnicodeError) as error:
            self._drop_all(connection)
            raise translated(error, self._url) from error
        except BaseException:
            _drop(connection)
            raise
        self._give_back(number, connection)
        return result

    # ---- the pool ----------------------------------------------------------------------------------------

    def _take(self) -> AbstractConnection:
        if self._is_closed:
            raise _closed(self._url)
        try:
            connection, used_at = self._idle.pop()
        except IndexError:
            return self._connected()
        if time.monotonic() - used_at > _CHECKED_AFTER and _is_closed_by_server(connection):
            # The driver would open the connection again, perhaps to a server that is no longer the primary.
            self._drop_all(connection)
            return self._connected()
        return connection

    def _connected(self) -> AbstractConnection:
        """Return a new connection; if this fails, mark the error to show that nothing was sent."""
        connection: AbstractConnection | None = None
        try:
            connection = self.listener()
            connection.connect()
        except BaseException as error:
            note_unsent(error)
            _drop(connection)
            raise
        return connection

    def _give_back(self, number: int, connection: AbstractConnection | None) -> None:
        if connection is None:
            return
        if self._is_closed or number != self._number:
            _drop(connection)
        else:
            self._idle.append((connection, time.monotonic()))

    def _drop_all(self, connection: AbstractConnection | None) -> None:
        """Close this and all idle connections, because the server is unreachable or no longer the primary."""
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
        """Return a connection that the caller must close. It is not connected until it is first used."""
        url = self._url
        options = {**_options_of(url), "db": url.database, "command_packer": _packer}
        if url.path:
            kind = cast("Callable[..., AbstractConnection]", UnixDomainSocketConnection)
            return kind(path=url.path, **options)
        host, port = url.hosts[0] if self._sentinel is None else self._primary(self._sentinel)
        return (Connection if url.tls is None else SSLConnection)(host=host, port=port, **options)

    def _primary(self, sentinel: Sentinel) -> tuple[str, int]:
        """Return the address of the current primary, as the Sentinels report it."""
        url = self._url
        try:
            host, port = sentinel.discover_master(url.service)
        except MasterNotFoundError as error:
            raise StorageUnavailable(
                f"Redis at {url}: no reachable Sentinel reports a running primary for {url.service!r}. "
                "Check the name and the addresses of the Sentinels."
            ) from error
        return str(host), int(port)

    def leave_behind(self) -> None:
        """Forget the connections of the parent process after a fork; the new process opens its own."""
        self._idle = []

    def close(self) -> None:
        """Close every connection; the connection of a call in progress is closed when the call ends."""
        self._is_closed = True
        self._drop_idle()
        for client in () if self._sentinel is None else self._sentinel.sentinels:
            client.close()


class ClusterConnections:
    """The connections to the nodes of a cluster. Each command is sent to the node that has its key.

    The driver keeps track of the node of each slot, including when slots move.
    """

    def __init__(self, url: RedisUrl) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._client: RedisCluster | None = None
        self._is_closed = False

    # ---- calls -------------------------------------------------------------------------------------------

    def call(self, *words: object) -> Reply:
        """Return the reply to one command with a key; see `RedisConnections.call`."""
        with self._translating():
            return self._while_slots_move(lambda: self._opened().execute_command(*words))

    def call_together(self, key: str, commands: Sequence[Sequence[object]]) -> list[Reply]:
        """Return the replies to commands that are sent over one connection to the node of the key."""
        with self._translating():
            return self._while_slots_move(lambda: self._call_at(key, commands))

    def call_primaries(self, *words: object) -> Mapping[str, Reply]:
        """Return each primary's reply to a command without a key, by the address of the primary."""
        with self._translating():
            client = self._opened()
            nodes = sorted(client.get_primaries(), key=lambda node: str(node.name))
            return {str(node.name): client.execute_command(*words, target_nodes=node) for node in nodes}

    def listener(self) -> AbstractConnection:
        """Return a separate connection to a random node; any node will do, as messages reach every node."""
        with self._translating():
            client = self._opened()
            pool = client.get_redis_connection(client.get_random_node()).connection_pool
            return cast("AbstractConnection", pool.make_connection())

    def _call_at(self, key: str, commands: Sequence[Sequence[object]]) -> list[Reply]:
        client = self._opened()
        node = client.get_node_from_key(key)
        if node is None:
            raise driver.ClusterDownError("CLUSTERDOWN no node has the slot")
        pool = client.get_redis_connection(node).connection_pool
        connection = pool.get_connection()
        try:
            return _replies(connection, commands)
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    @contextmanager
    def _translating(self) -> Iterator[None]:
        """Translate the driver's errors into storage errors, except NoScriptError, which callers handle."""
        try:
            yield
        except driver.NoScriptError:
            raise
        except (*_FAILURES, UnicodeError) as error:
            if not isinstance(error, driver.ResponseError) or isinstance(error, driver.ClusterDownError):
                self._forget()
            # This error comes from the node to which the call was sent.
            if isinstance(error.__context__, ConnectionRefusedError):
                note_unsent(error)
            raise translated(error, self._url) from error
        except (
            AttributeError,
            TypeError,
            ValueError,
        ) as error:  # raised by the driver if a connection is closed while in use
            if not self._is_closed:
                raise
            raise _closed(self._url) from error

    def _while_slots_move(self, call: Callable[[], _T]) -> _T:
        """Repeat the call while its slot is being moved, and return its result.

        A call is repeated only if it has not executed anything.

        Raises:
            TryAgainError: If the slot is still moving after the timeout of a call. This is the driver's
                error.
        """
        deadline = time.monotonic() + self._url.timeout_seconds
        while True:
            try:
                return call()
            except (driver.AskError, driver.TryAgainError, driver.ClusterError) as error:
                if isinstance(error, driver.ClusterDownError):
                    raise
                if isinstance(error, driver.MovedError):
                    self._forget()
                if time.monotonic() > deadline:
                    raise driver.TryAgainError("TRYAGAIN a slot moves") from error
            time.sleep(_MOVING_PAUSE)

    # ---- the driver's client -----------------------------------------------------------------------------

    def _opened(self) -> RedisCluster:
        """Return the driver's client of this process."""
        if self._is_closed:
            raise _closed(self._url)
        with self._lock:
            if self._client is None:
                try:
                    self._client = self._open()
                except BaseException as error:
                    note_unsent(error)
                    raise
            return self._client

    def _open(self) -> RedisCluster:
        nodes = [ClusterNode(host, port) for host, port in self._url.hosts]
        tls: dict[str, Any] = {} if self._url.tls is None else {"ssl": True}
        # No retries: the driver would repeat a claim that was executed but whose reply was lost. The caller
        # decides whether to repeat a call.
        try:
            return RedisCluster(
                startup_nodes=nodes, retry=Retry(NoBackoff(), 0), **_options_of(self._url), **tls
            )
        except BaseException:
            for node in nodes:
                if node.redis_connection is not None:
                    node.redis_connection.close()
            raise

    def _forget(self) -> None:
        """Forget the client, so that the next call reads again which node has which slots.

        Nodes may have been removed, or their roles may have changed.
        """
        with self._lock:
            self._client = None  # the client is not closed, because other threads may be waiting for replies

    def leave_behind(self) -> None:
        """See `RedisConnections.leave_behind`."""
        self._client, self._lock = None, threading.Lock()

    def close(self) -> None:
        """Close every connection."""
        self._is_closed = True
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()


# ---- one connection --------------------------------------------------------------------------------------


def _options_of(url: RedisUrl) -> dict[str, Any]:
    """Return the driver's options for every connection."""
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


def _sentinel(url: RedisUrl) -> Sentinel:
    timeout = min(1.0, url.timeout_seconds)
    others = {
        "username": url.sentinel_username,
        "password": url.sentinel_password,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "ssl": url.tls is not None,
    }
    return Sentinel(url.hosts, sentinel_kwargs={**_options_of(url), **others})


try:
    from hiredis import pack_command
except ImportError:
    _packer = None  # the driver's own encoder in Python
else:

    class _Packer:
        """An encoder of commands that is faster than the driver's own.

        The driver's own encoder also checks each word, which takes 0.2 µs per word.
        """

        def pack(self, *words: object) -> list[bytes]:
            """Return the encoded command, which can consist of thousands of words if it stores many jobs."""
            return [pack_command(cast("Any", words))]

    _packer = _Packer()


def _reply(connection: AbstractConnection, words: Sequence[object]) -> Reply:
    connection.send_command(*words)
    return connection.read_response()


def _replies(connection: AbstractConnection, commands: Sequence[Sequence[object]]) -> list[Reply]:
    """Return the replies to commands that are sent together.

    If a command fails, its error is raised after all replies have been read.
    """
    connection.send_packed_command(connection.pack_commands(commands))
    replies, failed = [], None
    for _ in commands:
        try:
            replies.append(connection.read_response())
        except driver.ResponseError as error:
            failed = failed or error
    if failed is not None:
        if replies:
            note_partly_executed(failed)
        raise failed
    return replies


def _is_closed_by_server(connection: AbstractConnection) -> bool:
    """Return whether the idle connection has data to read, which means that the server has closed it."""
    try:
        return bool(connection.can_read(timeout=0))
    except (driver.RedisError, OSError):
        return True


def _drop(connection: AbstractConnection | None) -> None:
    if connection is not None:
        connection.disconnect()


def _closed(url: RedisUrl) -> StorageError:
    return StorageError(f"Storage {url} is closed; open a new handle.")
