"""Tests of the transactions and rows on which all verbs of a `RowStorage` are based."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import pytest

from firelock.errors import StorageError
from firelock.model.job import LogLine, Progress
from firelock.storage import Rows, RowStorage
from firelock.testing.conformance.flow_scene import FlowScene
from firelock.testing.conformance.race import ROUNDS, race, returned
from firelock.testing.conformance.scene import BASE, HOUR, Handles, succeeds
from firelock.testing.conformance.storage.subject import StorageFixtures
from firelock.testing.conformance.storage.text import SPECIAL_TEXTS

_T = TypeVar("_T")
_PRUNED = "of the pruned job"
_OURS = "~kit|"  # a prefix that no verb uses for its rows
_ORDERED = tuple(
    _OURS + end for end in (" ", "%", "A", "B", "_", "a", "aa", "ab", "b", "é", "東", "\U0001f525")
)


class RowTests(StorageFixtures):
    """Tests of `transact`, and of the rows that it reads and writes."""

    verbs = "transact"

    def test_transaction_that_raises_stores_nothing(self, storage: RowStorage) -> None:
        """`transact` raises the exception of its body unchanged, and nothing that the body wrote is stored.

        If this fails: half of a job stays stored when a verb is refused midway, or when the disk is full.
        """
        _store(storage, {_OURS + "kept": "1", _OURS + "gone": "1"})

        def fail(rows: Rows) -> None:
            rows.put(_OURS + "new", "2")
            rows.put(_OURS + "kept", "2")
            rows.delete(_OURS + "gone")
            raise StorageError(_OURS)

        with pytest.raises(StorageError, match=re.escape(_OURS)):
            _transact(storage, fail)

        assert [(_OURS + "gone", "1"), (_OURS + "kept", "1")] == _transact(storage, _ours)

    def test_every_handle_sees_the_rows_of_a_transact(self, storage: RowStorage, handles: Handles) -> None:
        """A transaction returns the result of its body; then every handle can read the rows that it wrote.

        If this fails: jobs that one process stores are never found by another.
        """

        def put(rows: Rows) -> str:
            rows.put(_OURS + "one", "1")
            return "answer"

        assert "answer" == _transact(storage, put)
        assert [(_OURS + "one", "1")] == _transact(handles.open(), _ours)  # type: ignore[arg-type]

    def test_transaction_sees_its_own_writes(self, storage: RowStorage) -> None:
        """Within a transaction, a written row is read and scanned, and a deleted row is not.

        If this fails: a job of a call does not find another job of the same call.
        """
        _store(storage, {_OURS + "old": "1", _OURS + "replaced": "1"})

        def write_and_read(rows: Rows) -> object:
            rows.put(_OURS + "new", "2")
            rows.put(_OURS + "replaced", "2")
            rows.delete(_OURS + "old")
            rows.delete(_OURS + "never there")
            return [rows.get(_OURS + name) for name in ("new", "replaced", "old")], _ours(rows)

        expected = [(_OURS + "new", "2"), (_OURS + "replaced", "2")]
        assert (["2", "2", None], expected) == _transact(storage, write_and_read)
        assert expected == _transact(storage, _ours)

    def test_row_with_an_empty_value_is_read_and_scanned(self, storage: RowStorage) -> None:
        """A row with an empty value is read and scanned, in the transaction that writes it and in later ones.

        If this fails: the store treats a row with an empty string as missing. The lists from which jobs are
        selected consist of such rows, so no job is ever found.
        """

        def read(rows: Rows) -> object:
            return rows.get(_OURS + "empty"), rows.get(_OURS + "none"), _ours(rows)

        def put(rows: Rows) -> object:
            rows.put(_OURS + "empty", "")
            return read(rows)

        expected = ("", None, [(_OURS + "empty", "")])
        assert expected == _transact(storage, put)
        assert expected == _transact(storage, read)

    @pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
    def test_scan_excludes_the_row_of_its_prefix(self, storage: RowStorage, reverse: bool) -> None:
        """A scan does not return the row whose key is the prefix itself, with a start or without one.

        If this fails: a key appears twice in a list of limits or unique keys, and pages repeat it.
        """
        prefix = _OURS + "unit"
        _store(storage, {prefix: "1", prefix + "/a": "2", prefix + "/b": "3"})
        expected = [(prefix + "/a", "2"), (prefix + "/b", "3")]
        expected = expected[::-1] if reverse else expected

        def scan(rows: Rows) -> object:
            start = prefix + "/z" if reverse else prefix
            return (
                rows.scan(prefix, reverse=reverse, limit=10),
                rows.scan(prefix, start=start, reverse=reverse, limit=10),
            )

        assert (expected, expected) == _transact(storage, scan)

    @pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
    def test_scan_returns_rows_by_code_points(self, storage: RowStorage, reverse: bool) -> None:
        """A scan returns at most `limit` rows with a prefix, after `start`, ordered by code points.

        If this fails: the store sorts by the rules of a language, or folds case. Jobs run in another order,
        and pages leave out jobs.
        """
        neighbours = {_OURS[:-1]: "1", _OURS[:-1] + "}": "1"}
        _store(storage, neighbours | {key: key for key in reversed(_ORDERED)})
        ordered = [(key, key) for key in (reversed(_ORDERED) if reverse else _ORDERED)]

        def scan(start: str | None, limit: int) -> list[tuple[str, str]]:
            return _transact(
                storage, lambda rows: rows.scan(_OURS, start=start, reverse=reverse, limit=limit)
            )

        assert ordered == scan(None, 100)
        assert ordered[:3] == scan(None, 3)
        for place, (key, _) in enumerate(ordered):
            assert ordered[place + 1 : place + 3] == scan(key, 2), key
        middle = _OURS + "aaz"  # not the key of any row
        assert [pair for pair in ordered if (pair[0] < middle) is reverse] == scan(middle, 100)

    @pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
    def test_scan_returns_as_many_rows_as_its_limit_allows(self, storage: RowStorage, reverse: bool) -> None:
        """A scan returns all of 1,100 rows if its limit allows it, and never more rows than its limit.

        If this fails: the store returns only its own page of rows. Everything after the first page is never
        found: queues, keys, members of a batch, jobs of an ended session.
        """
        keys = [f"{_OURS}{number:04}" for number in range(1_100)]
        _store(storage, dict.fromkeys(keys, "1"))
        keys = keys[::-1] if reverse else keys

        def scan(limit: int) -> list[str]:
            found = _transact(storage, lambda rows: rows.scan(_OURS, reverse=reverse, limit=limit))
            return [key for key, _ in found]

        assert keys == scan(2_000)
        assert keys[:1_050] == scan(1_050)

    def test_keys_and_values_of_rows_are_kept_exactly(self, storage: RowStorage) -> None:
        """Keys and values are returned exactly as written; keys that only look the same have separate rows.

        If this fails: the store normalizes, trims or folds strings, for example by merging an e and a
        combining accent into one character. Arguments are changed, and one name replaces another.
        """
        texts = [*SPECIAL_TEXTS.values(), "\u00e9", "e\u0301", "E\u0301", " e\u0301", "e\u0301 "]
        stored = {_OURS + text: text for text in texts}

        _store(storage, stored)

        assert sorted(stored.items()) == _transact(storage, _ours)
        assert texts == _transact(storage, lambda rows: [rows.get(_OURS + text) for text in texts])

    def test_long_keys_and_values_are_kept_completely(self, storage: RowStorage) -> None:
        """Keys of 500 bytes and values of 1 MiB are returned unchanged, to the last character.

        If this fails: a large result is lost, or two long names share one row.
        """
        keys = _long_keys("ab")
        value = "東\x01\n" * 209_715

        _store(storage, {key: value + key[-1] for key in keys})

        assert [(key, value + key[-1]) for key in keys] == _transact(storage, _ours)
        assert value + "b" == _transact(storage, lambda rows: rows.get(keys[1]))

    def test_row_with_a_long_key_is_deleted_alone(self, storage: RowStorage) -> None:
        """If keys share their first 499 bytes, replacing or deleting one row leaves the others unchanged.

        If this fails: the store shortens or hashes long keys, so a delete also removes other rows. For
        example, a lock is free although it is held, or the result of a step is forgotten.
        """
        first, deleted, replaced, last = keys = _long_keys("abcd")
        _store(storage, dict.fromkeys(keys, "1"))

        def change(rows: Rows) -> list[tuple[str, str]]:
            rows.put(replaced, "2")
            rows.delete(deleted)
            return _ours(rows)

        expected = [(first, "1"), (replaced, "2"), (last, "1")]
        assert expected == _transact(storage, change)
        assert expected == _transact(storage, _ours)
        assert ["1", None, "2", "1"] == _transact(storage, lambda rows: [rows.get(key) for key in keys])

    def test_concurrent_transactions_are_serializable(self, storage: RowStorage, handles: Handles) -> None:
        """If eight handles run transactions concurrently, no increment of a row and no new row is lost.

        If this fails: two servers claim the same job.
        """
        stores = [handles.open() for _ in range(8)]

        def add(rows: Rows) -> None:
            rows.put(_OURS + "sum", str(int(rows.get(_OURS + "sum") or 0) + 1))
            rows.put(f"{_OURS}row {len(_ours(rows)):04}", "")

        for _ in range(ROUNDS):
            race([partial(store.transact, add) for store in stores])  # type: ignore[attr-defined]

        rows = _transact(storage, _ours)
        assert str(8 * ROUNDS) == dict(rows)[_OURS + "sum"]
        assert 8 * ROUNDS + 1 == len(rows)


class PrunedRowTests(StorageFixtures):
    """Tests of the rows that `prune` leaves in a `RowStorage`."""

    verbs = "prune"

    def test_pruned_job_leaves_no_row(self, storage: RowStorage, flow: FlowScene) -> None:
        """After a job was pruned, no key and no value contains its id or any of its data.

        If this fails: the store fills up with rows that no verb returns or deletes, such as the memos of jobs
        that were pruned long ago.
        """
        running = flow.run(job_id=flow.add(arguments=_PRUNED, tags=(_PRUNED,), meta_json=_PRUNED))
        for name in ("short", "\U0001f525" * 200):
            flow.keep(running, name, _PRUNED)
            flow.append(running, name, _PRUNED, _PRUNED)
        line, progress = LogLine(0, 1, "INFO", _PRUNED), Progress(1.0, 2.0, 3, _PRUNED)
        storage.append_logs({running.id: [line]}, {running.id: progress})
        flow.settle(succeeds(running, _PRUNED, expires_at=BASE + HOUR))
        flow.advance(7_200)

        assert 1 == flow.prune()

        rows = _transact(storage, lambda rows: rows.scan("", limit=10_000))
        left = [key for key, value in rows for word in (running.id, _PRUNED) if word in key or word in value]
        assert [] == left


def _transact(storage: RowStorage, body: Callable[[Rows], _T]) -> _T:
    """Return the result of the transaction; fail the test if it does not return within a minute."""
    return returned(partial(storage.transact, body))


def _store(storage: RowStorage, stored: Mapping[str, str]) -> None:
    def put(rows: Rows) -> None:
        for key, value in stored.items():
            rows.put(key, value)

    _transact(storage, put)


def _ours(rows: Rows) -> list[tuple[str, str]]:
    return rows.scan(_OURS, limit=1_000)


def _long_keys(lasts: str) -> list[str]:
    """Return keys of 500 bytes that end with these characters and are otherwise equal."""
    return [_OURS + "é" * 247 + last for last in lasts]
