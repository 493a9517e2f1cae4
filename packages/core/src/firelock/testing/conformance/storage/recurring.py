"""Tests of due records, and of inserts that depend on a record; both are the basis of recurring jobs.

A due time creates its jobs once, whichever server checks it and however often a reply is lost.
"""

from __future__ import annotations

import pytest

from firelock.errors import JobNotFound
from firelock.model.dependencies import Edge, On
from firelock.model.state import State
from firelock.storage import Applied, Inserted, Record, RecordChange
from firelock.testing.conformance.scene import BASE, HOUR, Scene
from firelock.testing.conformance.storage.subject import StorageFixtures


def due_once(scene: Scene, key: str = "nightly", *, due_at: int | None = BASE + HOUR) -> int:
    """Store a recurring definition with this due time; return its version."""
    version = scene.storage.put_record("recurring", key, "{}", due_at=due_at)
    assert version is not None
    return version


def _moved(version: int, value: str = "moved", *, due_at: int | None = BASE + 2 * HOUR) -> RecordChange:
    return RecordChange("recurring", "nightly", value, version, due_at)


class RecurringTests(StorageFixtures):
    """Tests of due records, and of inserts that depend on a record."""

    verbs = "due_records"

    def test_due_records_are_returned_earliest_due_first(self, scene: Scene) -> None:
        """`due_records` returns at most `limit` records that are due by the storage's clock, earliest first.

        If this fails: recurring jobs run early, or a late one waits for newer ones.
        """
        for key, hour in (("b", 3), ("a", 2), ("d", 1), ("c", 1), ("later", 9)):
            due_once(scene, key, due_at=BASE + hour * HOUR)
        scene.storage.put_record("other", "z", "", due_at=BASE + HOUR)
        early = scene.storage.due_records("recurring", 10)
        scene.advance(5 * 3_600)

        due = scene.storage.due_records("recurring", 10)

        assert ([], ["c", "d", "a", "b"]) == (early, [record.key for record in due])
        assert Record("recurring", "c", "{}", 1, BASE + HOUR) == due[0]
        assert ["c", "d"] == [record.key for record in scene.storage.due_records("recurring", 2)]
        assert ["z"] == [record.key for record in scene.storage.due_records("other", 2)]
        assert ([], []) == (scene.storage.due_records("none", 2), scene.storage.due_records("recurring", 0))

    def test_due_time_of_a_record_is_stored_exactly(self, scene: Scene) -> None:
        """The due time of a record is returned to the microsecond, and each put replaces it.

        If this fails: a recurring job runs for the wrong time, or is still due when it is paused.
        """
        storage = scene.storage
        due_once(scene, due_at=BASE + 1)
        due_once(scene, "other")
        first = [storage.get_record("recurring", "nightly"), *storage.list_records("recurring", limit=1)]

        storage.put_record("recurring", "nightly", "paused")
        storage.put_record("recurring", "other", "later", due_at=BASE + 9 * HOUR)
        scene.advance(7_200)

        assert [Record("recurring", "nightly", "{}", 1, BASE + 1)] * 2 == first
        assert Record("recurring", "nightly", "paused", 2) == storage.get_record("recurring", "nightly")
        assert [] == storage.due_records("recurring", 10)

    def test_deleted_record_is_not_due(self, scene: Scene) -> None:
        """A deleted record is not due, and neither is a new record with its key and without a due time.

        If this fails: a removed recurring job runs again.
        """
        due_once(scene)
        scene.storage.delete_record("recurring", "nightly")
        scene.advance(7_200)
        gone = scene.storage.due_records("recurring", 10)
        due_once(scene, due_at=None)

        assert ([], []) == (gone, scene.storage.due_records("recurring", 10))
        assert scene.storage.promote(10).next_due_at is None

    def test_due_time_creates_its_jobs_once(self, scene: Scene) -> None:
        """The jobs are stored and the record is replaced, once, if the record has the expected version.

        If this fails: a nightly report is sent by every server.
        """
        version, jobs = due_once(scene), [scene.new_job(recurring_id="nightly") for _ in range(3)]

        first = scene.storage.insert(jobs[:2], only_if=_moved(version))
        second = scene.storage.insert(jobs[1:], only_if=_moved(version, "another"))

        assert (Inserted([True, True]), Inserted([False, False], Applied.REFUSED)) == (first, second)
        stored = scene.storage.get([job.id for job in jobs])
        assert [State.ENQUEUED, State.ENQUEUED, None] == [job and job.state for job in stored]
        wanted = Record("recurring", "nightly", "moved", version + 1, BASE + 2 * HOUR)
        assert wanted == scene.storage.get_record("recurring", "nightly")
        assert BASE + 2 * HOUR == scene.storage.promote(10).next_due_at

    def test_repeated_insert_with_a_record_returns_already(self, scene: Scene) -> None:
        """A repeat of the same insert returns `ALREADY` for the record, and stores nothing twice.

        If this fails: a server that repeats an insert after a lost reply creates jobs twice, or treats its
        own jobs as those of another server.
        """
        version, job = due_once(scene), scene.new_job(recurring_id="nightly")
        scene.storage.insert([job], only_if=_moved(version))
        scene.claim_ids()

        again = scene.storage.insert([job], only_if=_moved(version))
        later = scene.storage.insert([job], only_if=_moved(version, due_at=BASE + 3 * HOUR))

        assert Inserted([False], Applied.ALREADY) == again
        assert Applied.REFUSED is later.record
        scene.check(job.id, state=State.PROCESSING)
        (left,) = scene.storage.list_records("recurring")
        assert (version + 1, BASE + 2 * HOUR) == (left.version, left.due_at)

    @pytest.mark.parametrize("how", ["changed", "deleted", "put again", "never stored"])
    def test_insert_with_an_outdated_record_stores_nothing(self, scene: Scene, how: str) -> None:
        """If the record is no longer the one that was read, nothing is stored.

        If this fails: a server that has read the record before an operator's pause or edit overwrites the
        change.
        """
        storage, version = scene.storage, 7 if how == "never stored" else due_once(scene)
        match how:
            case "changed":
                storage.put_record("recurring", "nightly", "edited")
            case "deleted":
                storage.delete_record("recurring", "nightly")
            case "put again":
                storage.delete_record("recurring", "nightly")
                due_once(scene)
            case _:
                pass
        before, job = storage.get_record("recurring", "nightly"), scene.new_job(recurring_id="nightly")

        answers = [storage.insert(jobs, only_if=_moved(version)).record for jobs in ([job], [])]

        assert [Applied.REFUSED] * 2 == answers
        assert [None] == storage.get([job.id])
        assert before == storage.get_record("recurring", "nightly")

    def test_insert_with_version_zero_creates_the_record(self, scene: Scene) -> None:
        """An insert that expects version 0 creates the record; a later one finds that it exists.

        If this fails: two creators overwrite each other.
        """
        answers = [scene.storage.insert([], only_if=_moved(0, value)) for value in ("a", "a", "b")]

        assert [Applied.APPLIED, Applied.ALREADY, Applied.REFUSED] == [one.record for one in answers]
        assert ("a", 1) == scene.kept("recurring", "nightly")

    def test_record_is_replaced_by_an_insert_without_new_jobs(self, scene: Scene) -> None:
        """An insert without jobs (for a skipped time), or with stored jobs only, also replaces the record.

        If this fails: a skipped due time stays due forever, or a job is created twice.
        """
        version, job = due_once(scene), scene.new_job(recurring_id="nightly")
        scene.storage.insert([job])

        repeated = scene.storage.insert([job], only_if=_moved(version))
        skipped = scene.storage.insert([], only_if=_moved(version + 1, due_at=None))

        assert (Inserted([False]), Inserted([])) == (repeated, skipped)
        (left,) = scene.storage.list_records("recurring")
        assert (version + 2, None) == (left.version, left.due_at)
        assert [job.id] == scene.claim_ids()

    def test_refused_insert_does_not_write_the_record(self, scene: Scene) -> None:
        """If a job waits for a job that is not stored, neither the jobs nor the record are written.

        If this fails: a due time passes without its jobs.
        """
        version = due_once(scene)
        lonely = scene.new_job(recurring_id="nightly")
        child = scene.new_job(recurring_id="nightly", state=State.AWAITING)
        child.parents = (Edge(scene.new_job(recurring_id="nightly").id, On.FINISHED),)

        with pytest.raises(JobNotFound):
            scene.storage.insert([lonely, child], only_if=_moved(version))

        assert [None, None] == scene.storage.get([lonely.id, child.id])
        (left,) = scene.storage.list_records("recurring")
        assert Record("recurring", "nightly", "{}", version, BASE + HOUR) == left

    def test_insert_can_depend_on_a_record_of_any_kind(self, scene: Scene) -> None:
        """An insert can depend on a record of any kind; if that record pauses a queue, the queue is paused.

        If this fails: a record that an insert has written does not have the effect of other records.
        """
        job = scene.new_job(recurring_id="nightly", queue="mail")

        scene.storage.insert([job], only_if=RecordChange("queue", "mail", '{"paused": true}', 0))

        assert [] == scene.claim_ids(queues=["mail"])
        scene.storage.insert([], only_if=RecordChange("queue", "mail", "{}", 1))
        assert [job.id] == scene.claim_ids(queues=["mail"])
