"""Notifications after an outage: a connection that died while it was idle is not a failure."""

from __future__ import annotations

import logging
from contextlib import closing

import pytest
from sqlalchemy import create_engine

from firelock_sql.connections.pool import EnginePool
from firelock_sql.postgresql.connect import ConnectionPath, dialect_of
from firelock_sql.postgresql.listener import Channel, Sender
from firelock_sql.postgresql.storage import open_url
from firelock_sql.schema.names import Names
from tests.sql.servers.postgresql import end_connections


@pytest.fixture
def channel(postgresql):
    """The channel of the tables, with its own pool."""
    with closing(open_url(postgresql.url())) as storage:
        storage.migrate()
    engine = create_engine(postgresql.engine_url(), isolation_level="AUTOCOMMIT")
    connections = EnginePool("here", lambda: engine, is_own=True)
    names = Names()
    yield Channel(connections, names, dialect_of("psycopg", names), ConnectionPath("here"), is_forced=False)
    connections.close()


@pytest.fixture
def admin(admin):
    """The superuser's connection, which listens on the channel and can end other connections."""
    admin.execute('LISTEN "public.firelock_wake"')
    return admin


@pytest.fixture
def three_checkouts(channel):
    """Let the pool have several idle connections; return the ids of their drivers' objects."""
    check_out = channel._connections.check_out  # noqa: SLF001 - the only way to use several
    with check_out() as first, check_out() as second, check_out() as third:
        return {id(one.driver) for one in (first, second, third)}


def next_message(admin):
    """Return the next message that the superuser's connection receives."""
    return [notification.payload for notification in admin.notifies(timeout=30, stop_after=1)]


def test_notification_is_sent_although_idle_connections_are_dead(channel, admin, three_checkouts, caplog):
    """The message is sent on a new connection. No warning is logged, because the message is not lost."""
    end_connections(admin)
    sender = Sender(channel.post)

    with caplog.at_level(logging.WARNING):
        sender.add(["mail"])
        messages = next_message(admin)
        sender.close()

    assert 3 == len(three_checkouts)
    assert ["mail"] == messages
    assert [] == caplog.records
