"""Tests of unique keys: one job has a key at a time, and other calls with the key are its duplicates."""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs
import pytest

from firelock.errors import DuplicateJob, JobNotFound
from firelock.model.answers import Duplicate
from firelock.model.dependencies import Edge
from firelock.model.job import JobRecord, NewJob
from firelock.model.limit import LimitUse, UniqueUse, Until
from firelock.model.state import State
from firelock.storage import Applied, Feature
from firelock.testing.conformance.kit import requires
from firelock.testing.conformance.scene import (
    BASE,
    HOUR,
    Running,
    Scene,
    asks,
    deletes,
    fails,
    gives_up,
    hands_back,
    requeues,
    reschedules,
    restores,
    retries,
    snoozes,
    succeeds,
)
from firelock.testing.conformance.storage.subject import StorageFixtures

# The stored form is the name of the task, a space and the key. With partitions, keys with the same beginning
# are in one partition.
K, L = "tasks.run kit/k", "tasks.run kit/l"

_ENDED, _STARTED, _SUCCEEDED, _DUE = Until.ENDED, Until.STARTED, Until.SUCCEEDED, Until.DUE
_DELAYED = {"state": State.SCHEDULED, "due_at": BASE + 99 * HOUR}  # stored in a different way


def _job(scene: Scene, use: UniqueUse | str = K, *limits: str | LimitUse, **fields: object) -> NewJob:
    """Return a new job with this unique key; a debounced job is due after its wait."""
    unique = UniqueUse(use) if isinstance(use, str) else use
    if unique.wait is not None:
        now = scene.now()
        due = {"state": State.SCHEDULED, "created_at": now, "due_at": now + unique.wait}
        fields = {**due, **fields}
    late = {name: fields.pop(name, None) for name in ("start_before", "start_within")}
    admission = asks(*limits, unique=unique, **late)  # type: ignore[arg-type]  # times
    return scene.new_job(admission=admission, **fields)


def _call(scene: Scene, use: UniqueUse | str = K, **fields: object) -> str | None:
    """Store a job with the key and return None, or return the id of the job of which it is a duplicate."""
    job = _job(scene, use, **fields)
    (answer,) = scene.storage.insert([job]).is_new
    assert bool(answer) == (scene.storage.get([job.id]) != [None])
    if answer:
        return None
    assert isinstance(answer, Duplicate), f"the storage answers {answer!r} for a job whose key is taken"
    return answer.job_id


def _holder(scene: Scene, use: UniqueUse | str = K, **fields: object) -> str:
    """Store a job that gets the key; return its id."""
    job = _job(scene, use, **fields)
    assert [True] == list(scene.storage.insert([job]).is_new)
    return job.id


def _all_records(scene: Scene, *ids: str) -> list[tuple[JobRecord | None, object]]:
    return [
        (record, scene.history(job_id)) for job_id, record in zip(ids, scene.storage.get(ids), strict=True)
    ]


class UniqueTests(StorageFixtures):
    """Tests of unique keys."""

    verbs = "find_unique"
    needs = Feature.UNIQUE

    def test_duplicate_call_returns_the_holder_of_the_key(self, scene: Scene) -> None:
        """A call whose key is taken stores nothing, and returns the id of the job that has the key.

        If this fails: an index is rebuilt as often as a rebuild is requested.
        """
        job_id = _holder(scene)
        before = _all_records(scene, job_id)

        answers = [_call(scene) for _ in range(3)]

        assert [job_id] * 3 == answers
        assert before == _all_records(scene, job_id)
        assert {State.ENQUEUED: 1} == scene.by_state()
        assert [job_id] == scene.claim_ids()

    def test_different_unique_keys_are_independent(self, scene: Scene) -> None:
        """Two keys are the same only if their strings are equal; jobs without a key are never duplicates.

        If this fails: one customer's job is treated as a duplicate of another's.
        """
        keys = ["kit/k", "kit/K", "kit/k ", "kit/ḱ", "kit/k%", "kit/_", "kit/" + "ü" * 96, "kit/" + "ü" * 95]
        uses = [UniqueUse(f"{task} {key}") for task in ("tasks.run", "tasks.walk") for key in keys]

        first = [_call(scene, use) for use in uses]
        again = [_call(scene, use) for use in uses]
        plain = scene.add_many(2, colocate_with=K)

        assert [None] * len(uses) == first
        assert len(uses) == len({*again} - {None})
        assert {State.ENQUEUED: len(uses) + len(plain)} == scene.by_state()

    @pytest.mark.parametrize("until", [_ENDED, _SUCCEEDED])
    @pytest.mark.parametrize("state", ["awaiting", "scheduled", "enqueued", "running", "retrying", "snoozed"])
    def test_unfinished_job_has_its_unique_key(self, scene: Scene, until: Until, state: str) -> None:
        """A job has its key while it waits for anything, and while it runs.

        If this fails: the same work is done twice at the same time, or again after a retry.
        """
        use = UniqueUse(K, until)
        due_at = scene.now() + HOUR
        match state:
            case "awaiting":
                parent = scene.schedule(3_600, colocate_with=K)
                job_id = _holder(scene, use, state=State.AWAITING, parents=(Edge(parent),))
            case "scheduled":
                job_id = _holder(scene, use, state=State.SCHEDULED, due_at=due_at)
            case _:
                job_id = _holder(scene, use)
        if state in ("running", "retrying", "snoozed"):
            running = scene.run(job_id=job_id)
            if state == "retrying":
                scene.settle(retries(running, due_at=due_at))
            if state == "snoozed":
                scene.settle(snoozes(running, due_at=due_at))

        assert job_id == _call(scene, use)

    @pytest.mark.parametrize(
        ("until", "end", "is_free"),
        [
            (_ENDED, "succeeds", True), (_ENDED, "fails", True), (_ENDED, "gives up", True),
            (_ENDED, "deleted", True), (_SUCCEEDED, "succeeds", True), (_SUCCEEDED, "fails", False),
            (_SUCCEEDED, "gives up", True), (_SUCCEEDED, "deleted", True), (_STARTED, "deleted", True),
        ],
    )  # fmt: skip
    def test_end_of_a_job_frees_its_key(self, scene: Scene, until: Until, end: str, is_free: bool) -> None:
        """A key is free when its job has ended; a key taken until success stays taken after a failure.

        If this fails: a key is taken forever, or failed work that must not be repeated is done again.
        """
        use = UniqueUse(K, until)
        job_id = _holder(scene, use)
        if end == "deleted":
            scene.settle(deletes(job_id))
        else:
            ends: dict[str, Callable[[Running], object]] = {
                "succeeds": succeeds, "fails": fails, "gives up": gives_up
            }  # fmt: skip
            scene.settle(ends[end](scene.run(job_id=job_id)))  # type: ignore[arg-type]  # a transition

        assert (None if is_free else job_id) == _call(scene, use)

    def test_delete_of_a_failed_job_frees_its_key(self, scene: Scene) -> None:
        """A failed job that keeps its key until success frees the key when it is deleted.

        If this fails: a failure blocks its key forever.
        """
        use = UniqueUse(K, _SUCCEEDED)
        job_id = scene.settle(fails(scene.run(job_id=_holder(scene, use))))
        assert job_id == _call(scene, use)

        scene.settle(deletes(job_id))

        assert _call(scene, use) is None

    @pytest.mark.parametrize("is_delayed", [False, True])
    @pytest.mark.parametrize("how", ["pruned", "cleared"])
    def test_pruned_job_has_no_key(self, scene: Scene, how: str, is_delayed: bool) -> None:
        """A job that was pruned or cleared has no key, not even one that it kept after its failure.

        If this fails: a key is taken by a job that cannot be found.
        """
        use = UniqueUse(K, _SUCCEEDED)
        running = scene.run(job_id=_holder(scene, use))
        job_id = scene.settle(fails(running, expires_at=BASE - HOUR))
        assert job_id == _call(scene, use)

        if how == "pruned":
            assert 1 == scene.prune()
        else:
            scene.storage.clear()

        assert _call(scene, use, **(_DELAYED if is_delayed else {})) is None

    # ---- keys until the start ----------------------------------------------------------------------------

    def test_key_taken_until_the_start_is_free_after_the_claim(self, scene: Scene) -> None:
        """A key taken until its job starts is free after the claim, and a retry does not take it again.

        If this fails: a change that arrives while an index is rebuilt is never included.
        """
        use = UniqueUse(K, _STARTED)
        job_id = _holder(scene, use)
        before = _call(scene, use)
        first = scene.run(job_id=job_id)

        second = _holder(scene, use)
        scene.settle(retries(first, due_at=scene.now() + HOUR))

        assert (job_id, second) == (before, _call(scene, use))
        scene.settle(deletes(second))
        assert _call(scene, use) is None

    @pytest.mark.parametrize("is_delayed", [False, True])
    @pytest.mark.parametrize(
        ("how", "is_free"), [("hand-back", False), ("not started", False), ("crash", True), ("retry", True)]
    )
    def test_claim_without_a_start_does_not_free_the_key(
        self, scene: Scene, how: str, is_free: bool, is_delayed: bool
    ) -> None:
        """A claimed job that returns without a start gets its key again, but not after a start and a crash.

        If this fails: a server that stops causes a second job, or a call is lost after a crash.
        """
        use = UniqueUse(K, _STARTED)
        job_id = _holder(scene, use)
        holder = scene.begin()
        running = scene.run(holder, job_id)
        match how:
            case "hand-back":
                scene.settle(hands_back(running))
            case "not started":
                scene.lose(holder, running=[])
            case "crash":
                scene.lose(holder)
            case _:
                scene.settle(retries(running))

        assert (None if is_free else job_id) == _call(scene, use, **(_DELAYED if is_delayed else {}))

    def test_handed_back_job_does_not_get_a_taken_key(self, scene: Scene) -> None:
        """If another job took the key in the meantime, a job that is handed back does not get it again.

        If this fails: two jobs have one key, or the later call is lost.
        """
        use = UniqueUse(K, _STARTED)
        running = scene.run(job_id=_holder(scene, use))
        second = _holder(scene, use)

        scene.settle(hands_back(running))

        assert second == _call(scene, use)

    def test_requeued_job_has_its_key_until_its_next_claim(self, scene: Scene) -> None:
        """A job that ran and was requeued has the key until its next claim.

        If this fails: a requeued job and a new one wait at the same time.
        """
        use = UniqueUse(K, _STARTED)
        running = scene.run(job_id=_holder(scene, use))
        job_id = scene.settle(fails(running))
        scene.settle(requeues(job_id))

        while_it_waits = _call(scene, use)
        scene.run(job_id=job_id)

        assert job_id == while_it_waits
        assert _call(scene, use) is None

    # ---- keys for a time ---------------------------------------------------------------------------------

    @pytest.mark.parametrize("end", ["succeeds", "deleted", "pruned", "runs"])
    @pytest.mark.parametrize("until", [_ENDED, _STARTED])
    def test_key_stays_taken_for_its_minimum_time(self, scene: Scene, end: str, until: Until) -> None:
        """A key taken for a time stays taken for this time after the call, even if its job ends or is pruned.

        After that time only the state of its job counts.

        If this fails: work that should be done once a minute is done as often as it is requested.
        """
        use = UniqueUse(K, until, at_least=HOUR)
        job_id = _holder(scene, use)
        if end == "deleted":
            scene.settle(deletes(job_id))
        else:
            running = scene.run(job_id=job_id)
            if end != "runs":
                scene.settle(succeeds(running, expires_at=BASE - HOUR))
        if end == "pruned":
            assert 1 == scene.prune()

        early = _call(scene, use)
        scene.advance(3_500)
        still = _call(scene, use)
        scene.advance(200)
        later = _call(scene, use)

        assert (job_id, job_id) == (early, still)
        assert later == (job_id if end == "runs" and until is _ENDED else None)

    def test_duplicate_call_does_not_extend_the_minimum_time(self, scene: Scene) -> None:
        """A duplicate call does not extend the time for which the key is taken.

        If this fails: work that is requested often enough is never done again.
        """
        use = UniqueUse(K, at_least=HOUR)
        scene.settle(succeeds(scene.run(job_id=_holder(scene, use))))

        answers = []
        for _ in range(5):
            scene.advance(900)
            answers.append(_call(scene, use))

        assert [False] * 3 == [answer is None for answer in answers[:3]]
        assert [True, False] == [answer is None for answer in answers[3:]]

    # ---- arguments of the last call ------------------------------------------------------------------------

    @pytest.mark.parametrize("state", [State.ENQUEUED, State.SCHEDULED, State.AWAITING])
    def test_last_call_replaces_a_job_that_has_not_started(self, scene: Scene, state: State) -> None:
        """The last call replaces only the arguments, tags, priority and limits of the waiting job.

        If this fails: a job runs with outdated arguments, or in the wrong position.
        """
        use = UniqueUse(K, _STARTED, keeps_last=True)
        waits: dict[str, object] = {}
        if state is State.SCHEDULED:
            waits = {"state": state, "due_at": BASE + 9 * HOUR}
        if state is State.AWAITING:
            waits = {"state": state, "parents": (Edge(scene.schedule(3_600, colocate_with=K)),)}
        first = _job(
            scene, use, "kit/a", arguments="[1]", tags=("one",), priority=1, timeout_seconds=3.0, **waits
        )
        scene.storage.insert([first])
        before = scene.record(first.id)

        last = _job(scene, use, "kit/b", arguments="[2]", tags=("two", "b"), priority=7, queue="other")
        (answer,) = scene.storage.insert([last]).is_new

        assert Duplicate(first.id) == answer
        assert attrs.evolve(
            before, arguments="[2]", tags=("two", "b"), priority=7, admission_json=last.admission_json
        ) == scene.record(first.id)  # fmt: skip

    def test_replaced_job_waits_in_its_new_lane_and_place(self, scene: Scene) -> None:
        """A job whose limits and priority were replaced waits in the new lane, at the new position.

        If this fails: a job is found in its old lane or position, or not at all.
        """
        use = UniqueUse(K, _STARTED, keeps_last=True)
        with_limits = Feature.LIMITS in scene.storage.features
        limits: list[list[str]] = [["kit/a"], ["kit/b"], []] if with_limits else [[], [], []]
        first = _job(scene, use, *limits[0], tags=("old",))
        scene.storage.insert([first])
        other = scene.add(colocate_with=K, priority=5)

        for lane, tag in zip(limits[1:], ("new", "newest"), strict=True):
            scene.storage.insert([_job(scene, use, *lane, priority=9, tags=(tag,), arguments=f'["{tag}"]')])
        holder = scene.begin()

        (claimed,) = scene.claim(holder, 1)
        assert (first.id, '["newest"]', ("newest",), 9) == (
            claimed.id, claimed.arguments, claimed.tags, claimed.priority
        )  # fmt: skip
        assert [other] == scene.claim_ids(holder)

    def test_duplicate_calls_are_merged_into_one_history_entry(self, scene: Scene) -> None:
        """All calls that change the waiting job share one entry of its history, which counts them.

        If this fails: people cannot see that calls were merged, or the calls fill the history.
        """
        use = UniqueUse(K, _STARTED, keeps_last=True)
        job_id = _holder(scene, use)

        lengths, counts = [], []
        for number in range(12):
            _call(scene, use, arguments=f"[{number}]")
            entries = scene.history(job_id)
            lengths.append(len(entries))
            found = re.match(r"(\d+) duplicate call", entries[-1].reason or "")
            counts.append(int(found[1]) if found else None)

        assert [2] * 12 == lengths
        assert list(range(1, 13)) == counts
        assert State.ENQUEUED is scene.last_entry(job_id).state

    def test_duplicate_changes_nothing_without_keeps_last(self, scene: Scene) -> None:
        """Without `keeps_last` a duplicate changes neither the job that has the key nor its history.

        If this fails: a job runs with the arguments of a call that was reported as a duplicate.
        """
        job_id = _holder(scene, UniqueUse(K, _STARTED), arguments="[1]")
        before = _all_records(scene, job_id)

        _call(scene, UniqueUse(K, _STARTED), arguments="[2]", tags=("x",), priority=9)

        assert before == _all_records(scene, job_id)

    @pytest.mark.parametrize("how", ["claimed", "taken for a time"])
    def test_claimed_job_is_not_replaced(self, scene: Scene, how: str) -> None:
        """A job that runs or ran keeps its arguments, even if its key is still taken.

        If this fails: a retry runs with the arguments of another call.
        """
        use = UniqueUse(K, _ENDED if how == "claimed" else _STARTED, at_least=HOUR, keeps_last=True)
        job_id = _holder(scene, use, arguments="[1]")
        running = scene.run(job_id=job_id)
        if how != "claimed":
            scene.settle(retries(running))
        before = scene.record(job_id)

        assert job_id == _call(scene, use, arguments="[2]")
        assert before == scene.record(job_id)

    def test_handed_back_job_gets_the_arguments_of_the_last_call(self, scene: Scene) -> None:
        """A job that was handed back before it started has its key, and gets the last call's arguments.

        If this fails: a call is reported as a duplicate, and its arguments are lost.
        """
        use = UniqueUse(K, _STARTED, keeps_last=True)
        job_id = _holder(scene, use, arguments="[1]")
        scene.settle(hands_back(scene.run(job_id=job_id)))

        assert job_id == _call(scene, use, arguments="[2]")
        scene.check(job_id, arguments="[2]")

    # ---- debounced jobs ----------------------------------------------------------------------------------

    def test_debounced_job_waits_until_calls_have_stopped(self, scene: Scene) -> None:
        """Each call moves the due time to its own `wait` from now, and the last call's arguments are used.

        If this fails: a document is saved while its author types, or without the last changes.
        """
        use = UniqueUse(K, _DUE, keeps_last=True, wait=HOUR)
        job_id = _holder(scene, use, arguments="[0]")

        for number in (1, 2, 3):
            scene.advance(3_000)
            before = scene.now()
            assert job_id == _call(scene, use, arguments=f"[{number}]")
            due_at = scene.record(job_id).due_at
            assert due_at is not None
            assert before + HOUR <= due_at <= scene.now() + HOUR
        scene.advance(3_000)
        assert 0 == scene.promote().promoted
        scene.advance(700)
        assert 1 == scene.promote().promoted

        (claimed,) = scene.claim(scene.begin())
        assert (job_id, "[3]") == (claimed.id, claimed.arguments)

    def test_debounced_job_waits_at_most_max_wait(self, scene: Scene) -> None:
        """However often it is called, a debounced job is due at most `max_wait` after the first call.

        If this fails: nothing is saved while the author of a document types.
        """
        use = UniqueUse(K, _DUE, keeps_last=True, wait=HOUR, max_wait=2 * HOUR)
        began = scene.now()
        job_id = _holder(scene, use)
        latest = scene.now() + 2 * HOUR

        for _ in range(3):
            scene.advance(2_000)
            _call(scene, use)

        due_at = scene.record(job_id).due_at
        assert due_at is not None
        assert began + 2 * HOUR <= due_at <= latest
        scene.advance(1_500)
        assert 1 == scene.promote().promoted

    def test_throttled_calls_do_not_change_the_due_time(self, scene: Scene) -> None:
        """If `max_wait` equals `wait`, later calls do not change the due time, but their arguments are used.

        If this fails: throttling delays work that must be done on time.
        """
        use = UniqueUse(K, _DUE, keeps_last=True, wait=HOUR, max_wait=HOUR)
        job_id = _holder(scene, use, arguments="[0]")
        due_at = scene.record(job_id).due_at

        scene.advance(1_800)
        _call(scene, use, arguments="[1]")

        scene.check(job_id, due_at=due_at, arguments="[1]")

    def test_debounced_job_keeps_its_first_arguments_without_keeps_last(self, scene: Scene) -> None:
        """Without `keeps_last`, a call delays the job and does not change anything else.

        If this fails: the arguments of a later call are used instead of those of the first call.
        """
        use = UniqueUse(K, _DUE, wait=HOUR)
        job_id = _holder(scene, use, arguments="[0]", tags=("a",))
        before = scene.record(job_id)
        scene.advance(1_800)

        _call(scene, use, arguments="[1]", tags=("b",), priority=3)

        after = scene.record(job_id)
        assert (after.due_at or 0) >= (before.due_at or 0) + HOUR // 2
        assert before == attrs.evolve(after, due_at=before.due_at)

    @pytest.mark.parametrize("how", ["promoted", "claimed", "retrying", "deleted", "handed back"])
    def test_call_after_the_debounced_wait_is_a_new_job(self, scene: Scene, how: str) -> None:
        """After a debounced job was enqueued or deleted, another call creates a new job.

        If this fails: the last change is reported as a duplicate of a job that has begun without it.
        """
        use = UniqueUse(K, _DUE, keeps_last=True, wait=HOUR)
        job_id = _holder(scene, use, arguments="[0]")
        if how == "deleted":
            scene.settle(deletes(job_id))
        else:
            scene.advance(3_700)
            scene.promote()
        if how in ("claimed", "retrying", "handed back"):
            running = scene.run(job_id=job_id)
            if how == "retrying":
                scene.settle(retries(running, due_at=scene.now() + HOUR))
            if how == "handed back":
                scene.settle(hands_back(running))
        before = scene.record(job_id)

        assert _call(scene, use, arguments="[1]") is None
        assert before == scene.record(job_id)

    def test_next_due_time_follows_a_delayed_debounced_job(self, scene: Scene) -> None:
        """After a call, the next due time is that of the delayed job.

        If this fails: servers wake unnecessarily, or too late.
        """
        use = UniqueUse(K, _DUE, keeps_last=True, wait=HOUR)
        job_id = _holder(scene, use)
        scene.advance(1_800)
        _call(scene, use)

        claim = scene.storage.claim(scene.request(scene.begin()))

        assert scene.record(job_id).due_at == claim.next_due_at
        scene.settle(reschedules(job_id, due_at=BASE + 50 * HOUR))
        assert job_id == _call(scene, use)

    # ---- refused calls -----------------------------------------------------------------------------------

    def test_duplicate_with_raises_raises_duplicate_job(self, scene: Scene) -> None:
        """With `raises`, a duplicate raises `DuplicateJob` with the job's id; nothing of its batch is stored.

        If this fails: a caller does not get the error that it requested, or half of a batch is stored.
        """
        use = UniqueUse(K, raises=True)
        job_id = _holder(scene, use)
        before = _all_records(scene, job_id)
        batch = [_job(scene, L), _job(scene, use), scene.new_job(colocate_with=K)]

        with pytest.raises(DuplicateJob) as caught:
            scene.storage.insert(batch)

        assert job_id == caught.value.job_id
        assert [None] * 3 == scene.storage.get([job.id for job in batch])
        assert before == _all_records(scene, job_id)
        assert _call(scene, L) is None

    @pytest.mark.parametrize("keeps_last", [True, False])
    def test_refused_insert_of_several_calls_changes_no_job(self, scene: Scene, keeps_last: bool) -> None:
        """If one call of a batch is refused, the batch changes no other job.

        If this fails: a failed call has replaced the arguments of a job, or delayed it.
        """
        last = UniqueUse(K, _STARTED, keeps_last=keeps_last)
        holders = [_holder(scene, last, arguments="[1]"), _holder(scene, L)]
        before = _all_records(scene, *holders)

        with pytest.raises(DuplicateJob):
            scene.storage.insert([_job(scene, last, arguments="[2]"), _job(scene, UniqueUse(L, raises=True))])

        assert before == _all_records(scene, *holders)

    @pytest.mark.parametrize("until", [_ENDED, _SUCCEEDED])
    def test_call_is_refused_while_a_deleted_job_has_a_tail(self, scene: Scene, until: Until) -> None:
        """If the job with the key was deleted and still runs, a call is refused; later it is stored.

        If this fails: a call is a duplicate of a job that will not run, or its job and the deleted one run at
        the same time.
        """
        use = UniqueUse(K, until)
        running = scene.run(job_id=_holder(scene, use))
        scene.settle(deletes(running.id))
        job = _job(scene, use)

        with pytest.raises(DuplicateJob) as caught:
            scene.storage.insert([scene.new_job(colocate_with=K), job])

        assert running.id == caught.value.job_id
        assert {State.DELETED: 1} == scene.by_state()
        scene.apply(succeeds(running))
        assert [True] == list(scene.storage.insert([job]).is_new)

    # ---- batches and repeated inserts ----------------------------------------------------------------------

    def test_calls_of_one_insert_are_processed_in_order(self, scene: Scene) -> None:
        """Of several calls of a batch with the same key, the first gets it, and the others are duplicates.

        If this fails: a batch of calls stores jobs that single calls would not store.
        """
        old = _holder(scene, L)
        jobs = [_job(scene, key) for key in (K, L, K)] + [scene.new_job(colocate_with=K), _job(scene, K)]

        answers = scene.storage.insert(jobs).is_new

        first = jobs[0].id
        assert [True, Duplicate(old), Duplicate(first), True, Duplicate(first)] == list(answers)
        assert [True, False, False, True, False] == [
            record is not None for record in scene.storage.get([job.id for job in jobs])
        ]

    def test_last_call_of_one_insert_replaces_the_first(self, scene: Scene) -> None:
        """With `keeps_last`, the stored job has the arguments of the last call of the batch.

        If this fails: a batch of calls runs with other arguments than single calls would.
        """
        use = UniqueUse(K, _STARTED, keeps_last=True)
        jobs = [_job(scene, use, arguments=f"[{number}]", priority=number) for number in range(4)]

        scene.storage.insert(jobs)

        scene.check(jobs[0].id, arguments="[3]", priority=3)
        assert [jobs[0].id] == scene.claim_ids()

    @pytest.mark.parametrize("is_last", [True, False])
    def test_repeated_insert_of_a_stored_id_ignores_its_key(self, scene: Scene, is_last: bool) -> None:
        """A repeated insert of a stored id returns False and changes nothing, whichever job has the key.

        If this fails: after a lost reply a job is a duplicate of itself, or later changes are undone.
        """
        use = UniqueUse(K, _STARTED, keeps_last=is_last, raises=not is_last)
        job = _job(scene, use, arguments="[1]")
        scene.storage.insert([job])
        if is_last:
            _call(scene, use, arguments="[2]")
        waiting = _all_records(scene, job.id)
        again = scene.storage.insert([job])
        after = _all_records(scene, job.id)
        scene.settle(succeeds(scene.run(job_id=job.id)))
        other = _holder(scene, use, arguments="[3]")
        before = _all_records(scene, job.id, other)

        late = scene.storage.insert([job, scene.new_job(colocate_with=K)])

        assert [False] == list(again.is_new)
        assert not isinstance(again.is_new[0], Duplicate)
        assert waiting == after
        assert [False, True] == list(late.is_new)
        assert not isinstance(late.is_new[0], Duplicate)
        assert before == _all_records(scene, job.id, other)

    def test_refused_insert_does_not_take_its_key(self, scene: Scene) -> None:
        """A job that is not stored because its parent is unknown does not take its key.

        If this fails: a key is taken by a job that was never stored.
        """
        parent = scene.new_job(colocate_with=K).id
        job = _job(scene, state=State.AWAITING, parents=(Edge(parent),))

        with pytest.raises(JobNotFound):
            scene.storage.insert([job])

        assert _call(scene) is None

    @requires(Feature.TRANSACTIONAL_ENQUEUE)
    @pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
    def test_unique_key_is_taken_when_the_transaction_commits(
        self, scene: Scene, open_transaction: object, commits: bool
    ) -> None:
        """A job inserted within a transaction has its key after the commit, and never after a rollback.

        If this fails: a key is taken by a job that was rolled back, or two jobs have it.
        """
        assert callable(open_transaction)
        job, again = _job(scene), _job(scene)

        with open_transaction(commits) as transaction:
            answers = [scene.storage.insert([one], within=transaction).is_new[0] for one in (job, again)]

        assert [True, Duplicate(job.id)] == answers
        assert (job.id if commits else None) == _call(scene)

    # ---- requeues and restores ---------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "how", ["requeue of a failure", "requeue of a success", "restore", "restore to wait"]
    )
    def test_requeue_is_refused_if_another_job_has_the_key(self, scene: Scene, how: str) -> None:
        """An ended job is requeued or restored only if its key is free.

        Otherwise nothing is written, and the result is `TAKEN`.

        If this fails: an operator creates two jobs with a key that only one job can have.
        """
        job_id = _holder(scene)
        match how:
            case "requeue of a failure":
                scene.settle(fails(scene.run(job_id=job_id)))
            case "requeue of a success":
                scene.settle(succeeds(scene.run(job_id=job_id)))
            case _:
                scene.settle(deletes(job_id))
        other = _holder(scene)
        before = _all_records(scene, job_id, other)
        change = {
            "restore": restores(job_id, State.ENQUEUED),
            "restore to wait": restores(job_id, State.SCHEDULED, due_at=BASE + HOUR),
        }.get(how, requeues(job_id))

        results = scene.storage.apply([change, change])

        assert [Applied.TAKEN] * 2 == results
        assert before == _all_records(scene, job_id, other)
        scene.settle(deletes(other))
        assert Applied.APPLIED is scene.apply(change)
        assert job_id == _call(scene)

    def test_ended_job_with_a_free_key_can_be_requeued(self, scene: Scene) -> None:
        """An ended job whose key no other job has taken can be requeued, and then has its key.

        If this fails: jobs with unique keys cannot be run again.
        """
        for use in (UniqueUse(K, _SUCCEEDED, at_least=HOUR), UniqueUse(L)):
            job_id = scene.settle(fails(scene.run(job_id=_holder(scene, use))))

            assert Applied.APPLIED is scene.apply(requeues(job_id))
            assert job_id == _call(scene, use)
            assert [job_id] == scene.claim_ids()

    def test_requeue_of_two_jobs_with_one_key_requeues_the_first(self, scene: Scene) -> None:
        """Of two ended jobs with one key that are requeued together, only the first is requeued.

        If this fails: a requeue of a list creates two jobs with one key.
        """
        ids = [scene.settle(fails(scene.run(job_id=_holder(scene)))) for _ in range(2)]

        results = scene.storage.apply([requeues(job_id) for job_id in ids])

        assert [Applied.APPLIED, Applied.TAKEN] == results
        assert [State.ENQUEUED, State.FAILED] == scene.states(*ids)

    def test_other_changes_do_not_depend_on_the_key(self, scene: Scene) -> None:
        """Retries, reschedules, requeues of waiting jobs and deletes do not depend on which job has the key.

        If this fails: a job cannot be deleted or ended, because another job has its key.
        """
        use = UniqueUse(K, _STARTED)
        running = scene.run(job_id=_holder(scene, use))
        other = _holder(scene, use)

        results = [scene.apply(change) for change in (retries(running, due_at=BASE + HOUR),)]
        results += [scene.apply(reschedules(running.id, due_at=BASE + 2 * HOUR))]
        results += [scene.apply(requeues(running.id)), scene.apply(deletes(running.id))]

        assert [Applied.APPLIED] * 4 == results
        assert other == _call(scene, use)

    # ---- late jobs, limits, lists ------------------------------------------------------------------------

    @pytest.mark.parametrize("how", ["start_before", "start_within"])
    @pytest.mark.parametrize("until", [_ENDED, _STARTED, _SUCCEEDED])
    def test_late_job_has_no_key(self, scene: Scene, how: str, until: Until) -> None:
        """A job that was not claimed before its start deadline no longer has its key.

        If this fails: calls are duplicates of a job that will be deleted without a run.
        """
        late = {"start_before": BASE + HOUR} if how == "start_before" else {"start_within": HOUR}
        use = UniqueUse(K, until)
        job_id = _holder(scene, use, **late)

        in_time = _call(scene, use)
        scene.advance(7_200)

        assert job_id == in_time
        assert _call(scene, use) is None

    def test_job_that_started_in_time_keeps_its_key(self, scene: Scene) -> None:
        """A job that started in time has its key through its retries, however late they are.

        If this fails: the same work is done twice at the same time, an hour later.
        """
        job_id = _holder(scene, start_before=BASE + HOUR)
        running = scene.run(job_id=job_id)
        scene.settle(retries(running))
        scene.advance(7_200)

        assert job_id == _call(scene)

    def test_unique_keys_are_listed_page_by_page(self, scene: Scene) -> None:
        """`find_unique` returns at most `limit` keys after `after`, ordered by code points, with their jobs.

        If this fails: people cannot see which job has a key, or pages skip some.
        """
        uses = [
            UniqueUse("B kit/a"), UniqueUse("a kit/A", at_least=HOUR), UniqueUse("a kit/_"),
            UniqueUse("a kit/a_b"), UniqueUse("a kit/axb"), UniqueUse("a kit/é"), UniqueUse("b other/😀"),
        ]  # fmt: skip
        before = scene.now()
        held = {use.key: _holder(scene, use) for use in reversed(uses)}
        keys = [use.key for use in uses]

        found = scene.storage.find_unique()

        assert keys == [state.key for state in found]
        assert held == {state.key: state.job_id for state in found}
        assert [False, True, *[False] * 5] == [state.free_at > before for state in found]
        assert ["a kit/a_b"] == [state.key for state in scene.storage.find_unique("a kit/a_")]
        assert ["a kit/a_b"] == [state.key for state in scene.storage.find_unique("a kit/a_b")]
        assert [] == scene.storage.find_unique("a kit/a_b", after="a kit/a_b")
        assert keys[2:4] == [state.key for state in scene.storage.find_unique("a ", after=keys[1], limit=2)]
        assert keys[5:] == [state.key for state in scene.storage.find_unique(after=keys[4])]
        assert [] == scene.storage.find_unique("c")

    def test_prune_deletes_the_keys_of_pruned_jobs(self, scene: Scene) -> None:
        """Pruning deletes a key whose job was pruned and whose time has passed.

        If this fails: the list of keys grows with each key that was ever used.
        """
        use = UniqueUse(K, at_least=HOUR)
        scene.settle(succeeds(scene.run(job_id=_holder(scene, use)), expires_at=BASE - HOUR))
        living = _holder(scene, L)
        scene.prune(100)
        kept = [state.key for state in scene.storage.find_unique()]
        scene.advance(7_200)

        for _ in range(3):
            scene.prune(100)

        assert [K, L] == kept
        assert [(L, living)] == [(state.key, state.job_id) for state in scene.storage.find_unique()]
