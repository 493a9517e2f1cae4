"""A browser, storages with data, their dashboards, and watched pages.

All fixtures that live longer than a test end with the last test of this folder. Playwright keeps an event
loop in this thread, so other tests could not run their own.
"""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack, closing

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.end_to_end.browser import seeds
from tests.end_to_end.browser.chromium import MISSING, chromium_path, launch
from tests.end_to_end.browser.guard import Guard
from tests.end_to_end.browser.serving import Served
from tests.end_to_end.browser.storages import STORAGES

TIMEOUT = 15_000  # milliseconds after which a condition counts as never met


@pytest.fixture(scope="package")
def browser():
    """One Chromium for all tests."""
    if chromium_path() is None:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        chromium = launch(playwright)
        yield chromium
        chromium.close()


# ---- storages --------------------------------------------------------------------------------------------


@pytest.fixture(scope="package")
def shop_file(tmp_path_factory):
    """A SQLite file with a year of the shop."""
    path = tmp_path_factory.mktemp("shop") / "jobs.db"
    seeds.fill(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="package")
def stocked_file(tmp_path_factory):
    """A SQLite file with a few jobs in each state."""
    path = tmp_path_factory.mktemp("stocked") / "jobs.db"
    seeds.stock(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="package")
def shop(shop_file):
    """The shop's dashboard, for tests that change nothing."""
    with closing(seeds.shop(f"sqlite:///{shop_file}")) as fire:
        served = Served(fire, environment="staging", back_url="/").start()
        yield served
        served.stop()


@pytest.fixture
def stocked(stocked_file, tmp_path):
    """An app with a few jobs in each state, for tests that change them."""
    path = tmp_path / "jobs.db"
    shutil.copy(stocked_file, path)
    fire, tasks = seeds.small(f"sqlite:///{path}")
    fire.tasks_of_test = tasks
    with closing(fire):
        yield fire


@pytest.fixture
def tasks(stocked):
    """The tasks of `stocked`."""
    yield stocked.tasks_of_test
    stocked.tasks_of_test.gate.set()


@pytest.fixture
def serve():
    """Return a function that serves an app's dashboard until the end of the test."""
    with ExitStack() as stack:

        def started(fire, **options):
            served = Served(fire, **options).start()
            stack.callback(served.stop)
            return served

        yield started


@pytest.fixture
def served(stocked, tasks, serve):
    """The dashboard of `stocked`."""
    return serve(stocked)


@pytest.fixture(params=STORAGES)
def any_storage(request, tmp_path):
    """An empty storage of each kind in turn, or its URL."""
    with request.param.opened(tmp_path) as storage:
        yield storage


# ---- pages -----------------------------------------------------------------------------------------------


@pytest.fixture
def guard():
    """A guard that fails the test at its end if an error occurred on any of its pages."""
    guard = Guard()
    yield guard
    guard.verify()


@pytest.fixture
def open_context(browser, guard):
    """Return a function that creates a browser context for one more visitor: `open_context(served)`."""
    with ExitStack() as stack:

        def opened(served, *, is_in=True, **options):
            context = browser.new_context(
                base_url=served.origin, viewport={"width": 1440, "height": 900}, timezone_id="UTC",
                locale="en-GB", **options,
            )  # fmt: skip
            stack.callback(context.close)
            context.set_default_timeout(TIMEOUT)
            if is_in:
                context.add_cookies(served.cookies())
            guard.watch(context, served.origin)
            return context

        yield opened


@pytest.fixture
def open_page(open_context):
    """Return a function that opens an address as a new visitor: `open_page(served, "/queues")`."""

    def opened(served, address="/", **options):
        page = open_context(served, **options).new_page()
        page.goto(address)
        return page

    return opened
