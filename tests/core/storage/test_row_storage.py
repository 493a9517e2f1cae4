"""The requests of `RowStorage` to its rows: keys stay within the documented limits for any string."""

from __future__ import annotations

import json
import time

import pytest

from firelock.errors import SchemaMismatch
from firelock.model import lifecycle
from firelock.model.session import ClaimHolder
from firelock.storage import (
    Applied,
    ClaimRequest,
    ErrorInfo,
    JobFilter,
    JobHistory,
    NewJob,
    NewSession,
    Renewal,
    State,
)
from firelock.storage.row_storage import RowStorage

LONGEST = 500
ERROR = ErrorInfo("Boom", "boom", "fingerprint")


class NarrowRows(dict):
    """Rows in memory that refuse long keys, and strings that cannot be encoded as UTF-8."""

    def get(self, key):
        return super().get(checked(key))

    def put(self, key, value):
        self[checked(key)] = value

    def delete(self, key):
        self.pop(checked(key), None)

    def scan(self, prefix, *, start=None, reverse=False, limit):
        checked(prefix)
        keys = sorted((key for key in self if key.startswith(prefix)), reverse=reverse)
        behind = [key for key in keys if start is None or (key < start if reverse else key > start)]
        return [(key, self[key]) for key in behind[:limit]]


def checked(key):
    """Return the key after checking its length."""
    assert len(key.encode()) <= LONGEST
    return key


class NarrowStorage(RowStorage):
    """A storage on such rows."""

    contract = 1

    def __init__(self):
        super().__init__()
        self.rows = NarrowRows()

    def transact(self, body):
        return body(self.rows)

    def clock(self):
        return time.time_ns() // 1_000

    def close(self):
        pass


@pytest.mark.parametrize("text", ["x" * 3_000, "\ud800", "a/b", ""], ids=["long", "lone", "slash", "empty"])
def test_invalid_id_is_not_found(text):
    """An invalid id is not used in a key, because users can paste any string into a URL or a command."""
    storage = NarrowStorage()

    assert [None] == storage.get([text])
    assert JobHistory([], []) == storage.history(text)
    assert [] == storage.find(JobFilter(parent_id=text), limit=10).jobs
    assert [] == storage.find(JobFilter(id_prefix=text or "none"), limit=10).jobs


def test_name_that_is_too_long_is_not_found():
    """A name that is too long for a key is looked up in rows with short keys without an error."""
    storage, text = NarrowStorage(), "x" * 3_000

    assert ([], []) == (storage.read_log(text), storage.read_stream(text, text))
    assert (None, [None]) == (storage.recall(text), storage.batch_counts([text]))
    assert ([], []) == (storage.find_keys(text), storage.find_unique(text))
    assert (None, []) == (storage.get_record("kind", text), storage.list_records("kind", after=text))


def test_rows_keep_the_fields_of_a_newer_release():
    """A job and a session with added fields are claimed, ended and renewed, and keep these fields."""
    storage = NarrowStorage()
    (job_id,) = storage.new_ids(1)
    storage.insert([NewJob(job_id, "send", "[]", "json", "default", 0, State.ENQUEUED, 0)])
    storage.begin_session(NewSession("one", "server", "host:a", "host", 7, 0, 1e9))
    for key in (f"job/{job_id}", "session/one"):
        row = json.loads(storage.rows[key])
        storage.rows[key] = json.dumps({**row, "new": 1, "record": {**row["record"], "newer": [2]}})

    (job,) = storage.claim(ClaimRequest(None, 1, "one", 1)).jobs
    end = lifecycle.failed(
        job, ClaimHolder("one", "host:a"), at=2, started_at=1, reason="boom", error=ERROR, expires_at=None
    )
    results = storage.apply([end]), storage.renew([Renewal("one", 1)])

    assert ([Applied.APPLIED], [True]) == results
    assert State.FAILED is storage.get([job_id])[0].state
    for key in (f"job/{job_id}", "session/one"):
        row = json.loads(storage.rows[key])
        assert (1, [2]) == (row["new"], row["record"]["newer"])


# ---- custom methods ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "hint"),
    [
        ("1", "layout 1, which was written by Firelock before its first release .* Delete the rows"),
        ("3", "layout 3, but this release of Firelock supports only layout 2. Upgrade Firelock"),
    ],
)
def test_custom_method_refuses_another_layout(layout, hint):
    """As in every other method, the function does not run on rows that it cannot read."""
    storage = NarrowStorage()
    storage.rows["layout"] = layout
    seen = []

    with pytest.raises(SchemaMismatch, match=hint):
        storage.transact_checked(seen.append)

    assert [] == seen


def test_custom_rows_are_separate_from_other_rows():
    """The keys of custom rows start with `own/`. No other method finds them, and `clear` deletes them."""
    storage = NarrowStorage()

    answer = storage.transact_checked(lambda rows: rows.put("own/line/1", "text") or "answer")
    storage.insert([NewJob("1", "send", "[]", "json", "default", 0, State.ENQUEUED, 0)])
    storage.put_record("own", "own/line/1", "record")
    own_keys = {key for key in storage.rows if key.startswith("own/")}
    storage.clear()

    assert ("answer", {"own/line/1"}, ["layout"]) == (answer, own_keys, sorted(storage.rows))
