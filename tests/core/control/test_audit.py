"""`fire.audit`: records of operators' actions, newest first, with a bounded number of entries."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from firelock import AuditEntry, Firelock
from firelock.control.audit import KEPT, PRUNES_EVERY
from firelock.errors import ConfigurationError, ScheduleError, StorageError
from firelock.model.ids import newest_first_key
from tests.core.fakes import FailingStorage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(params=["memory", "sqlite"])
def fire(request, tmp_path):
    """An app over each storage."""
    storage = FailingStorage() if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"
    with Firelock(storage) as fire:
        yield fire


@pytest.fixture
def watched():
    """An app over a storage that records its calls."""
    with Firelock(FailingStorage()) as fire:
        yield fire


def test_entry_is_stored_as_recorded(fire):
    """An entry contains the actor, action, target, origin, time and details. The stored entry is returned."""
    entry = fire.audit.record(
        "job.requeue", "0193", by="ada", at=NOON, origin="cli", detail={"reason": "fix", "jobs": [1, None]}
    )

    assert AuditEntry(
        entry.id, NOON, "job.requeue", "0193", "ada", "cli", {"reason": "fix", "jobs": [1, None]}
    ) == entry  # fmt: skip
    assert [entry] == fire.audit.list().entries


def test_newest_entries_are_first(fire):
    """Entries are ordered by time.

    If several entries have the same time, the last recorded entry is first. Pages neither overlap nor omit
    entries.
    """
    for number in range(3):
        fire.audit.record("a", f"now {number}", by="ada", at=NOON)
    fire.audit.record("a", "later", by="ada", at=NOON + timedelta(microseconds=1))
    fire.audit.record("a", "long ago", by="ada", at=datetime(1900, 1, 1, tzinfo=UTC))

    first = fire.audit.list(2)
    second = fire.audit.list(limit=2, cursor=first.cursor)
    third = asyncio.run(fire.audit.alist(2, second.cursor))

    assert ["later", "now 2"] == [entry.target for entry in first]
    assert ["now 1", "now 0"] == [entry.target for entry in second]
    assert (["long ago"], None, 1) == ([entry.target for entry in third], third.cursor, len(third))


def test_full_last_page_has_no_cursor(fire):
    """A cursor never leads to an empty page."""
    fire.audit.record("a", "b", by="ada")

    assert None is fire.audit.list(1).cursor
    fire.storage.clear()
    assert ([], None) == (fire.audit.list().entries, fire.audit.list().cursor)


def test_long_strings_are_truncated(fire):
    """An ellipsis marks a truncated string. If a detail is too large, only its beginning is stored."""
    entry = fire.audit.record("a" * 300, "b" * 501, by="c" * 201, detail={"text": "d" * 5_000})

    assert ("a" * 199 + "…", "b" * 499 + "…", "c" * 199 + "…") == (entry.action, entry.target, entry.by)
    assert {"cut"} == set(entry.detail)
    assert entry.detail["cut"].startswith('{"text": "ddd')
    assert 3_800 < len(entry.detail["cut"]) < 4_096
    assert [entry] == fire.audit.list().entries
    assert "b" * 500 == fire.audit.record("a", "b" * 500, by="c").target


def test_unusual_strings_are_restored(fire):
    """Control characters, surrogates and markup are stored like any other string."""
    text = "<b>\x00\ud800\n'; --"

    assert fire.audit.record(text, text, by=text, detail={text: text}) == fire.audit.list().entries[0]


@pytest.mark.parametrize("detail", ["text", [1], {"a": object()}, {"a": float("nan")}, {"a": {1, 2}}])
def test_detail_must_be_a_json_object(watched, detail):
    """Nothing is stored for an invalid detail."""
    with pytest.raises(ConfigurationError, match=r"detail(=.* cannot be stored as JSON| must be a mapping)"):
        watched.audit.record("a", "b", by="ada", detail=detail)

    assert [] == watched.audit.list().entries


def test_invalid_arguments_are_refused(watched):
    """Values that are not strings, times without a zone, and invalid limits or cursors are refused."""
    with pytest.raises(ConfigurationError, match="target must be a string, got 7"):
        watched.audit.record("a", 7, by="ada")
    with pytest.raises(ConfigurationError, match="by must be a string, got None"):
        watched.audit.record("a", "b", by=None)
    with pytest.raises(ScheduleError, match="no time zone"):
        watched.audit.record("a", "b", by="ada", at=datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake
    for limit in (0, 501, True, "5"):
        with pytest.raises(ConfigurationError, match=r"limit must be from 1 to 500 .* per page"):
            watched.audit.list(limit)
    for cursor in ("", "nonsense", "\x00", 7):
        with pytest.raises(StorageError, match="does not belong to a page of audit entries"):
            watched.audit.list(cursor=cursor)


def test_oldest_entries_are_deleted_above_the_maximum(watched):
    """The newest 10,000 entries are kept, regardless of which process recorded them."""
    other = Firelock(watched.storage)
    sample = watched.audit.record("a", "old", by="ada", at=NOON)
    value = watched.storage.get_record("audit", sample.id).value
    for number in range(KEPT + 600):
        watched.storage.put_record("audit", newest_first_key(number), value)

    for number in range(1, PRUNES_EVERY):
        app = watched if number % 2 else other
        app.audit.record("a", str(number), by="ada", at=NOON + timedelta(seconds=number))

    targets = _targets(watched)
    assert KEPT - PRUNES_EVERY == len(targets)
    assert [str(number) for number in range(PRUNES_EVERY - 1, 0, -1)] == targets[: PRUNES_EVERY - 1]


def test_recording_an_entry_costs_two_small_writes(watched):
    """Only every 250th call searches for old entries."""
    for _ in range(PRUNES_EVERY - 1):
        watched.audit.record("a", "b", by="ada")

    assert [] == watched.storage.called["list_records"]
    assert 2 * (PRUNES_EVERY - 1) == len(watched.storage.called["put_record"])
    watched.audit.record("a", "b", by="ada")
    assert [] != watched.storage.called["list_records"]


def _targets(fire):
    targets, page = [], fire.audit.list(500)
    while True:
        targets += [entry.target for entry in page]
        if page.cursor is None:
            return targets
        page = fire.audit.list(500, page.cursor)
