"""Orders to servers, and the workers of a replaced worker process."""

from __future__ import annotations

from contextlib import closing

import pytest

from firelock import ConfigurationError, Firelock
from firelock.control.servers import ORDERS, read_orders
from firelock.storage import NewSession, Renewal
from firelock.storage.memory import MemoryStorage


class Scene:
    """An app with a server of two worker processes with 10 threads each."""

    def __init__(self):
        self.storage = MemoryStorage()
        self.fire = Firelock(self.storage)
        for session in ("old", "new"):
            now = self.storage.clock()
            self.storage.begin_session(NewSession(session, "server", "a", "host", 7, now, 60.0, workers=10))

    def pending(self):
        """Return the orders that the server has not read."""
        record = self.storage.get_record(ORDERS, "server")
        return [] if record is None else read_orders(record.value)

    def view(self, **states):
        """Return the server after its worker processes have reported these states and 4 running jobs each."""
        self.storage.renew([Renewal(session, 4, state) for session, state in states.items()])
        (view,) = self.fire.servers.list()
        return view


@pytest.fixture
def scene():
    """A new scene."""
    scene = Scene()
    with closing(scene.fire):
        yield scene


@pytest.mark.parametrize("state", ["retired", "ending"])
def test_free_workers_of_a_replaced_worker_process_do_not_count(scene, state):
    """A replaced process claims no jobs, but each job that it still runs occupies a worker."""
    view = scene.view(old=state, new="running")

    assert (14, 8, "running") == (view.workers, view.busy, view.state_at(scene.storage.clock()))


def test_orders_of_one_heartbeat_do_not_replace_each_other(scene):
    """An order replaces only an earlier order that contradicts it.

    An order to end a worker process is stored only once.
    """
    servers = scene.fire.servers

    servers.end_process("old")
    servers.order("server", "quiet")
    servers.end_process("new")
    servers.end_process("old")
    servers.order("server", "resume")

    assert ["end new", "end old", "resume"] == scene.pending()


@pytest.mark.parametrize("order", ["quiet", "resume", "stop"])
def test_one_order_is_stored_as_a_string(scene, order):
    """A single order is stored in a form that a person can easily write."""
    scene.fire.servers.order("server", order)

    assert f'"{order}"' == scene.storage.get_record(ORDERS, "server").value


def test_concurrent_order_of_another_operator_is_kept(scene, monkeypatch):
    """The record is written again if it has changed since it was read."""
    put_record, others = scene.storage.put_record, ['"quiet"']

    def put(kind, key, value, **given):
        if others:
            put_record(kind, key, others.pop())
        return put_record(kind, key, value, **given)

    monkeypatch.setattr(scene.storage, "put_record", put)

    scene.fire.servers.end_process("old")

    assert ["quiet", "end old"] == scene.pending()


def test_worker_process_that_has_ended_is_not_ended_again(scene):
    """An order to a worker process that has ended would never be read."""
    scene.storage.end_session("old", (), reason="server stopped")

    for session in ("old", "never seen"):
        with pytest.raises(ConfigurationError, match=f"No living worker process has session '{session}'"):
            scene.fire.servers.end_process(session)

    assert [] == scene.pending()
