"""The lock kit, for use without a test file.

Run it with `pytest --pyargs firelock.testing.test_locks --storage URL`.
"""

from __future__ import annotations

import pytest

from firelock.testing import LockConformance
from firelock.testing.conformance.reporting import urls


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test on every lock store given by `--storage`."""
    if "lock_url" in metafunc.fixturenames:
        metafunc.parametrize("lock_url", urls(metafunc.config))


class TestLocks(LockConformance):
    """The lock kit's tests of the lock providers or storages given by `--storage`."""
