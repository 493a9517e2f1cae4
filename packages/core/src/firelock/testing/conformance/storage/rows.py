"""Rows: what a storage that is a `RowStorage` promises of the steps that all its verbs are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

import pytest

from firelock.errors import StorageError
from firelock.storage import Rows, RowStorage
from firelock.testing.conformance.race import ROUNDS, race
from firelock.testing.conformance.scene import Handles
from firelock.testing.conformance.storage.subject import StorageFixtures

_OURS = "~kit|"  # what a verb stores begins otherwise
_ORDERED = tuple(
    _OURS + end for end in (" ", "%", "A", "B", "_", "a", "aa", "ab", "b", "é", "東", "\U0001f525")
)


class RowDuty(StorageFixtures):
    """What `step` promises, and the rows in it."""

    verbs = "step"

    def test_a_step_that_raises_stores_nothing(self, storage: RowStorage) -> None:
        """What the body raises is raised as it is, and nothing of what it wrote is stored.

        If this fails: a verb that is refused midway, or a full disk, leaves half a job behind.
        """
        _store(storage, {_OURS + "kept": "", _OURS + "gone": ""})

        def fail(rows: Rows) -> None:
            rows.put(_OURS + "new", "1")
            rows.put(_OURS + "kept", "2")
            rows.delete(_OURS + "gone")
            raise StorageError(_OURS)

        with pytest.raises(StorageError, match=re.escape(_OURS)):
            storage.step(fail)

        assert [(_OURS + "gone", ""), (_OURS + "kept", "")] == storage.step(_ours)

    def test_a_step_answers_and_is_seen_by_others(self, storage: RowStorage, handles: Handles) -> None:
        """A step returns what its body returned; then every handle sees what it wrote.

        If this fails: jobs are stored in one process and never met by another.
        """

        def put(rows: Rows) -> str:
            rows.put(_OURS + "one", "1")
            return "answer"

        assert "answer" == storage.step(put)
        assert [(_OURS + "one", "1")] == handles.open().step(_ours)  # type: ignore[attr-defined]

    def test_a_step_sees_its_own_writes(self, storage: RowStorage) -> None:
        """Within a step a row that was put is read and scanned, one that was deleted is not.

        If this fails: two jobs of one call do not know of each other.
        """
        _store(storage, {_OURS + "old": "", _OURS + "replaced": ""})

        def look(rows: Rows) -> object:
            rows.put(_OURS + "new", "1")
            rows.put(_OURS + "replaced", "2")
            rows.delete(_OURS + "old")
            rows.delete(_OURS + "never there")
            return [rows.get(_OURS + name) for name in ("new", "replaced", "old")], _ours(rows)

        expected = [(_OURS + "new", "1"), (_OURS + "replaced", "2")]
        assert (["1", "2", None], expected) == storage.step(look)
        assert expected == storage.step(_ours)

    @pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
    def test_a_scan_is_in_order_of_code_points(self, storage: RowStorage, reverse: bool) -> None:
        """Rows of a prefix come by the code points of their keys, behind `start`, up to `limit`.

        If this fails: the store sorts by a language's rules or folds case; jobs run in another order, pages
        leave out jobs.
        """
        neighbours = {_OURS[:-1]: "", _OURS[:-1] + "}": ""}
        _store(storage, neighbours | {key: key for key in reversed(_ORDERED)})
        ordered = [(key, key) for key in (reversed(_ORDERED) if reverse else _ORDERED)]

        def scan(start: str | None, limit: int) -> list[tuple[str, str]]:
            return storage.step(lambda rows: rows.scan(_OURS, start=start, reverse=reverse, limit=limit))

        assert ordered == scan(None, 100)
        assert ordered[:3] == scan(None, 3)
        for place, (key, _) in enumerate(ordered):
            assert ordered[place + 1 : place + 3] == scan(key, 2), key
        middle = _OURS + "aaz"  # no row's key
        assert [pair for pair in ordered if (pair[0] < middle) is reverse] == scan(middle, 100)

    def test_long_rows_are_kept_whole(self, storage: RowStorage) -> None:
        """Keys of 1,400 bytes and values of 1 MiB come back as they are, to the last character.

        If this fails: a large result is lost, or two long names are one.
        """
        keys = [_OURS + "é" * 697 + last for last in "ab"]
        value = "東\x00\n" * 209_715

        _store(storage, {key: value + key[-1] for key in keys})

        assert [(key, value + key[-1]) for key in keys] == storage.step(_ours)

    def test_steps_are_as_if_one_came_after_the_other(self, storage: RowStorage, handles: Handles) -> None:
        """Of eight handles that each add one to a row at once, every one counts; so do rows that are scanned.

        If this fails: two servers claim one job.
        """
        stores = [handles.open() for _ in range(8)]

        def add(rows: Rows) -> None:
            rows.put(_OURS + "sum", str(int(rows.get(_OURS + "sum") or 0) + 1))
            rows.put(f"{_OURS}row {len(_ours(rows)):04}", "")

        for _ in range(ROUNDS):
            race([partial(store.step, add) for store in stores])  # type: ignore[attr-defined]

        rows = storage.step(_ours)
        assert str(8 * ROUNDS) == dict(rows)[_OURS + "sum"]
        assert 8 * ROUNDS + 1 == len(rows)


def _store(storage: RowStorage, stored: Mapping[str, str]) -> None:
    def put(rows: Rows) -> None:
        for key, value in stored.items():
            rows.put(key, value)

    storage.step(put)


def _ours(rows: Rows) -> list[tuple[str, str]]:
    return rows.scan(_OURS, limit=1_000)
