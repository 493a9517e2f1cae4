"""An app in memory and its tester; a file whose tests need another app has a fixture of that name."""

from __future__ import annotations

import pytest

from firelock import Firelock
from firelock.testing import Tester


@pytest.fixture
def fire():
    """An app in memory."""
    with Firelock("memory://") as app:
        yield app


@pytest.fixture
def tester(fire):
    """Its jobs run when told to, in time that stands still."""
    with Tester(fire) as it:
        yield it
