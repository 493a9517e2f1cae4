"""The storage kit, for use without a test file.

Run it with `pytest --pyargs firelock.testing.test_storage --storage URL`.
"""

from __future__ import annotations

import pytest

from firelock.testing import StorageConformance
from firelock.testing.conformance.reporting import urls


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test on every store given by `--storage`."""
    if "storage_url" in metafunc.fixturenames:
        metafunc.parametrize("storage_url", urls(metafunc.config))


class TestStorage(StorageConformance):
    """The storage kit's tests of the stores given by `--storage`."""
