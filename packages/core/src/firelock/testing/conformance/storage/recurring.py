"""Recurring: one instant makes its jobs once, whoever looks, and an edit never loses the progress."""

from __future__ import annotations

import json

import attrs
import pytest

from firelock.storage import RecurringRecord
from firelock.testing.conformance.handles import BASE, HOUR, STAMP
from firelock.testing.conformance.scene import Scene
from firelock.testing.conformance.storage.subject import StorageFixtures
from firelock.values import State

__all__ = ["RecurringDuty", "definition"]


def definition(name: str = "nightly", **fields: object) -> RecurringRecord:
    """Return a definition that is due an hour after the test began, with these fields changed."""
    made = RecurringRecord(
        name, "tasks.run", "[]", "json", '{"cron": "0 2 * * *"}', "default", next_at=BASE + HOUR
    )
    return attrs.evolve(made, **fields)  # type: ignore[arg-type]


def _stored(scene: Scene, name: str = "nightly", **fields: object) -> RecurringRecord:
    stored = scene.storage.put_recurring(definition(name, **fields), keep_progress=False)
    assert stored is not None
    return stored


def _fire(
    scene: Scene, recurring: RecurringRecord, *, expected_next_at: int | None = None
) -> tuple[bool, str]:
    """Fire a definition once; return whether it did, and the id of the job it would make."""
    assert recurring.next_at is not None
    job = scene.new_job(recurring_id=recurring.id, nominal_at=recurring.next_at)
    moved = attrs.evolve(
        recurring, next_at=recurring.next_at + HOUR, last_at=recurring.next_at, last_job_id=job.id, dropped=2
    )
    return scene.storage.fire_recurring(moved, expected_next_at or recurring.next_at, [job]), job.id


class RecurringDuty(StorageFixtures):
    """What the verbs of recurring jobs promise."""

    verbs = (
        "put_recurring get_recurring list_recurring remove_recurring due_recurring fire_recurring one_step"
    )

    def test_a_definition_is_stored_as_given(self, scene: Scene) -> None:
        """A new definition has every field as given and version 1.

        If this fails: a recurring job runs with other options than those it was given.
        """
        wanted = RecurringRecord(
            "nightly", "reports.create", '["sales"]', "json", '{"every": 300}', "critical", -7, ("eu", "b"),
            12.5, '{"attempts": 3}', True, "code", "digest", True, STAMP, STAMP + 1, 0, STAMP + 2,
            BASE + 5, BASE - 5, "job-1", 4, "ScheduleError: no such zone", BASE - 4,
        )  # fmt: skip

        stored = scene.storage.put_recurring(wanted, keep_progress=False)

        assert attrs.evolve(wanted, version=1) == stored
        assert stored == scene.storage.get_recurring("nightly")
        assert scene.storage.get_recurring("other") is None

    def test_what_a_newer_version_wrote_is_kept(self, scene: Scene) -> None:
        """A definition with fields that this code does not know is read, listed and due, and keeps them.

        If this fails: a server that was not upgraded yet stops, passes over it, or undoes what it said.
        """
        value = attrs.asdict(definition())
        stored = _stored(scene, newer=json.dumps({**value, "limit": {"eu": 3}}))
        expected = attrs.evolve(definition(), version=1)
        scene.advance(7_200)

        read = [scene.storage.get_recurring("nightly"), *scene.storage.list_recurring()]
        read += scene.storage.due_recurring(10)
        fired, _ = _fire(scene, read[0] or stored)
        scene.storage.put_recurring(attrs.evolve(read[0] or stored, is_paused=True), keep_progress=True)
        after = scene.storage.get_recurring("nightly")

        assert [expected] * 3 == [one and attrs.evolve(one, newer=None) for one in read]
        assert (True, True, BASE + 2 * HOUR, 2) == (
            fired, after and after.is_paused, after and after.next_at, after and after.version,
        )  # fmt: skip
        newer = [one and one.newer for one in (*read, after)]
        assert [{"eu": 3}] * 4 == [json.loads(text or "{}").get("limit") for text in newer]

    def test_an_update_needs_the_present_version(self, scene: Scene) -> None:
        """A definition is replaced only if it is still the version that was read.

        If this fails: two people who edit one definition overwrite each other.
        """
        first = _stored(scene)
        second = scene.storage.put_recurring(attrs.evolve(first, queue="mail"), keep_progress=False)

        stale = scene.storage.put_recurring(attrs.evolve(first, queue="bulk"), keep_progress=False)
        new = scene.storage.put_recurring(definition(queue="bulk"), keep_progress=False)
        never = scene.storage.put_recurring(definition("other", version=3), keep_progress=False)

        assert (2, None, None, None) == (second and second.version, stale, new, never)
        assert second == scene.storage.get_recurring("nightly")
        assert scene.storage.get_recurring("other") is None

    def test_an_update_may_keep_the_progress(self, scene: Scene) -> None:
        """With `keep_progress` the stored progress stays, whatever it has become; without, it is replaced.

        If this fails: a deploy makes a recurring job run again, or skip an instant.
        """
        first = _stored(scene)
        fired, job_id = _fire(scene, first)
        edited = attrs.evolve(first, queue="mail", next_at=BASE + 9 * HOUR, last_at=None, dropped=0)

        kept = scene.storage.put_recurring(edited, keep_progress=True)

        assert fired
        assert kept is not None
        assert ("mail", BASE + 2 * HOUR, BASE + HOUR, job_id, 2) == (
            kept.queue, kept.next_at, kept.last_at, kept.last_job_id, kept.dropped,
        )  # fmt: skip
        replaced = scene.storage.put_recurring(
            attrs.evolve(kept, next_at=None, dropped=0), keep_progress=False
        )
        assert replaced is not None
        assert (None, 0) == (replaced.next_at, replaced.dropped)
        assert replaced == scene.storage.get_recurring("nightly")

    def test_keeping_progress_of_a_new_definition_takes_what_is_given(self, scene: Scene) -> None:
        """Where nothing is stored there is no progress to keep.

        If this fails: a new definition is never due.
        """
        stored = scene.storage.put_recurring(definition(), keep_progress=True)

        assert stored is not None
        assert BASE + HOUR == stored.next_at

    def test_definitions_are_listed_in_order_of_id(self, scene: Scene) -> None:
        """The list is in order of id, from `after` on, up to the limit.

        If this fails: pages of definitions repeat or hide some.
        """
        for name in ("b", "d", "a", "c"):
            _stored(scene, name)

        pages = [
            [one.id for one in scene.storage.list_recurring(after=after, limit=2)] for after in ("", "b", "d")
        ]

        assert [["a", "b"], ["c", "d"], []] == pages
        assert ["a", "b", "c", "d"] == [one.id for one in scene.storage.list_recurring()]

    def test_a_removed_definition_is_gone_and_its_jobs_stay(self, scene: Scene) -> None:
        """A removal is told once; jobs it made stay; the id may be defined anew.

        If this fails: a removed definition fires again, or takes its jobs with it.
        """
        first = _stored(scene)
        _, job_id = _fire(scene, first)

        removed = [scene.storage.remove_recurring("nightly"), scene.storage.remove_recurring("nightly")]

        assert [True, False] == removed
        assert scene.storage.get_recurring("nightly") is None
        assert ([], State.ENQUEUED) == (scene.storage.list_recurring(), scene.state(job_id))
        scene.advance(7_200)
        assert [] == scene.storage.due_recurring(10)
        assert 1 == _stored(scene).version

    def test_due_definitions_come_longest_due_first(self, scene: Scene) -> None:
        """Due is what has come by the storage's clock, the longest due first, within the limit.

        If this fails: definitions run early, or a late one waits behind fresh ones.
        """
        for name, hour in (("b", 3), ("a", 2), ("c", 1), ("later", 9)):
            _stored(scene, name, next_at=BASE + hour * HOUR)
        early = scene.storage.due_recurring(10)
        scene.advance(5 * 3_600)

        due = scene.storage.due_recurring(10)

        assert ([], ["c", "a", "b"]) == (early, [one.id for one in due])
        assert ["c", "a"] == [one.id for one in scene.storage.due_recurring(2)]
        assert scene.storage.get_recurring("c") == due[0]

    def test_paused_and_finished_definitions_are_never_due(self, scene: Scene) -> None:
        """A definition that is paused, or has no next instant, is not due.

        If this fails: an operator cannot stop a recurring job.
        """
        _stored(scene, "paused", is_paused=True)
        _stored(scene, "over", next_at=None)
        scene.advance(7_200)

        assert [] == scene.storage.due_recurring(10)
        assert scene.storage.promote(10).next_due_at is None

    def test_firing_stores_the_jobs_and_moves_on(self, scene: Scene) -> None:
        """A firing makes its jobs and replaces the progress; the definition and its version stay.

        If this fails: instants are lost, or a firing undoes an edit.
        """
        recurring = _stored(scene)
        job = scene.new_job(recurring_id="nightly", nominal_at=BASE + HOUR)
        moved = attrs.evolve(
            recurring, next_at=BASE + 2 * HOUR, last_at=BASE + HOUR, last_job_id=job.id, error="late",
            queue="not written", priority=99,
        )  # fmt: skip

        fired = scene.storage.fire_recurring(moved, BASE + HOUR, [job])

        assert fired
        assert attrs.evolve(moved, queue="default", priority=0) == scene.storage.get_recurring("nightly")
        scene.check(job.id, state=State.ENQUEUED, recurring_id="nightly", nominal_at=BASE + HOUR)
        assert [job.id] == scene.claim_ids()

    def test_an_instant_fires_once(self, scene: Scene) -> None:
        """A second server that read the same definition fires nothing.

        If this fails: a nightly report is sent by every server.
        """
        recurring = _stored(scene)

        first, second = _fire(scene, recurring), _fire(scene, recurring)

        assert (True, False) == (first[0], second[0])
        assert [State.ENQUEUED, None] == [
            job and job.state for job in scene.storage.get([first[1], second[1]])
        ]

    @pytest.mark.parametrize("how", ["edited", "paused", "removed", "another instant"])
    def test_a_firing_needs_what_was_read(self, scene: Scene, how: str) -> None:
        """A definition that was edited, paused, removed or moved since it was read does not fire.

        If this fails: an operator's pause or edit is overtaken by a server that read before it.
        """
        recurring = _stored(scene)
        match how:
            case "edited":
                scene.storage.put_recurring(attrs.evolve(recurring, queue="mail"), keep_progress=True)
            case "paused":
                paused = attrs.evolve(recurring, is_paused=True)
                stored = scene.storage.put_recurring(paused, keep_progress=True)
                assert stored is not None
                recurring = stored
            case "removed":
                scene.storage.remove_recurring("nightly")
            case _:
                pass
        before = scene.storage.get_recurring("nightly")
        expected = BASE + 7 * HOUR if how == "another instant" else None

        fired, job_id = _fire(scene, recurring, expected_next_at=expected)

        assert not fired
        assert [None] == scene.storage.get([job_id])
        assert before == scene.storage.get_recurring("nightly")

    def test_a_firing_may_make_no_job_or_one_that_is_there(self, scene: Scene) -> None:
        """Progress moves on where an instant is skipped, and where its job was stored by a try that died.

        If this fails: a skipped instant is due for ever, or a job is made twice after a crash.
        """
        recurring = _stored(scene)
        job = scene.new_job(recurring_id="nightly")
        scene.storage.insert([job])
        second = attrs.evolve(recurring, next_at=BASE + 2 * HOUR)
        third = attrs.evolve(recurring, next_at=BASE + 3 * HOUR)

        repeated = scene.storage.fire_recurring(second, BASE + HOUR, [job])
        skipped = scene.storage.fire_recurring(third, BASE + 2 * HOUR, [])

        assert (True, True) == (repeated, skipped)
        stored = scene.storage.get_recurring("nightly")
        assert stored is not None
        assert (BASE + 3 * HOUR, 1) == (stored.next_at, len(scene.claim(scene.begin())))
