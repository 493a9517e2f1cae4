"""A storage whose round trips are counted."""

from __future__ import annotations

from contextlib import closing

import pytest

from firelock.testing import Handles
from firelock.testing.conformance.flow_scene import FlowScene
from firelock.testing.conformance.scene import opener
from tests.faults.proxy import FaultProxy
from tests.sql.databases import PostgresqlDatabase


@pytest.fixture
def proxy(server_database):
    """A proxy in front of the server, which counts round trips."""
    with FaultProxy(server_database.server.address) as proxy:
        yield proxy


@pytest.fixture
def flow(server_database, proxy):
    """A storage behind the proxy, with helpers for batches and memos."""
    option = "listen=off" if isinstance(server_database, PostgresqlDatabase) else ""
    with closing(Handles(opener(server_database.url(option, port=proxy.port)))) as handles:
        yield FlowScene(handles)
