"""An app on each of two storages, a dashboard for the app, and a visitor on this machine."""

from __future__ import annotations

from contextlib import closing

import pytest

from firelock import Firelock
from firelock_dashboard import Dashboard
from tests.dashboard.browser import Browser
from tests.dashboard.hostile_texts import HOSTILE


@pytest.fixture(params=["memory", pytest.param("sqlite", marks=pytest.mark.heavy("all pages once more"))])
def fire(request, tmp_path):
    """An app without tasks; each test adds its own."""
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'jobs.db'}"
    with closing(Firelock(url)) as fire:
        yield fire


@pytest.fixture
def dashboard(fire):
    """A dashboard without `auth=`, on which local visitors may do everything."""
    with closing(Dashboard(fire)) as dashboard:
        yield dashboard


@pytest.fixture
def client(dashboard):
    """A visitor on this machine.

    For example `client.get("/jobs")` or `client.post("/queues/pause", {"queue": "mail"})`.
    """
    with closing(Browser(dashboard)) as browser:
        yield browser


@pytest.fixture(params=HOSTILE, ids=ascii)
def hostile(request):
    """A string that a page must show literally, wherever a job, a server or a request can contain it."""
    return request.param


class Ticking:
    """A monotonic clock that the test sets."""

    at = 1_000.0

    def __call__(self):
        return self.at


@pytest.fixture
def tick():
    return Ticking()
