"""Connections to a cluster that are closed during a call."""

from __future__ import annotations

import pytest

from firelock.storage import StorageError
from firelock_redis.connections.connections import ClusterConnections
from firelock_redis.connections.url import parse_url


class ClosedClient:
    """The driver's client, whose connection disappears just before a reply is read."""

    def __init__(self, before):
        self._before = before

    def execute_command(self, *words):
        self._before()
        raise AttributeError("'NoneType' object has no attribute 'read_response'")

    def close(self):
        """Do nothing."""


def connections(*, is_closed):
    """Return connections whose next call finds no connection, because of a close or for another reason."""
    made = ClusterConnections(parse_url("redis+cluster://127.0.0.1:1"))
    # instead of the driver's client
    made._client = ClosedClient(made.close if is_closed else lambda: None)  # noqa: SLF001
    return made


def test_closed_connection_raises_the_error_of_a_closed_storage():
    """A waiting thread expects a StorageError, not an error about the internal state of the driver."""
    with pytest.raises(StorageError, match="is closed; open a new handle"):
        connections(is_closed=True).call("GET", "key")


def test_internal_driver_error_is_raised_unchanged():
    """A bug must not look like a closed storage."""
    with pytest.raises(AttributeError, match="read_response"):
        connections(is_closed=False).call("GET", "key")
