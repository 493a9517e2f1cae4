"""The lock kit without a file of one's own: `pytest --pyargs firelock.testing.test_locks --storage URL`."""

from __future__ import annotations

import pytest

from firelock.testing import LockConformance
from firelock.testing.conformance.reporting import urls


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test is run on every keeper of locks that was named."""
    if "lock_url" in metafunc.fixturenames:
        metafunc.parametrize("lock_url", urls(metafunc.config))


class TestLocks(LockConformance):
    """The keepers of locks given by `--storage`: lock providers, or storages, which keep locks as well."""
