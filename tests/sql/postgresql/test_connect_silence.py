"""A database that accepts connections but does not reply: callers get an error in time."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from firelock import Firelock, StorageUnavailable
from firelock.storage import ClaimRequest
from firelock_sql.postgresql import storage as opening
from tests.faults.proxy import FaultProxy


@pytest.fixture
def line(postgresql):
    """A proxy in front of the server."""
    with FaultProxy(postgresql.server.address) as proxy:
        yield proxy


@pytest.fixture
def far(postgresql, line, monkeypatch):
    """An app whose storage is behind the proxy and waits half a second for a reply."""
    monkeypatch.setattr(opening, "SILENT_SECONDS", 0.5)
    with closing(Firelock(postgresql.url("listen=off", port=line.port))) as fire:
        fire.storage.clear()
        yield fire


@pytest.mark.parametrize(
    "call",
    [lambda fire: fire.jobs.counts(), lambda fire: fire.storage.claim(ClaimRequest(None, 1, "session", 1))],
    ids=["a transaction", "one statement"],
)
def test_silent_connection_is_replaced(far, line, call):
    """A call fails if no reply arrives within a limited time. The next call uses another connection."""
    line.black_hole()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call(far)
        except StorageUnavailable as error:
            errors.append(error)

    caller = threading.Thread(target=run, daemon=True)
    caller.start()
    caller.join(20)
    is_over = not caller.is_alive()
    line.reset()
    line.heal()
    caller.join(20)

    assert is_over
    assert "no reply within 0.5 s" in str(errors[0])
    assert {} == dict(far.storage.counts().by_state)
