"""Unique keys: one job has a key at a time, and a call that comes meanwhile is answered by that job."""

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

# As stored: the task's name, a blank, the key. What they begin with lies together where there are partitions.
K, L = "tasks.run kit/k", "tasks.run kit/l"

_ENDED, _STARTED, _SUCCEEDED, _DUE = Until.ENDED, Until.STARTED, Until.SUCCEEDED, Until.DUE
_DELAYED = {"state": State.SCHEDULED, "due_at": BASE + 99 * HOUR}  # storages store these by another way


def _job(scene: Scene, use: UniqueUse | str = K, *limits: str | LimitUse, **fields: object) -> NewJob:
    """Return a new job that asks for the key; a debounced one is due after its wait."""
    unique = UniqueUse(use) if isinstance(use, str) else use
    if unique.wait is not None:
        now = scene.now()
        due = {"state": State.SCHEDULED, "created_at": now, "due_at": now + unique.wait}
        fields = {**due, **fields}
    late = {name: fields.pop(name, None) for name in ("start_before", "start_within")}
    admission = asks(*limits, unique=unique, **late)  # type: ignore[arg-type]  # instants
    return scene.new_job(admission=admission, **fields)


def _call(scene: Scene, use: UniqueUse | str = K, **fields: object) -> str | None:
    """A job that asks for the key is stored: return None; or the id of the one that answers for it."""
    job = _job(scene, use, **fields)
    (answer,) = scene.storage.insert([job]).is_new
    assert bool(answer) == (scene.storage.get([job.id]) != [None])
    if answer:
        return None
    assert isinstance(answer, Duplicate), f"the storage answers {answer!r} for a job whose key is taken"
    return answer.job_id


def _holder(scene: Scene, use: UniqueUse | str = K, **fields: object) -> str:
    """Return the id of a stored job that has the key."""
    job = _job(scene, use, **fields)
    assert [True] == list(scene.storage.insert([job]).is_new)
    return job.id


def _all_records(scene: Scene, *ids: str) -> list[tuple[JobRecord | None, object]]:
    return [
        (record, scene.history(job_id)) for job_id, record in zip(ids, scene.storage.get(ids), strict=True)
    ]


class UniqueDuty(StorageFixtures):
    """What a unique key promises."""

    verbs = "find_unique"
    needs = Feature.UNIQUE

    def test_a_duplicate_is_answered_by_the_job_that_has_the_key(self, scene: Scene) -> None:
        """A call whose key is taken stores nothing, and is answered by the id of the job that has it.

        If this fails: an index is rebuilt as often as somebody asks for it.
        """
        job_id = _holder(scene)
        before = _all_records(scene, job_id)

        answers = [_call(scene) for _ in range(3)]

        assert [job_id] * 3 == answers
        assert before == _all_records(scene, job_id)
        assert {State.ENQUEUED: 1} == scene.by_state()
        assert [job_id] == scene.claim_ids()

    def test_each_key_is_taken_by_itself(self, scene: Scene) -> None:
        """Keys are one only where they are the same text, and jobs without one have none.

        If this fails: one customer's job is taken for another's.
        """
        keys = ["kit/k", "kit/K", "kit/k ", "kit/ḱ", "kit/k%", "kit/_", "kit/" + "ü" * 96, "kit/" + "ü" * 95]
        uses = [UniqueUse(f"{task} {key}") for task in ("tasks.run", "tasks.walk") for key in keys]

        first = [_call(scene, use) for use in uses]
        again = [_call(scene, use) for use in uses]
        plain = scene.add_many(2, beside=K)

        assert [None] * len(uses) == first
        assert len(uses) == len({*again} - {None})
        assert {State.ENQUEUED: len(uses) + len(plain)} == scene.by_state()

    @pytest.mark.parametrize("until", [_ENDED, _SUCCEEDED])
    @pytest.mark.parametrize("state", ["awaiting", "scheduled", "enqueued", "running", "retrying", "snoozed"])
    def test_a_living_job_has_its_key(self, scene: Scene, until: Until, state: str) -> None:
        """Whatever a job waits for, and while it runs, its key is taken.

        If this fails: the same thing is done twice at once, or once more after a retry.
        """
        use = UniqueUse(K, until)
        due_at = scene.now() + HOUR
        match state:
            case "awaiting":
                parent = scene.schedule(3_600, beside=K)
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
    def test_an_end_frees_the_key(self, scene: Scene, until: Until, end: str, is_free: bool) -> None:
        """A key is free when its job has ended; one taken until success stays taken by a failure.

        If this fails: a key is taken for ever, or what failed is done again although it was not to be.
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

    def test_a_deleted_failure_frees_the_key(self, scene: Scene) -> None:
        """A failed job that keeps its key until success frees it when somebody deletes it.

        If this fails: a failure blocks its key for good.
        """
        use = UniqueUse(K, _SUCCEEDED)
        job_id = scene.settle(fails(scene.run(job_id=_holder(scene, use))))
        assert job_id == _call(scene, use)

        scene.settle(deletes(job_id))

        assert _call(scene, use) is None

    @pytest.mark.parametrize("is_delayed", [False, True])
    @pytest.mark.parametrize("how", ["pruned", "cleared"])
    def test_what_is_gone_has_no_key(self, scene: Scene, how: str, is_delayed: bool) -> None:
        """A job that was pruned, or whose store was cleared, has no key, not even one it kept by failing.

        If this fails: a key is taken by a job that nobody can find.
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

    # ---- until it started --------------------------------------------------------------------------------

    def test_a_start_frees_a_key_taken_until_then(self, scene: Scene) -> None:
        """A key taken until its job starts is free once it was claimed, and no retry takes it back.

        If this fails: a change that comes while an index is rebuilt is never in it.
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
    def test_only_a_real_start_frees_the_key(
        self, scene: Scene, how: str, is_free: bool, is_delayed: bool
    ) -> None:
        """A job that was claimed and never started has its key again; one that started and crashed has not.

        If this fails: a server that stops makes a second job of one, or a crash loses what came meanwhile.
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

    def test_a_job_handed_back_leaves_a_key_that_another_took(self, scene: Scene) -> None:
        """Where another job took the key meanwhile, one that is handed back does not get it again.

        If this fails: two jobs have one key, or the later call is lost.
        """
        use = UniqueUse(K, _STARTED)
        running = scene.run(job_id=_holder(scene, use))
        second = _holder(scene, use)

        scene.settle(hands_back(running))

        assert second == _call(scene, use)

    def test_a_requeued_job_has_the_key_until_it_starts_again(self, scene: Scene) -> None:
        """A job that ran and was requeued has the key until it is claimed the next time.

        If this fails: a requeued job and a new one stand beside each other.
        """
        use = UniqueUse(K, _STARTED)
        running = scene.run(job_id=_holder(scene, use))
        job_id = scene.settle(fails(running))
        scene.settle(requeues(job_id))

        while_it_waits = _call(scene, use)
        scene.run(job_id=job_id)

        assert job_id == while_it_waits
        assert _call(scene, use) is None

    # ---- for a time --------------------------------------------------------------------------------------

    @pytest.mark.parametrize("end", ["succeeds", "deleted", "pruned", "runs"])
    @pytest.mark.parametrize("until", [_ENDED, _STARTED])
    def test_a_key_is_taken_for_a_time_at_least(self, scene: Scene, end: str, until: Until) -> None:
        """A key taken for a time is so from when it was taken, whatever becomes of its job, and no longer.

        If this fails: what is to be done once a minute is done as often as it is asked for.
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

    def test_the_time_does_not_slide(self, scene: Scene) -> None:
        """A call that is a duplicate does not prolong the time for which the key is taken.

        If this fails: what is asked for often enough is never done again.
        """
        use = UniqueUse(K, at_least=HOUR)
        scene.settle(succeeds(scene.run(job_id=_holder(scene, use))))

        answers = []
        for _ in range(5):
            scene.advance(900)
            answers.append(_call(scene, use))

        assert [False] * 3 == [answer is None for answer in answers[:3]]
        assert [True, False] == [answer is None for answer in answers[3:]]

    # ---- the last call's arguments -------------------------------------------------------------------------

    @pytest.mark.parametrize("state", [State.ENQUEUED, State.SCHEDULED, State.AWAITING])
    def test_the_last_call_replaces_what_has_not_started(self, scene: Scene, state: State) -> None:
        """Arguments, tags, priority and limits of the last call replace those of the waiting job alone.

        If this fails: one runs with arguments that are out of date, or in the wrong place.
        """
        use = UniqueUse(K, _STARTED, keeps_last=True)
        waits: dict[str, object] = {}
        if state is State.SCHEDULED:
            waits = {"state": state, "due_at": BASE + 9 * HOUR}
        if state is State.AWAITING:
            waits = {"state": state, "parents": (Edge(scene.schedule(3_600, beside=K)),)}
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

    def test_a_replaced_job_runs_as_it_is_now(self, scene: Scene) -> None:
        """A job whose limits and priority were replaced waits in the lane, and at the place, of the new ones.

        If this fails: a job is found where it no longer is, or not at all.
        """
        use = UniqueUse(K, _STARTED, keeps_last=True)
        with_limits = Feature.LIMITS in scene.storage.features
        limits: list[list[str]] = [["kit/a"], ["kit/b"], []] if with_limits else [[], [], []]
        first = _job(scene, use, *limits[0], tags=("old",))
        scene.storage.insert([first])
        other = scene.add(beside=K, priority=5)

        for lane, tag in zip(limits[1:], ("new", "newest"), strict=True):
            scene.storage.insert([_job(scene, use, *lane, priority=9, tags=(tag,), arguments=f'["{tag}"]')])
        holder = scene.begin()

        (claimed,) = scene.claim(holder, 1)
        assert (first.id, '["newest"]', ("newest",), 9) == (
            claimed.id, claimed.arguments, claimed.tags, claimed.priority
        )  # fmt: skip
        assert [other] == scene.claim_ids(holder)

    def test_duplicate_calls_are_one_entry_with_a_count(self, scene: Scene) -> None:
        """Calls that change the waiting job have one entry of its history together, which counts them.

        If this fails: nobody can see that calls were merged, or they fill the history.
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

    def test_the_first_call_stays_unless_the_last_is_wanted(self, scene: Scene) -> None:
        """Without `keeps_last` a duplicate changes nothing of the job that has the key, nor of its history.

        If this fails: a job runs with arguments of a call that was told it is a duplicate.
        """
        job_id = _holder(scene, UniqueUse(K, _STARTED), arguments="[1]")
        before = _all_records(scene, job_id)

        _call(scene, UniqueUse(K, _STARTED), arguments="[2]", tags=("x",), priority=9)

        assert before == _all_records(scene, job_id)

    @pytest.mark.parametrize("how", ["claimed", "taken for a time"])
    def test_what_was_claimed_is_not_replaced(self, scene: Scene, how: str) -> None:
        """A job that runs or ran keeps its arguments, also where its key is still taken.

        If this fails: a retry runs with arguments of another call.
        """
        use = UniqueUse(K, _ENDED if how == "claimed" else _STARTED, at_least=HOUR, keeps_last=True)
        job_id = _holder(scene, use, arguments="[1]")
        running = scene.run(job_id=job_id)
        if how != "claimed":
            scene.settle(retries(running))
        before = scene.record(job_id)

        assert job_id == _call(scene, use, arguments="[2]")
        assert before == scene.record(job_id)

    def test_a_job_handed_back_takes_the_last_call(self, scene: Scene) -> None:
        """A job that was handed back unstarted has its key, and the arguments of the last call.

        If this fails: a call is told that it is a duplicate, and lost.
        """
        use = UniqueUse(K, _STARTED, keeps_last=True)
        job_id = _holder(scene, use, arguments="[1]")
        scene.settle(hands_back(scene.run(job_id=job_id)))

        assert job_id == _call(scene, use, arguments="[2]")
        scene.check(job_id, arguments="[2]")

    # ---- debounced ---------------------------------------------------------------------------------------

    def test_a_debounced_job_waits_until_calls_have_stopped(self, scene: Scene) -> None:
        """Each call puts the waiting job off by its wait, from now; the last one's arguments run.

        If this fails: a document is saved while somebody types, or not as it was at last.
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

    def test_a_debounced_job_waits_no_longer_than_it_may(self, scene: Scene) -> None:
        """However often it is called, a debounced job is due at the latest so long after the first call.

        If this fails: while somebody types nothing is ever saved.
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

    def test_a_throttled_call_waits_as_it_was(self, scene: Scene) -> None:
        """Where a job may wait no longer than its wait, later calls leave its instant; the last one counts.

        If this fails: throttling puts off what it should do at its time.
        """
        use = UniqueUse(K, _DUE, keeps_last=True, wait=HOUR, max_wait=HOUR)
        job_id = _holder(scene, use, arguments="[0]")
        due_at = scene.record(job_id).due_at

        scene.advance(1_800)
        _call(scene, use, arguments="[1]")

        scene.check(job_id, due_at=due_at, arguments="[1]")

    def test_a_debounced_job_may_keep_its_first_arguments(self, scene: Scene) -> None:
        """Without `keeps_last` a call puts the job off and changes nothing else of it.

        If this fails: the arguments of a later call run where those of the first were wanted.
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
    def test_a_call_after_the_wait_is_a_new_job(self, scene: Scene, how: str) -> None:
        """Once a debounced job is enqueued, whatever becomes of it, the next call is a job of its own.

        If this fails: the last change is told that it is a duplicate of one that has begun without it.
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

    def test_a_debounced_job_that_is_moved_wakes_in_time(self, scene: Scene) -> None:
        """After a call the next due instant is that of the job as it was put off.

        If this fails: servers wake for nothing, or too late.
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

    def test_a_call_that_is_to_be_refused_is(self, scene: Scene) -> None:
        """With `raises` a duplicate raises `DuplicateJob` with the job's id; nothing of the batch is stored.

        If this fails: a caller who wants to know is not told, or half of a batch is stored.
        """
        use = UniqueUse(K, raises=True)
        job_id = _holder(scene, use)
        before = _all_records(scene, job_id)
        batch = [_job(scene, L), _job(scene, use), scene.new_job(beside=K)]

        with pytest.raises(DuplicateJob) as caught:
            scene.storage.insert(batch)

        assert job_id == caught.value.job_id
        assert [None] * 3 == scene.storage.get([job.id for job in batch])
        assert before == _all_records(scene, job_id)
        assert _call(scene, L) is None

    @pytest.mark.parametrize("keeps_last", [True, False])
    def test_a_refused_batch_changes_no_other_job(self, scene: Scene, keeps_last: bool) -> None:
        """What a batch had changed of other jobs when one of its calls is refused is not changed.

        If this fails: a call that failed has replaced arguments, or put off a job.
        """
        last = UniqueUse(K, _STARTED, keeps_last=keeps_last)
        holders = [_holder(scene, last, arguments="[1]"), _holder(scene, L)]
        before = _all_records(scene, *holders)

        with pytest.raises(DuplicateJob):
            scene.storage.insert([_job(scene, last, arguments="[2]"), _job(scene, UniqueUse(L, raises=True))])

        assert before == _all_records(scene, *holders)

    @pytest.mark.parametrize("until", [_ENDED, _SUCCEEDED])
    def test_a_tail_refuses_a_call(self, scene: Scene, until: Until) -> None:
        """Where the job that has the key was deleted and still runs, a call is refused; then it is stored.

        If this fails: a call is answered by a job that nothing will run, or runs beside it.
        """
        use = UniqueUse(K, until)
        running = scene.run(job_id=_holder(scene, use))
        scene.settle(deletes(running.id))
        job = _job(scene, use)

        with pytest.raises(DuplicateJob) as caught:
            scene.storage.insert([scene.new_job(beside=K), job])

        assert running.id == caught.value.job_id
        assert {State.DELETED: 1} == scene.by_state()
        scene.apply(succeeds(running))
        assert [True] == list(scene.storage.insert([job]).is_new)

    # ---- batches and repeats -------------------------------------------------------------------------------

    def test_a_batch_counts_as_one_call_after_another(self, scene: Scene) -> None:
        """Of several calls of a batch that ask for a key the first gets it, and answers for the others.

        If this fails: a bulk of calls stores what single ones would not.
        """
        old = _holder(scene, L)
        jobs = [_job(scene, key) for key in (K, L, K)] + [scene.new_job(beside=K), _job(scene, K)]

        answers = scene.storage.insert(jobs).is_new

        first = jobs[0].id
        assert [True, Duplicate(old), Duplicate(first), True, Duplicate(first)] == list(answers)
        assert [True, False, False, True, False] == [
            record is not None for record in scene.storage.get([job.id for job in jobs])
        ]

    def test_the_last_of_a_batch_replaces_the_first(self, scene: Scene) -> None:
        """Where the last call counts, it is that of the batch whose arguments the stored job has.

        If this fails: a bulk of calls runs with other arguments than single ones would.
        """
        use = UniqueUse(K, _STARTED, keeps_last=True)
        jobs = [_job(scene, use, arguments=f"[{number}]", priority=number) for number in range(4)]

        scene.storage.insert(jobs)

        scene.check(jobs[0].id, arguments="[3]", priority=3)
        assert [jobs[0].id] == scene.claim_ids()

    @pytest.mark.parametrize("is_last", [True, False])
    def test_a_repeat_of_what_was_stored_is_not_judged(self, scene: Scene, is_last: bool) -> None:
        """A job that is sent again under its own id answers False and touches nothing, whatever has its key.

        If this fails: a lost reply makes a job its own duplicate, or undoes what came meanwhile.
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

        late = scene.storage.insert([job, scene.new_job(beside=K)])

        assert [False] == list(again.is_new)
        assert not isinstance(again.is_new[0], Duplicate)
        assert waiting == after
        assert [False, True] == list(late.is_new)
        assert not isinstance(late.is_new[0], Duplicate)
        assert before == _all_records(scene, job.id, other)

    def test_a_refused_insert_takes_no_key(self, scene: Scene) -> None:
        """A job that is not stored, as its parent is unknown, takes no key.

        If this fails: a key is taken by a job that never was.
        """
        parent = scene.new_job(beside=K).id
        job = _job(scene, state=State.AWAITING, parents=(Edge(parent),))

        with pytest.raises(JobNotFound):
            scene.storage.insert([job])

        assert _call(scene) is None

    @requires(Feature.TRANSACTIONAL_ENQUEUE)
    @pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
    def test_a_key_follows_the_callers_transaction(
        self, scene: Scene, open_transaction: object, commits: bool
    ) -> None:
        """A key is taken by a job of a transaction after its commit, and never after its rollback.

        If this fails: a key is taken by a job that was rolled back, or two jobs have it.
        """
        assert callable(open_transaction)
        job, again = _job(scene), _job(scene)

        with open_transaction(commits) as transaction:
            answers = [scene.storage.insert([one], within=transaction).is_new[0] for one in (job, again)]

        assert [True, Duplicate(job.id)] == answers
        assert (job.id if commits else None) == _call(scene)

    # ---- living again ------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "how", ["requeue of a failure", "requeue of a success", "restore", "restore to wait"]
    )
    def test_a_job_whose_key_another_has_stays_ended(self, scene: Scene, how: str) -> None:
        """A job that ended lives again only where its key is free; else it is TAKEN, and nothing is written.

        If this fails: an operator makes two jobs of a key that one was to have.
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

    def test_the_holder_itself_may_live_again(self, scene: Scene) -> None:
        """A job that ended, and whose key nobody took since, is requeued and has it.

        If this fails: what has a unique key cannot be run again.
        """
        for use in (UniqueUse(K, _SUCCEEDED, at_least=HOUR), UniqueUse(L)):
            job_id = scene.settle(fails(scene.run(job_id=_holder(scene, use))))

            assert Applied.APPLIED is scene.apply(requeues(job_id))
            assert job_id == _call(scene, use)
            assert [job_id] == scene.claim_ids()

    def test_a_requeue_of_two_takes_one(self, scene: Scene) -> None:
        """Of two ended jobs of a key that are requeued together the first lives.

        If this fails: requeuing a list makes two jobs of one key.
        """
        ids = [scene.settle(fails(scene.run(job_id=_holder(scene)))) for _ in range(2)]

        results = scene.storage.apply([requeues(job_id) for job_id in ids])

        assert [Applied.APPLIED, Applied.TAKEN] == results
        assert [State.ENQUEUED, State.FAILED] == scene.states(*ids)

    def test_no_other_change_asks_for_the_key(self, scene: Scene) -> None:
        """Deletes, moves and ends go on as ever, whoever has the key.

        If this fails: a job cannot be deleted or ended, as another has its key.
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

    @pytest.mark.parametrize("how", ["instant", "span"])
    @pytest.mark.parametrize("until", [_ENDED, _STARTED, _SUCCEEDED])
    def test_a_late_job_has_no_key(self, scene: Scene, how: str, until: Until) -> None:
        """A job that was not claimed by the instant it is to start before has its key no more.

        If this fails: calls are answered by a job that will be deleted unrun.
        """
        late = {"start_before": BASE + HOUR} if how == "instant" else {"start_within": HOUR}
        use = UniqueUse(K, until)
        job_id = _holder(scene, use, **late)

        in_time = _call(scene, use)
        scene.advance(7_200)

        assert job_id == in_time
        assert _call(scene, use) is None

    def test_a_started_job_is_never_late_for_its_key(self, scene: Scene) -> None:
        """A job that started in time has its key through its retries, whenever they are.

        If this fails: the same thing is done twice at once, an hour later.
        """
        job_id = _holder(scene, start_before=BASE + HOUR)
        running = scene.run(job_id=job_id)
        scene.settle(retries(running))
        scene.advance(7_200)

        assert job_id == _call(scene)

    def test_unique_keys_are_told_page_by_page(self, scene: Scene) -> None:
        """Keys come in order of code points with the job that each points at, above `after`, `limit` at most.

        If this fails: nobody can see which job has a key, or pages skip some.
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

    def test_keys_of_jobs_long_gone_are_forgotten(self, scene: Scene) -> None:
        """Upkeep forgets a key whose job was pruned and whose time is over.

        If this fails: the list of keys grows with each key there ever was.
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
