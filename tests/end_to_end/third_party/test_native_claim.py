"""The SQL claim in `docs/storage-verbs.md` passes the kit's tests of claims.

Before each claim, a storage copies its jobs into the tables of the page. It compares every claimed job with
the result of the rules. The page's claim leaves jobs with limits to `KeyedClaim`; these tests have none.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from firelock.storage import JobFilter, rules
from firelock.testing.conformance.storage.claim import ClaimTests
from firelock.testing.conformance.storage.left_out import LeftOutTests
from tests.conformance.plain_rows import PlainStorage, Store
from tests.repository.docs.pages import ROOT, python_blocks

PAGE = ROOT / "docs" / "storage-verbs.md"
EVERY = 10_000  # jobs; more than any test of the kit stores


@pytest.fixture(scope="module")
def shown():
    """The names that the page's code defines."""
    (block,) = (one for one in python_blocks(PAGE.read_text("utf-8")) if "def claim(" in one.code)
    names = {}
    exec(compile(block.code, str(PAGE), "exec"), names)
    return names


class NativelyClaimed(PlainStorage):
    """A storage that claims with the page's code."""

    def __init__(self, store, shown):
        super().__init__(store)
        self.shown, self.last_queue = shown, ""

    def claim(self, request):
        """Claim on a copy of the jobs, and store the result."""

        def claim_copy(tables):
            with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
                connection.executescript(self.shown["SCHEMA"])
                copy(tables, connection)
                answer = self.shown["claim"](connection, request, self.last_queue)
                for job in answer.jobs:
                    server = tables.living(request.session).session.server
                    row = rules.claimed_by(tables.job(job.id), request.session, server, now=request.now)
                    assert row.claimed() == job
                    assert stored(row) == stored_in(connection, job.id)
                    tables.put(row)
                return answer

        answer = self._transact(claim_copy)
        self.last_queue = answer.jobs[-1].queue if answer.jobs else self.last_queue
        return answer


def copy(tables, connection):
    """Copy the storage's data into the tables of the page."""
    for session in tables.sessions():
        record = session.record
        died_at = None if record.is_alive else session.ended_at
        connection.execute(
            "insert into sessions values (?, ?, ?)", (record.session.id, record.session.server, died_at)
        )
    for kind in ("queue", "recurring"):
        for one in tables.records(kind, "", EVERY):
            row = (kind, one.key, one.value, one.version, one.due_at)
            connection.execute("insert into records values (?, ?, ?, ?, ?)", row)
    for record in tables.find(JobFilter(), None, EVERY, oldest_first=True):
        columns = stored(tables.job(record.id))
        names, values = ", ".join(columns), ", ".join("?" * len(columns))
        connection.execute(f"insert into jobs ({names}) values ({values})", tuple(columns.values()))


COLUMNS = (
    "id", "task", "arguments", "serializer", "queue", "priority", "state", "attempt", "retries", "crashes",
    "fence", "created_at", "enqueued_at", "claimed_at", "changed_at", "started_at", "due_at", "session",
    "server", "reason",
)  # fmt: skip
REST = (
    "nominal_at", "tags", "timeout_seconds", "retry", "recurring_id", "meta_json", "admission_json",
    "relations_json",
)  # fmt: skip


def stored(row):
    """Return the columns of a job."""
    job = row.record
    rest = {name: getattr(job, name) for name in REST} | {"has_memos": row.has_memos}
    columns = {name: getattr(job, name) for name in COLUMNS}
    return columns | {"sequence": row.sequence, "rest": json.dumps(rest)}


def stored_in(connection, job_id):
    """Return the columns of a job as the claim has left them."""
    found = connection.execute("select * from jobs where id = ?", (job_id,))
    names = [column[0] for column in found.description]
    return dict(zip(names, found.fetchone(), strict=True))


class TestClaimOfThePage(LeftOutTests, ClaimTests):
    @pytest.fixture
    def open_handle(self, shown):
        store = Store()
        return lambda: NativelyClaimed(store, shown)
