"""The server kit without a file of its own: `pytest --pyargs firelock.testing.test_server --storage URL`."""

from __future__ import annotations

import pytest

from firelock.testing import ServerConformance
from firelock.testing.conformance.reporting import urls


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test is run on every store that was named."""
    if "storage_url" in metafunc.fixturenames:
        metafunc.parametrize("storage_url", urls(metafunc.config))


class TestServer(ServerConformance):
    """Servers over the stores given by `--storage`."""
