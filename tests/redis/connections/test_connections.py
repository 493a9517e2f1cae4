"""A cluster's connections that are closed while a call is under way."""

from __future__ import annotations

import pytest

from firelock.storage import StorageError
from firelock_redis.connections.connections import ClusterConnections
from firelock_redis.connections.url import parse_url


class ClosedClient:
    """The driver's client, of which `close` has taken the connection away when it is about to be read."""

    def __init__(self, before):
        self._before = before

    def execute_command(self, *words):
        self._before()
        raise AttributeError("'NoneType' object has no attribute 'read_response'")

    def close(self):
        """Nothing is open."""


def connections(*, is_closed):
    """Connections whose next call meets a connection that is gone, because they were closed or not."""
    made = ClusterConnections(parse_url("redis+cluster://127.0.0.1:1"))
    made._client = ClosedClient(made.close if is_closed else lambda: None)  # noqa: SLF001 - the driver's place
    return made


def test_a_call_that_meets_a_closed_connection_says_that_the_storage_is_closed():
    """Not what the driver says of its own state: a thread that waits expects a StorageError."""
    with pytest.raises(StorageError, match="is closed; open a new handle"):
        connections(is_closed=True).call("GET", "key")


def test_an_error_of_the_drivers_own_state_is_told_as_it_is():
    """A mistake must not look like a storage that was closed."""
    with pytest.raises(AttributeError, match="read_response"):
        connections(is_closed=False).call("GET", "key")
