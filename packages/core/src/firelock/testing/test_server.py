"""The server kit, for use without a test file.

Run it with `pytest --pyargs firelock.testing.test_server --storage URL`.
"""

from __future__ import annotations

import pytest

from firelock.testing import ServerConformance
from firelock.testing.conformance.reporting import urls


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test on every store given by `--storage`."""
    if "storage_url" in metafunc.fixturenames:
        metafunc.parametrize("storage_url", urls(metafunc.config))


class TestServer(ServerConformance):
    """The server kit's tests of servers that use the stores given by `--storage`."""
