"""The costs of calls on `RowStorage`, as documented in `docs/storage-features.md`."""

from __future__ import annotations

from collections import Counter

import pytest

from firelock.storage import Feature, JobFilter, LogLine, RowStorage
from firelock.testing import Handles, Scene
from firelock.testing.conformance.scene import BASE, HOUR, deletes, succeeds
from tests.conformance.plain_rows import PlainRows, PlainStorage, Store
from tests.repository.sources import ROOT

PAGE = ROOT / "docs" / "storage-features.md"


class CountingRows(PlainRows):
    """Rows that count the calls of each method."""

    def get(self, key):
        self.store.calls["get"] += 1
        return super().get(key)

    def put(self, key, value):
        self.store.calls["write"] += 1
        super().put(key, value)

    def delete(self, key):
        self.store.calls["write"] += 1
        super().delete(key)

    def scan(self, prefix, *, start=None, reverse=False, limit):
        self.store.calls["scan"] += 1
        return super().scan(prefix, start=start, reverse=reverse, limit=limit)


class CountingStorage(PlainStorage):
    """A storage that also counts its transactions."""

    features = RowStorage.features | {Feature.SHARED}
    rows_kind = CountingRows

    def transact(self, body):
        self.store.calls["transact"] += 1
        return super().transact(body)


@pytest.fixture
def scene():
    store = Store()
    store.calls = Counter()
    handles = Handles(lambda: CountingStorage(store))
    yield Scene(handles)
    handles.close()


def end_of_one(scene, holder, _ids):
    """Return a call that applies the end of a running job."""
    (running,) = scene.take(holder, 1)
    return lambda: scene.storage.apply([succeeds(running)])


def end_and_claim(scene, holder, _ids):
    """Return a call that exchanges the end of a running job for a claim."""
    (running,) = scene.take(holder, 1)
    return lambda: scene.exchange(holder, [succeeds(running)], 1)


def claim_of_nothing(scene, holder, ids):
    """Return a claim that finds nothing."""
    scene.storage.apply([deletes(one) for one in ids])
    return lambda: scene.storage.claim(scene.request(holder, 10))


def insert_of(number):
    """Return an insert of this number of jobs."""

    def prepare(scene, _holder, _ids):
        jobs = [scene.new_job() for _ in range(number)]
        return lambda: scene.storage.insert(jobs)

    return prepare


def prune_of_ten(scene, _holder, ids):
    """Return a prune of ten jobs."""
    scene.storage.prune(10)  # once an hour, this examines all locks
    scene.storage.apply([deletes(one, expires_at=BASE - HOUR) for one in ids[:10]])
    return lambda: scene.storage.prune(10)


LINES = [LogLine(0, 1, "INFO", "hello")]
CALLS = {
    "`insert`, 1 job": insert_of(1),
    "`insert`, 100 jobs": insert_of(100),
    "`claim`, 1 job": lambda scene, holder, _: lambda: scene.claim(holder, 1),
    "`claim`, 10 jobs": lambda scene, holder, _: lambda: scene.claim(holder, 10),
    "`claim`, nothing enqueued": claim_of_nothing,
    "`apply`, 1 end": end_of_one,
    "`exchange`, 1 end and 1 claim": end_and_claim,
    "`promote`, nothing due": lambda scene, _, __: lambda: scene.promote(100),
    "`release`, nothing to do": lambda scene, _, __: lambda: scene.release(100),
    "`prune`, 10 jobs": prune_of_ten,
    "`get`, 1 job": lambda scene, _, ids: lambda: scene.storage.get(ids[:1]),
    "`find`, a page of 50": lambda scene, _, __: lambda: scene.storage.find(JobFilter(), limit=50),
    "`counts`": lambda scene, _, __: scene.storage.counts,
    "`append_logs`, 1 line": lambda scene, _, ids: lambda: scene.storage.append_logs({ids[0]: LINES}, {}),
    "`acquire_lock`": lambda scene, _, __: lambda: scene.storage.acquire_lock("lock", "owner", 60.0),
    "`orphans`, nothing expired": lambda scene, _, __: lambda: scene.orphans(100),
}
"""For each call in the page: a function that prepares it, for a session and 100 enqueued jobs."""


def costs_of_the_page():
    """Return the rows of the page's table: a call, and its transactions, reads, scans and writes."""
    text = PAGE.read_text("utf-8")
    table = text[text.index("| Call |") :].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return [(row[0], tuple(map(int, row[1:5]))) for row in rows]


def test_documented_calls_are_the_measured_calls():
    """The table of the page lists exactly the calls that are measured here."""
    assert list(CALLS) == [call for call, _ in costs_of_the_page()]


@pytest.mark.parametrize(("verb", "cost"), costs_of_the_page())
def test_documented_costs_are_the_measured_costs(scene, verb, cost):
    """The numbers of transactions, rows read, scans and rows written match the page."""
    call = CALLS[verb](scene, scene.begin(), scene.add_many(100))
    calls = scene.storage.store.calls
    calls.clear()

    call()

    assert cost == (calls["transact"], calls["get"], calls["scan"], calls["write"])
