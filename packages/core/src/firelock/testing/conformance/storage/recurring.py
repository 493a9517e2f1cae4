"""Due records and inserts that depend on one: what recurring jobs stand on.

One instant makes its jobs once, whoever looks, and however often an answer is lost.
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
    """A recurring definition is stored that is due then; return its version."""
    version = scene.storage.put_record("recurring", key, "{}", due_at=due_at)
    assert version is not None
    return version


def _moved(version: int, value: str = "moved", *, due_at: int | None = BASE + 2 * HOUR) -> RecordChange:
    return RecordChange("recurring", "nightly", value, version, due_at)


class RecurringDuty(StorageFixtures):
    """What due records promise, and an insert that depends on a record."""

    verbs = "due_records"

    def test_due_records_come_longest_due_first(self, scene: Scene) -> None:
        """Due is what has come by the storage's clock, the longest due first, within the limit.

        If this fails: recurring jobs run early, or a late one waits behind fresh ones.
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

    def test_an_instant_is_stored_as_given(self, scene: Scene) -> None:
        """The instant comes back with the record, to the microsecond; each put replaces it.

        If this fails: a recurring job runs for another instant than its own, or is still due when paused.
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

    def test_a_deleted_record_is_never_due(self, scene: Scene) -> None:
        """A record that is gone is not due, nor is one that is put in its place without an instant.

        If this fails: a removed recurring job fires again.
        """
        due_once(scene)
        scene.storage.delete_record("recurring", "nightly")
        scene.advance(7_200)
        gone = scene.storage.due_records("recurring", 10)
        due_once(scene, due_at=None)

        assert ([], []) == (gone, scene.storage.due_records("recurring", 10))
        assert scene.storage.promote(10).next_due_at is None

    def test_an_instant_makes_its_jobs_once(self, scene: Scene) -> None:
        """The jobs are stored and the record is replaced, if it has the expected version: once.

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

    def test_a_repeat_after_a_lost_reply_changes_nothing(self, scene: Scene) -> None:
        """The same insert again answers that the record holds it already; nothing is stored twice.

        If this fails: who asks again after a lost reply makes doubles, or takes its own work for another's.
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

    @pytest.mark.parametrize("how", ["changed", "deleted", "put anew", "never there"])
    def test_an_insert_needs_the_record_that_was_read(self, scene: Scene, how: str) -> None:
        """Where the record is another one by now, nothing is stored.

        If this fails: an operator's pause or edit is overtaken by a server that read before it.
        """
        storage, version = scene.storage, 7 if how == "never there" else due_once(scene)
        match how:
            case "changed":
                storage.put_record("recurring", "nightly", "edited")
            case "deleted":
                storage.delete_record("recurring", "nightly")
            case "put anew":
                storage.delete_record("recurring", "nightly")
                due_once(scene)
            case _:
                pass
        before, job = storage.get_record("recurring", "nightly"), scene.new_job(recurring_id="nightly")

        answers = [storage.insert(jobs, only_if=_moved(version)).record for jobs in ([job], [])]

        assert [Applied.REFUSED] * 2 == answers
        assert [None] == storage.get([job.id])
        assert before == storage.get_record("recurring", "nightly")

    def test_an_insert_may_be_the_first_to_write_the_record(self, scene: Scene) -> None:
        """Expected version 0 means that there is none; a second one finds that there is.

        If this fails: two creators overwrite each other.
        """
        answers = [scene.storage.insert([], only_if=_moved(0, value)) for value in ("a", "a", "b")]

        assert [Applied.APPLIED, Applied.ALREADY, Applied.REFUSED] == [one.record for one in answers]
        assert ("a", 1) == scene.kept("recurring", "nightly")

    def test_an_insert_may_store_no_job_or_one_that_is_there(self, scene: Scene) -> None:
        """The record is replaced where an instant is skipped, and where its job was stored before.

        If this fails: a skipped instant is due for ever, or a job is made twice.
        """
        version, job = due_once(scene), scene.new_job(recurring_id="nightly")
        scene.storage.insert([job])

        repeated = scene.storage.insert([job], only_if=_moved(version))
        skipped = scene.storage.insert([], only_if=_moved(version + 1, due_at=None))

        assert (Inserted([False]), Inserted([])) == (repeated, skipped)
        (left,) = scene.storage.list_records("recurring")
        assert (version + 2, None) == (left.version, left.due_at)
        assert [job.id] == scene.claim_ids()

    def test_jobs_that_are_refused_leave_the_record(self, scene: Scene) -> None:
        """Where a job waits for one that is not stored, neither jobs nor record are written.

        If this fails: an instant is gone without its jobs.
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

    def test_a_record_of_any_kind_may_be_asked_for(self, scene: Scene) -> None:
        """An insert may depend on another kind of record; where that pauses a queue, it pauses.

        If this fails: what a record says elsewhere is not what it says here.
        """
        job = scene.new_job(recurring_id="nightly", queue="mail")

        scene.storage.insert([job], only_if=RecordChange("queue", "mail", '{"paused": true}', 0))

        assert [] == scene.claim_ids(queues=["mail"])
        scene.storage.insert([], only_if=RecordChange("queue", "mail", "{}", 1))
        assert [job.id] == scene.claim_ids(queues=["mail"])
