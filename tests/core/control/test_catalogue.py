"""The catalogue: the tasks that servers report for programs without their code."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest

from firelock import Firelock, ParameterOutline, Retry, TaskEntry, __version__
from firelock.control.catalogue import publish_tasks
from firelock.errors import UnknownTask
from firelock.model.clock import StorageClock, from_micros
from firelock.retry import OnExceeded
from tests.core.fakes import FailingStorage, until

HOUR = 3_600 * 1_000_000
DAY = 24 * HOUR


@pytest.fixture
def storage():
    """A storage that records its calls, and whose clock only the test moves."""
    storage = FailingStorage()
    storage.clock = lambda: 10**15 + storage.clock_offset
    return storage


def app(storage):
    """Return an app over the storage, without tasks."""
    fire = Firelock(storage)
    fire.client.clock = StorageClock(storage, monotonic=lambda: 0.0)
    return fire


def charge(user_id: int, note: str = "n" * 200) -> None:
    """Charge a user.

    Twice is not charged.
    """


@pytest.fixture
def server(storage):
    """An app whose server reports the task `charge`."""
    fire = app(storage)
    fire.task(
        name="charge", queue="money", priority=5, timeout=60, keep=timedelta(days=30), retry=Retry.never(),
        aliases=["bill"], tags=["user:{user_id}"], executor="process",
    )(charge)  # fmt: skip
    return fire


def test_app_without_the_code_lists_the_tasks_of_servers(server, storage):
    """An entry contains everything that a page shows about a task, but no local file paths."""
    publish_tasks(server.client)

    (entry,) = app(storage).catalogue.list()

    line = charge.__code__.co_firstlineno
    assert entry == TaskEntry(
        name="charge", queue="money", priority=5, retry="no retries", timeout_seconds=60.0,
        executor="process", is_async=False, aliases=("bill",), tags=("user:{user_id}",),
        signature=f"charge(user_id: int, note: str = '{'n' * 78}…)", summary="Charge a user.",
        place=f"{__name__}:{line}", version=__version__, seen_at=from_micros(storage.clock()),
        is_registered_here=False, keep_seconds=30.0 * 86_400, parameters=(
            ParameterOutline("user_id", "int", (), True, False, False),
            ParameterOutline("note", "str", (), False, False, False),
        ),
    )  # fmt: skip
    assert entry == app(storage).catalogue.get("charge")
    assert "/" not in entry.place


def test_tasks_of_this_app_and_of_servers_are_merged(server, storage):
    """Tasks are merged by name, and include tasks that no server has reported yet."""
    publish_tasks(server.client)
    fire = app(storage)
    fire.task(name="bill")(charge)

    entries = fire.catalogue.list()

    assert [("bill", True, None), ("charge", False, from_micros(storage.clock()))] == [
        (entry.name, entry.is_registered_here, entry.seen_at) for entry in entries
    ]
    assert server.catalogue.get("charge").is_registered_here
    assert "charge" == server.catalogue.get("bill").name
    assert entries == asyncio.run(fire.catalogue.alist())
    assert entries[1] == asyncio.run(fire.catalogue.aget("charge"))


def test_unknown_tasks_are_listed_by_name(server, storage):
    """Aliases of reported tasks are not listed as unknown."""
    publish_tasks(server.client)

    assert ["gone"] == app(storage).catalogue.unknown(["charge", "gone", "bill", "gone"])
    with pytest.raises(UnknownTask, match="Task 'gone' is unknown: no server has stored it"):
        app(storage).catalogue.get("gone")


def test_start_without_changes_costs_one_read(server, storage):
    """Unchanged entries are written again only after twelve hours."""
    publish_tasks(server.client)
    reads, writes = storage.called["list_records"], storage.called["put_record"]
    before = (len(reads), len(writes))

    publish_tasks(server.client)
    after_a_restart = (len(reads) - before[0], len(writes) - before[1])
    storage.clock_offset += 12 * HOUR + 1
    publish_tasks(server.client)

    assert (1, 0) == after_a_restart
    assert before[1] + 1 == len(writes)
    assert from_micros(storage.clock()) == server.catalogue.get("charge").seen_at


def test_changed_definition_is_written_immediately(server, storage):
    """A server with a changed definition does not wait for the next regular write."""
    publish_tasks(server.client)
    fire = app(storage)
    fire.task(name="charge", queue="other")(charge)

    publish_tasks(fire.client)

    assert "other" == server.catalogue.get("charge").queue


def test_task_without_a_server_for_thirty_days_is_removed(server, storage):
    """The next server that writes removes the entry.

    If the task is still registered on that server, it is written again.
    """
    publish_tasks(server.client)
    storage.put_record("task", "damaged", "[]")
    other = app(storage)
    other.task(name="other")(charge)
    storage.clock_offset += 30 * DAY

    publish_tasks(other.client)
    at_thirty_days = {record.key for record in storage.list_records("task")}
    storage.clock_offset += 1
    publish_tasks(other.client)

    assert {"charge", "other"} == at_thirty_days
    assert ["other"] == [record.key for record in storage.list_records("task")]


def test_server_does_not_report_tasks_without_code(storage):
    """A server reports only the tasks that it can run."""
    fire = app(storage)
    fire.task(name="elsewhere", remote=True)(charge)

    publish_tasks(fire.client)

    assert [] == storage.list_records("task")
    assert ["elsewhere"] == [entry.name for entry in fire.catalogue.list()]


class Patience:
    """An application's own policy."""

    def decide(self, job, error): ...


@pytest.mark.parametrize(
    ("retry", "words"),
    [
        (Retry.fixed(60, attempts=1), "1 retry, after 1 min"),
        (Retry.listed([1, timedelta(minutes=5)], attempts=3), "3 retries, after 1.0 s, 5 min"),
        (Retry(attempts=6), "6 retries, after 1 min, 5 min, 15 min, 1 h …"),
        (Retry.polynomial(), "10 retries, with growing waits"),
        (Retry.never(on_exceeded=OnExceeded.DELETE), "no retries, then deleted"),
        (Patience(), "by Patience"),
    ],
)
def test_retry_policy_is_described_in_words(storage, retry, words):
    """The description contains the number of retries and their delays, or the policy's class."""
    fire = app(storage)
    fire.task(name="charge", retry=retry)(charge)

    assert words == fire.catalogue.get("charge").retry


def test_running_server_has_reported_its_tasks():
    """The server sends its report soon after the start, and the start does not wait for the report."""
    with Firelock("memory://") as fire:
        fire.task(name="charge")(charge)

        with fire.server(workers=1):
            stored = until(lambda: fire.storage.get_record("task", "charge"))

    assert "default" == json.loads(stored.value)["queue"]
