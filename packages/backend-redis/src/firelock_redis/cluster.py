"""Connections to a Redis Cluster: the driver knows which node has a slot, and hears when it moves."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from redis import exceptions as driver
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import AbstractConnection
from redis.retry import Retry

from firelock.storage import StorageError
from firelock_redis.connections import Reply, options_of
from firelock_redis.failures import translated
from firelock_redis.url import RedisUrl

__all__ = ["ClusterConnections"]

_T = TypeVar("_T")
_MOVING_PAUSE = 0.02  # seconds between two tries while a slot moves

_FAILURES = (driver.RedisError, driver.RedisClusterException, OSError)  # the second is none of the first


class ClusterConnections:
    """The connections to the nodes of a cluster; a command goes where its key lies."""

    def __init__(self, url: RedisUrl) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._client: RedisCluster | None = None
        self._process = os.getpid()
        self._is_closed = False

    def call(self, *words: object) -> Reply:
        """Return the reply to one command with a key; see `Connections.call`."""
        try:
            return self._while_slots_move(lambda: self.client().execute_command(*words))
        except driver.NoScriptError:
            raise
        except (*_FAILURES, UnicodeError) as error:
            if not isinstance(error, driver.ResponseError) or isinstance(error, driver.ClusterDownError):
                self._forget()
            raise translated(error, self._url) from error

    def call_at(self, key: str, commands: Sequence[Sequence[object]]) -> list[Reply]:
        """Return the replies to commands sent over one connection to the node that has the key."""
        try:
            return self._while_slots_move(lambda: self._call_at(key, commands))
        except driver.NoScriptError:
            raise
        except (*_FAILURES, UnicodeError) as error:
            self._forget()
            raise translated(error, self._url) from error

    def _call_at(self, key: str, commands: Sequence[Sequence[object]]) -> list[Reply]:
        client = self.client()
        node = client.get_node_from_key(key)
        if node is None:
            raise driver.ClusterDownError("CLUSTERDOWN no node has the slot")
        pool = client.get_redis_connection(node).connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            return [connection.read_response() for _ in commands]
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def _while_slots_move(self, ask: Callable[[], _T]) -> _T:
        """Return the answer as soon as the slot is at one node; nothing has been done until then.

        Raises:
            TryAgainError: of the driver; it was still moving when the time limit of a call had passed.
        """
        deadline = time.monotonic() + self._url.timeout_seconds
        while True:
            try:
                return ask()
            except (driver.AskError, driver.TryAgainError, driver.ClusterError) as error:
                if isinstance(error, driver.ClusterDownError):
                    raise
                if isinstance(error, driver.MovedError):
                    self._forget()
                if time.monotonic() > deadline:
                    raise driver.TryAgainError("TRYAGAIN a slot moves") from error
            time.sleep(_MOVING_PAUSE)

    def client(self) -> RedisCluster:
        """Return the driver's client of this process."""
        if self._is_closed:
            message = f"Storage {self._url} is closed; open a new handle."
            raise StorageError(message)
        client = self._client
        if client is not None and self._process == os.getpid():
            return client
        with self._lock:
            if self._client is None or self._process != os.getpid():
                self._client, self._process = self._open(), os.getpid()
            return self._client

    def _open(self) -> RedisCluster:
        nodes = [ClusterNode(host, port) for host, port in self._url.hosts]
        tls: dict[str, Any] = {} if self._url.tls is None else {"ssl": True}
        # A lost reply is the caller's to judge: the driver would send a claim again that was done.
        try:
            return RedisCluster(
                startup_nodes=nodes, retry=Retry(NoBackoff(), 0), **options_of(self._url), **tls
            )
        except BaseException:
            for node in nodes:
                if node.redis_connection is not None:
                    node.redis_connection.close()
            raise

    def _forget(self) -> None:
        """Nodes may have gone or changed their part: the next call asks anew who has which slot."""
        with self._lock:
            self._client = None  # not closed: other threads may be waiting for their replies

    def ask_primaries(self, *words: object) -> Mapping[str, Reply]:
        """Return the reply of each primary to a command without a key, by its address."""
        try:
            client = self.client()
            nodes = sorted(client.get_primaries(), key=lambda node: str(node.name))
            return {str(node.name): client.execute_command(*words, target_nodes=node) for node in nodes}
        except _FAILURES as error:
            if not isinstance(error, driver.ResponseError):
                self._forget()
            raise translated(error, self._url) from error

    def listener(self) -> AbstractConnection:
        """Return a connection of its own to some node; what is published reaches every node."""
        try:
            node = self.client().get_random_node()
            connection = self.client().get_redis_connection(node).connection_pool.make_connection()
        except _FAILURES as error:
            self._forget()
            raise translated(error, self._url) from error

        return cast("AbstractConnection", connection)

    def close(self) -> None:
        """Every connection is closed."""
        self._is_closed = True
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()
