"""Settings for all tests: repeatable examples, no settings of the caller, and distribution among workers."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Generator

import pytest
from hypothesis import settings

from tests.heavy import is_heavy
from tests.processes import running

_MOST_WORKERS = 8  # each of them collects all tests before it runs its own

settings.register_profile("firelock", derandomize=True, deadline=None, database=None, print_blob=True)
settings.load_profile("firelock")

# FIRELOCK_TEST_… names servers to test against. Any other variable would change the behaviour of the tested
# code.
for name in [name for name in os.environ if name.startswith("FIRELOCK_")]:
    if not name.startswith("FIRELOCK_TEST_"):
        del os.environ[name]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Disable garbage collection while thousands of tests are collected, because all of them are kept."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `make test` omits, before -m reads the marks."""
    for item in items:
        if is_heavy(item):
            item.add_marker("heavy")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Make the current test known to helpers that start programs."""
    running(None if item.get_closest_marker("heavy") else item.nodeid)
    try:
        return (yield)
    finally:
        running(None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Run two tests per core at the same time, because most tests wait for something."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return min(2 * (os.cpu_count() or 1), _MOST_WORKERS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Run tests that share a server or a browser in the same worker, unless --dist requests another way."""
    if config.getoption("dist") != "load":
        return None
    from tests.sharing import Sharing

    return Sharing(config, log)


@pytest.fixture(autouse=True)
def our_threads() -> Callable[..., list[str]]:
    """A function that returns the names of running threads that this test has started.

    Threads of earlier tests may still run.
    """
    before = set(threading.enumerate())

    def started(name: str = "firelock") -> list[str]:
        running = (one for one in threading.enumerate() if one not in before)
        return sorted(one.name for one in running if one.name.startswith(name))

    return started
