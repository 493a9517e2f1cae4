"""An app in memory and its tester. A file whose tests need another app defines fixtures of these names."""

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
    """A tester of the app. Its jobs run when the test runs them, and its clock does not advance."""
    with Tester(fire) as it:
        yield it
