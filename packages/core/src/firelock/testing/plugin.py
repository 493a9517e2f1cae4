"""The pytest plugin. It imports little, because every pytest run loads it if Firelock is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from datetime import datetime

    from firelock.app import Firelock
    from firelock.testing.tester import Tester

pytest_plugins = ["firelock.testing.conformance.reporting"]


class StartTester(Protocol):
    """The type of the fixture `firelock_tester`: a function with the same parameters as `Tester`."""

    def __call__(self, *apps: Firelock, start: datetime | None = None) -> Tester:
        """Return a tester of the apps, which is closed at the end of the test."""
        ...


@pytest.fixture
def firelock_tester() -> Iterator[StartTester]:
    """Yield a function that returns a `firelock.testing.Tester` of your app, which is closed after the test.

    ::

        @pytest.fixture
        def tester(firelock_tester):
            return firelock_tester(fire)
    """
    from firelock.testing.tester import Tester

    with ExitStack() as testers:

        def start_tester(*apps: Firelock, start: datetime | None = None) -> Tester:
            return testers.enter_context(Tester(*apps) if start is None else Tester(*apps, start=start))

        yield start_tester
