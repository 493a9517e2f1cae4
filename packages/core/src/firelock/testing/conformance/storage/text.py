"""Tests of unusual values: every string, number and time is returned exactly as it was stored."""

from __future__ import annotations

from unicodedata import normalize

import pytest

from firelock.model.clock import micros
from firelock.model.job import ErrorInfo
from firelock.model.state import State
from firelock.storage import JobFilter, Record
from firelock.testing.conformance.scene import BASE, STAMP, Scene, fails, succeeds
from firelock.testing.conformance.storage.subject import StorageFixtures

SPECIAL_TEXTS = {
    "percent": "100% %s %(x)s {x} $1 :name ?",
    "underscore": "a_b\\_c\\",
    "quotes": "'\"`; drop table jobs; --",
    "unicode": "İstanbul ñ 東京 \U0001f525 é",
    "decomposed": "e\u0301 \u1112\u1161\u11ab \u212b",
    "white": " lead\ttab\r\nline trail ",
    "case": "Case cASE",
    "separators": "a:b|c,d/e{f}g\x1fh\x7f",
}

_KIB = 1_024


class TextTests(StorageFixtures):
    """Tests of the values that all verbs store and return."""

    @pytest.mark.parametrize("text", SPECIAL_TEXTS.values(), ids=SPECIAL_TEXTS)
    def test_unusual_strings_of_a_job_are_returned_exactly(self, scene: Scene, text: str) -> None:
        """Task, arguments, tags, meta, reason, result and error are plain strings, whatever they contain.

        If this fails: a value is interpolated into a statement, trimmed, folded or interpreted as a pattern.
        """
        job_id = scene.add(
            task=text, arguments=text, tags=(text, "plain"), reason=text, retry=text, meta_json=text
        )
        running = scene.run(job_id=job_id)
        error = ErrorInfo(text, text, "fingerprint", text)

        scene.settle(fails(running, error))

        scene.check(job_id, task=text, arguments=text, tags=(text, "plain"), retry=text, meta_json=text)
        assert (text, text, text) == (running.job.task, running.job.arguments, running.job.meta_json)
        assert [error] == [attempt.error for attempt in scene.errors(job_id)]
        assert text == scene.history(job_id)[0].reason

    @pytest.mark.parametrize("text", SPECIAL_TEXTS.values(), ids=SPECIAL_TEXTS)
    def test_filters_match_unusual_strings_exactly(self, scene: Scene, text: str) -> None:
        """A filter compares exactly, without patterns, case folding or trimming.

        If this fails: % or _ acts as a wildcard, or the store's collation treats two strings as equal.
        """
        wanted = scene.add(task=text, tags=(text,), recurring_id=text)
        others = {
            text + " ",
            text.swapcase(),
            text.replace("_", "x").replace("%", "y"),
            "x",
            *_normalized(text),
        }
        for other in sorted(others - {text}):
            scene.add(task=other, tags=(other,), recurring_id=other)

        for where in (JobFilter(task=text), JobFilter(tag=text), JobFilter(recurring_id=text)):
            assert [wanted] == scene.found(where), where

    @pytest.mark.parametrize("text", SPECIAL_TEXTS.values(), ids=SPECIAL_TEXTS)
    def test_unusual_names_identify_one_record_or_lock(self, scene: Scene, text: str) -> None:
        """Records, recurring jobs and locks are distinguished by the exact string of their name.

        If this fails: two names share one record, or a name is truncated or escaped when it is returned.
        """
        storage = scene.storage
        names = [*_normalized(text), text + " ", text + "x", text.swapcase() + "2"]

        for number, name in enumerate(names):
            storage.put_record("kind", name, f"value {number} {name}")
            storage.put_record("recurring", name, name)
            assert storage.acquire_lock(name, f"owner {number}", 60.0) is not None

        records = storage.list_records("kind")
        assert sorted(names) == [record.key for record in records]
        for number, name in enumerate(names):
            assert (f"value {number} {name}", 1) == scene.kept("kind", name)
            assert Record("recurring", name, name, 1) == storage.get_record("recurring", name)
        assert storage.delete_record("kind", names[0])
        assert sorted(names[1:]) == [record.key for record in storage.list_records("kind")]

    @pytest.mark.parametrize("character", ["n", "\U0001f525"], ids=["one byte", "four bytes"])
    def test_longest_names_are_distinguished(self, scene: Scene, character: str) -> None:
        """Recurring ids, locks and record keys of 200 characters, and tags of 100, are stored completely.

        If this fails: a column or an index counts bytes. Long names are refused, truncated or confused with
        each other.
        """
        storage = scene.storage
        names = [character * 199 + last for last in (character, "x")]
        tags = [tuple(f"{place:02}" + character * 97 + last for place in range(20)) for last in "ab"]
        ids = [scene.add(tags=of_job, recurring_id=name) for of_job, name in zip(tags, names, strict=True)]

        for name in names:
            assert 1 == storage.put_record("kind", name, name)
            assert 1 == storage.put_record("recurring", name, name)
            assert storage.acquire_lock(name, "owner", 60.0) is not None

        assert sorted(names) == [record.key for record in storage.list_records("kind")]
        assert sorted(names) == [record.key for record in storage.list_records("recurring")]
        for job_id, of_job, name in zip(ids, tags, names, strict=True):
            assert of_job == scene.record(job_id).tags
            for where in (JobFilter(tag=of_job[-1]), JobFilter(recurring_id=name)):
                assert [job_id] == scene.found(where)

    def test_record_with_a_long_key_is_deleted_alone(self, scene: Scene) -> None:
        """If keys share 199 characters, replacing or deleting one record leaves the others unchanged.

        If this fails: the store shortens or hashes long keys, so a delete also removes other records.
        """
        storage = scene.storage
        first, deleted, replaced, last = names = ["\U0001f525" * 199 + end for end in "abcd"]
        for name in names:
            storage.put_record("kind", name, "1")

        storage.put_record("kind", replaced, "2")
        storage.delete_record("kind", deleted)

        expected = [(first, "1"), (replaced, "2"), (last, "1")]
        assert expected == [(record.key, record.value) for record in storage.list_records("kind")]
        for after, rest in (("", 0), (first, 1), (deleted, 1), (replaced, 2), (last, 3)):
            page = storage.list_records("kind", after=after, limit=1)
            assert expected[rest : rest + 1] == [(record.key, record.value) for record in page]
        assert storage.get_record("kind", deleted) is None

    def test_arguments_are_returned_byte_for_byte(self, scene: Scene) -> None:
        """Arguments are returned byte for byte, with the same order of keys and spelling of numbers.

        If this fails: the store parses the JSON, and changes the string that a serializer wrote.
        """
        arguments = '{"b": 1.0,  "a":1e2, "a2":"\\u00e9", "n":12345678901234567890123}'

        job_id = scene.add(arguments=arguments, serializer="custom-json.2")

        scene.check(job_id, arguments=arguments, serializer="custom-json.2")

    def test_large_values_are_returned_completely(self, scene: Scene) -> None:
        """Arguments of 32 KiB, a result of 256 KiB and a traceback of 64 KiB are returned completely.

        If this fails: a column or value is truncated at a limit of the store.
        """
        arguments = '["' + "é東" * (32 * _KIB // 5 - 1) + '"]'
        result = '"' + "r" * (256 * _KIB - 2) + '"'
        error = ErrorInfo("builtins.ValueError", "m" * 1_000, "f" * 64, "→ line\n" * (64 * _KIB // 9))
        holder = scene.begin()
        succeeded = scene.run(holder, scene.add(arguments=arguments))
        scene.settle(succeeds(succeeded, result))
        failed = scene.run(holder)

        scene.settle(fails(failed, error))

        assert arguments == succeeded.job.arguments
        assert (arguments, result) == (
            scene.record(succeeded.id).arguments,
            scene.record(succeeded.id).result,
        )
        assert [error] == [attempt.error for attempt in scene.errors(failed.id)]

    def test_null_result_differs_from_no_result(self, scene: Scene) -> None:
        """The string `null`, the empty JSON string and None are three different results.

        If this fails: the result of a task that returned None is shown as one that was not kept.
        """
        holder = scene.begin()

        kept = [
            scene.record(scene.settle(succeeds(scene.run(holder), result))).result
            for result in ("null", '""', None)
        ]

        assert ["null", '""', None] == kept

    @pytest.mark.parametrize("priority", [-100, -1, 0, 1, 100])
    def test_every_priority_is_stored_exactly(self, scene: Scene, priority: int) -> None:
        """Every priority from −100 to 100 is returned unchanged.

        If this fails: a column is unsigned or too narrow.
        """
        job_id = scene.add(priority=priority)

        assert priority == scene.record(job_id).priority
        assert [priority] == [job.priority for job in scene.claim(scene.begin())]

    def test_times_are_stored_to_the_microsecond(self, scene: Scene) -> None:
        """Times from 1970 to the year 9999 are returned exactly.

        If this fails: times are converted to floats or to a time type of the store.
        """
        from datetime import UTC, datetime

        last = micros(datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC))
        jobs = [
            scene.new_job(state=State.SCHEDULED, due_at=due_at, nominal_at=due_at, created_at=created_at)
            for due_at, created_at in ((last, 1), (BASE + 123_457, STAMP + 1), (2**53 + 1, 999_999))
        ]

        scene.storage.insert(jobs)

        records = [scene.record(job.id) for job in jobs]
        assert [(job.due_at, job.nominal_at, job.created_at) for job in jobs] == [
            (record.due_at, record.nominal_at, record.created_at) for record in records
        ]

    @pytest.mark.parametrize("seconds", [0.1, 1 / 3, 86_400.0, 1e-6, None])
    def test_timeout_is_stored_exactly(self, scene: Scene, seconds: float | None) -> None:
        """A job's timeout is stored as a double-precision float.

        If this fails: timeouts are rounded, or no timeout is stored as zero.
        """
        job_id = scene.add(timeout_seconds=seconds)

        assert seconds == scene.record(job_id).timeout_seconds
        assert [seconds] == [job.timeout_seconds for job in scene.claim(scene.begin())]

    def test_queue_names_may_have_every_allowed_character(self, scene: Scene) -> None:
        """Queue names of one to 64 characters from a–z, 0–9, `_`, `.` and `-` are distinguished.

        If this fails: the name of a queue is truncated, or interpreted as a pattern or path.
        """
        names = ["a", "a_b", "a.b", "a-b", "axb", "0" * 64, "0" * 63]
        ids = {name: scene.add(queue=name) for name in names}
        holder = scene.begin()

        claimed = {name: scene.claim_ids(holder, queues=[name]) for name in names}

        assert {name: [job_id] for name, job_id in ids.items()} == claimed


def _normalized(text: str) -> list[str]:
    """Return the string and those of its Unicode normal forms that differ from it."""
    return list(
        dict.fromkeys([text, normalize("NFC", text), normalize("NFD", text), normalize("NFKC", text)])
    )
