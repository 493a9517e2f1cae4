"""The storage kit without a file: `pytest --pyargs firelock.testing.test_storage --storage URL`."""

from __future__ import annotations

import pytest

from firelock.testing import StorageConformance
from firelock.testing.conformance.reporting import urls


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test is run on every store that was named."""
    if "storage_url" in metafunc.fixturenames:
        metafunc.parametrize("storage_url", urls(metafunc.config))


class TestStorage(StorageConformance):
    """The stores given by `--storage`."""
