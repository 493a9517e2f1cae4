"""Tests of limits: the number of jobs that hold a key at the same time, and the reports about keys."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import chain

import attrs
import pytest

from firelock.errors import ConfigurationError
from firelock.model.limit import LimitUse
from firelock.model.state import State
from firelock.storage import Applied, Feature, Storage
from firelock.testing.conformance.kit import requires
from firelock.testing.conformance.scene import (
    BASE,
    DAY,
    ENDS,
    HOUR,
    Running,
    Scene,
    asks,
    crashes,
    deletes,
    fails,
    hands_back,
    keys_held,
    requeues,
    retries,
    snoozes,
    succeeds,
)
from firelock.testing.conformance.storage.subject import StorageFixtures

# With partitions, lanes take turns only within a partition. All keys have the same prefix, so that the jobs
# of a test are in one partition.
A, B, X, Y = "kit/a", "kit/b", "kit/x", "kit/y"


class LimitTests(StorageFixtures):
    """Tests of limits on the number of jobs that run at the same time."""

    verbs = "limits"
    needs = Feature.LIMITS

    @pytest.mark.parametrize("number", [1, 2, 5])
    def test_holders_of_a_key_do_not_exceed_its_limit(self, scene: Scene, number: int) -> None:
        """A key is held by at most as many jobs as its limit allows, whichever sessions claim them.

        If this fails: the limit of an API or a tenant is exceeded.
        """
        scene.set_limit(A, concurrent=number)
        ids = scene.add_limited(9, A)
        holders = [scene.begin(name) for name in "abc"]

        claimed = [scene.claim_ids(holder, limit) for limit in (1, 3, 9) for holder in holders]

        assert ids[:number] == list(chain.from_iterable(claimed))
        assert number == scene.by_state()[State.PROCESSING]

    def test_records_claims_and_reconciliations_have_the_limits(self, scene: Scene) -> None:
        """A job has all its limits in its record, claims and reconciliations; other jobs have no limits.

        If this fails: a server cannot determine which keys a job holds, or a page does not show for which
        keys it waits.
        """
        admission = asks(
            LimitUse("kit/é:ü%", 7, is_strict=False), LimitUse(A, 0, is_strict=True),
            start_before=BASE + DAY, start_within=HOUR,
        )  # fmt: skip
        job_id, plain = scene.add(admission=admission), scene.add(colocate_with=A)
        holder = scene.begin()

        claimed = scene.claim(holder)

        expected = {job_id: admission, plain: None}
        assert expected == {job.id: job.admission for job in claimed}
        assert expected == {job.id: job.admission for job in scene.reconcile(holder, []).unknown}
        assert expected == {one: scene.record(one).admission for one in (job_id, plain)}

    @pytest.mark.parametrize("end", sorted(ENDS))
    def test_every_end_of_a_run_frees_its_keys(self, scene: Scene, end: str) -> None:
        """After a run has ended in any way, exactly one other job of its key can start.

        If this fails: a slot is lost, and no job of the key ever starts again.
        """
        scene.set_limit(A, concurrent=1)
        scene.add_limited(3, A)
        one, other = scene.begin("a"), scene.begin("b")
        (running,) = scene.take(one)
        before = scene.claim(other)

        scene.settle(ENDS[end](running))

        assert [] == before
        assert 1 == len(scene.claim(other))
        assert [] == scene.claim(one)

    @pytest.mark.parametrize("how", ["it ends", "its server ends", "its session is lost", "it crashes alone"])
    def test_dead_sessions_and_crashed_jobs_hold_no_keys(self, scene: Scene, how: str) -> None:
        """Keys held by an ended or lost session, or by a crashed job process, are free without a cleanup.

        If this fails: every killed server reduces the number of slots.
        """
        scene.set_limit(A, concurrent=2)
        ids = scene.add_limited(4, A)
        dead, other = scene.begin("dead", 3_600.0), scene.begin("b")
        running = scene.take(dead)
        before = scene.claim(other)

        match how:
            case "it ends":
                scene.lose(dead)
            case "its server ends":
                scene.lose(dead, running=[])
            case "its session is lost":
                scene.advance(7_200)
                scene.orphans()
            case _:
                scene.storage.apply([crashes(one) for one in running])

        assert [] == before
        assert ids[:2] == [one.id for one in running]
        assert 2 == len(scene.claim(other))
        assert [] == scene.claim(other)

    @pytest.mark.parametrize("gone", ["its end is refused", "its session ends", "it is taken out"])
    def test_deleted_job_holds_its_keys_until_its_tail_is_removed(self, scene: Scene, gone: str) -> None:
        """A job that is deleted while it runs holds its keys until its tail, or the job itself, is removed.

        If this fails: after a running job is deleted, one more job runs than the limit allows.
        """
        scene.set_limit(A, concurrent=1)
        _, second = scene.add_limited(2, A)
        one, other = scene.begin("a"), scene.begin("b")
        (running,) = scene.take(one)

        scene.settle(deletes(running.id, expires_at=BASE - HOUR))
        while_it_runs = scene.claim(other)
        match gone:
            case "its end is refused":
                assert Applied.REFUSED is scene.apply(succeeds(running))
            case "its session ends":
                scene.lose(one)
            case _:
                assert 1 == scene.prune()

        assert [] == while_it_runs
        assert [second] == scene.claim_ids(other)

    def test_requeued_job_with_a_tail_holds_its_keys(self, scene: Scene) -> None:
        """A job requeued while its old run continues holds its keys, and cannot start before this run ends.

        If this fails: after a requeue, one more job runs than the limit allows.
        """
        scene.set_limit(A, concurrent=1)
        ids = scene.add_limited(2, A)
        one, other = scene.begin("a"), scene.begin("b")
        (running,) = scene.take(one)
        scene.storage.apply([deletes(running.id), requeues(running.id)])

        before = scene.claim(other)
        scene.lose(one)

        assert [] == before
        assert [ids[1]] == scene.claim_ids(other)

    @pytest.mark.parametrize("lane", [(A, X), (X, A)], ids=["full first", "full last"])
    def test_job_starts_only_if_all_its_keys_admit_it(self, scene: Scene, lane: tuple[str, str]) -> None:
        """A job starts only if all its keys allow it; a job that must wait uses no slot of any key.

        If this fails: only one of a job's limits counts, or waiting jobs use up slots that others could use.
        """
        scene.set_limit(A, concurrent=1)
        scene.set_limit(X, concurrent=2)
        scene.add_limited(3, *lane)
        alone = scene.add_limited(3, X)
        holder = scene.begin()

        claimed = scene.claim(holder) + scene.claim(holder)

        assert {A: 1, X: 2} == keys_held(claimed)
        assert alone[:1] == [job.id for job in claimed if job.id in alone]

    @pytest.mark.parametrize(("lanes", "number"), [(4, 3), (2, 5), (4, 9)])
    @pytest.mark.parametrize("limits", [(2, 5, 100), (100, 100)], ids=["small claims", "large claims"])
    def test_lanes_that_share_a_key_share_its_limit(
        self, scene: Scene, lanes: int, number: int, limits: tuple[int, ...]
    ) -> None:
        """The limit of a key that several lanes share is not exceeded, in one claim or in several.

        If this fails: each lane has the whole limit for itself.
        """
        scene.set_limit(A, concurrent=number)
        for other in (X, Y, "kit/z", "kit/w")[:lanes]:
            scene.add_limited(5, A, other)
        holder = scene.begin()

        claimed = [job for limit in limits for job in scene.claim(holder, limit)]

        assert number == keys_held(claimed)[A]

    def test_exchange_claims_with_keys_freed_by_its_ends(self, scene: Scene) -> None:
        """An exchange can claim jobs with keys that its settled jobs have freed; a refused result frees none.

        If this fails: servers wait for a poll after each job of a full key, or a refused result frees a slot.
        """
        scene.set_limit(A, concurrent=2)
        ids = scene.add_limited(5, A)
        one, other = scene.begin("a"), scene.begin("b")
        first, second = scene.take(one)

        refused = scene.exchange(other, [attrs.evolve(succeeds(first), session=other.session)])
        ended = scene.exchange(one, [succeeds(first), succeeds(second)])
        deleted = scene.exchange(one, [deletes(ended.claim.jobs[0].id)])

        assert ([Applied.REFUSED], []) == (refused.results, refused.claim.jobs)
        assert ids[2:4] == [job.id for job in ended.claim.jobs]
        assert [] == deleted.claim.jobs
        assert [] == scene.claim(other)

    def test_retried_job_holds_one_slot(self, scene: Scene) -> None:
        """A job that is claimed and retried repeatedly holds one slot.

        If this fails: retries use up a limit.
        """
        scene.set_limit(A, concurrent=5)
        (job_id,) = scene.add_limited(1, A)
        holder = scene.begin()
        for _ in range(3):
            (running,) = scene.take(holder, 1)
            scene.settle(retries(running))
        assert [job_id] == scene.claim_ids(holder, 1)

        others = scene.add_limited(5, A)

        assert others[:4] == [one for _ in others for one in scene.claim_ids(holder, 1)]

    def test_waiting_for_a_key_does_not_change_the_job(self, scene: Scene) -> None:
        """A job that must wait for a key stays enqueued, without an attempt, history entry or other change.

        If this fails: a full limit uses up the attempts of jobs, or fills their histories.
        """
        scene.set_limit(A, concurrent=0)
        (job_id,) = scene.add_limited(1, A)
        before = scene.record(job_id), scene.history(job_id)

        claims = [scene.storage.claim(scene.request(scene.begin())) for _ in range(3)]

        assert [([], None)] * 3 == [(claim.jobs, claim.next_claim_at) for claim in claims]
        assert before == (scene.record(job_id), scene.history(job_id))

    def test_full_key_does_not_delay_other_jobs(self, scene: Scene) -> None:
        """A full key does not delay jobs with other keys, with other limits or without keys.

        If this fails: one tenant's backlog delays the work of all others.
        """
        scene.set_limit(A, concurrent=1)
        scene.add_limited(300, A, priority=100)
        others = scene.add_limited(3, B), scene.add_many(3, colocate_with=A), scene.add_limited(3, X, Y)
        holder = scene.begin()

        claimed = scene.claim(holder, 20)

        expected = set(chain.from_iterable(others))
        assert (10, 1) == (len(claimed), keys_held(claimed)[A])
        assert expected <= {job.id for job in claimed}

    def test_limit_applies_to_all_queues_and_tasks(self, scene: Scene) -> None:
        """A key has one limit for all queues and tasks of its jobs, whichever queues a claim names.

        If this fails: the limit of a tenant is multiplied by the number of queues.
        """
        scene.set_limit(A, concurrent=3)
        for queue in ("mail", "bulk", "urgent"):
            scene.add_limited(2, A, queue=queue, task=f"tasks.{queue}")
        holder = scene.begin()

        claimed = [scene.claim(holder, 9, queues) for queues in (["bulk"], ["urgent", "mail"], None)]

        assert [2, 1, 0] == [len(jobs) for jobs in claimed]
        assert {"bulk", "urgent"} == {job.queue for job in chain.from_iterable(claimed)}

    def test_claims_without_a_list_respect_limits(self, scene: Scene) -> None:
        """Claims without a list of queues also respect each limit, and serve every queue.

        If this fails: servers that serve all queues ignore limits, or serve only one queue.
        """
        scene.set_limit("kit/tenant", concurrent=1)
        for queue in ("mail", "bulk"):
            for tenant in range(3):
                scene.add_limited(2, f"kit/tenant:{tenant}/{queue}", f"kit/tenant:{tenant}", queue=queue)
        scene.add_many(2, queue="plain", colocate_with=A)
        holder = scene.begin()

        claimed = [job for _ in range(6) for job in scene.claim(holder, 3, None)]

        keys = keys_held(claimed)
        assert [1, 1, 1] == [keys[f"kit/tenant:{tenant}"] for tenant in range(3)]
        assert 2 == sum(job.queue == "plain" for job in claimed)

    def test_jobs_with_limits_wait_in_a_paused_queue(self, scene: Scene) -> None:
        """Jobs with limits wait in a paused queue until it is resumed, even if all their keys are free.

        If this fails: an operator pauses a queue, but half of its jobs continue to start.
        """
        ids = scene.add_limited(2, A, queue="mail")
        holder = scene.begin()
        scene.storage.put_record("queue", "mail", '{"paused": true}')

        paused = scene.claim(holder, 9, ["mail"]) + scene.claim(holder, 9, None)
        scene.storage.delete_record("queue", "mail")

        assert [] == paused
        assert ids == scene.claim_ids(holder, 9, ["mail"])

    @pytest.mark.parametrize("how", ["deleted", "pruned", "cleared"])
    def test_deleted_and_pruned_jobs_neither_wait_nor_hold_keys(self, scene: Scene, how: str) -> None:
        """Jobs that were deleted while they waited, or ended and were pruned, neither wait nor hold keys.

        If this fails: a lane seems to have work forever, or a key has holders that cannot be found.
        """
        scene.set_limit(A, concurrent=2)
        ids = scene.add_limited(5, A)
        holder = scene.begin()
        running = scene.take(holder)

        for one in running:
            scene.settle(succeeds(one, expires_at=BASE - HOUR))
        scene.storage.apply([deletes(job_id, expires_at=BASE - HOUR) for job_id in ids[2:4]])
        if how == "pruned":
            assert 4 == scene.prune()
        if how == "cleared":
            scene.storage.clear()
            holder, ids = scene.begin(), [*ids[:4], *scene.add_limited(1, A)]

        assert ids[4:] == scene.claim_ids(holder)

    # ---- settings of limits ------------------------------------------------------------------------------

    def test_lowered_limit_prevents_new_starts_until_jobs_end(self, scene: Scene) -> None:
        """After a limit is lowered, no job starts until the number of the key's holders is below the limit.

        If this fails: a lowered limit is not enforced, or the holders of its key are forgotten.
        """
        scene.set_limit(A, concurrent=4)
        scene.add_limited(9, A)
        holder = scene.begin()
        running = scene.take(holder)
        scene.set_limit(A, concurrent=2)

        started = []
        for one in running[:3]:
            started.append(len(scene.claim(holder)))
            scene.settle(succeeds(one))
        started.append(len(scene.claim(holder)))

        assert 4 == len(running)
        assert [0, 0, 0, 1] == started

    @pytest.mark.parametrize(("number", "more"), [(3, 2), (None, 8), (0, 0), (1_000, 8)])
    def test_changed_limit_applies_immediately(self, scene: Scene, number: int | None, more: int) -> None:
        """After a limit is raised, that many more jobs start; without a limit all start, with zero none.

        If this fails: a changed limit takes effect only after a restart.
        """
        scene.set_limit(A, concurrent=1)
        scene.add_limited(9, A)
        holder = scene.begin()
        scene.claim(holder)

        scene.set_limit(A, concurrent=number)

        assert more == len(scene.claim(holder))
        assert [] == scene.claim(holder)

    def test_key_with_deleted_settings_has_no_limit(self, scene: Scene) -> None:
        """If the settings of a key are deleted, it has no limit: all its jobs can start.

        If this fails: a deleted limit applies forever.
        """
        scene.set_limit(A, concurrent=1)
        ids = scene.add_limited(4, A)
        holder = scene.begin()
        scene.claim(holder)

        scene.storage.delete_record("limit", A)

        assert ids[1:] == scene.claim_ids(holder)

    @pytest.mark.parametrize("name", [A, "kit/tenant", "kit/tenant:7"])
    def test_new_limit_counts_running_jobs(self, scene: Scene, name: str) -> None:
        """A new limit for a key counts the jobs that already hold the key, including those with a tail.

        If this fails: a new limit is exceeded in its first minutes.
        """
        scene.add_limited(6, A, "kit/tenant:7")
        holder = scene.begin()
        first, second, third = scene.take(holder, 3)
        scene.settle(deletes(first.id))

        scene.set_limit(name, concurrent=3)
        started = [len(scene.claim(holder))]
        for one in (first, second):
            scene.apply(succeeds(one))
            started.append(len(scene.claim(holder)))

        assert [0, 1, 1] == started
        assert State.PROCESSING is scene.state(third.id)

    @pytest.mark.parametrize("gone", ["by a rate", "by none", "deleted"])
    def test_restored_limit_counts_jobs_started_without_it(self, scene: Scene, gone: str) -> None:
        """If a removed limit is set again, it counts the jobs that started while there was no limit.

        If this fails: a limit that was removed for an hour is exceeded afterwards.
        """
        scene.set_limit(A, concurrent=1)
        scene.add_limited(6, A)
        holder = scene.begin()
        scene.claim(holder)
        match gone:
            case "by a rate":
                scene.set_limit(A, rate=1_000, per=HOUR, burst=100)
            case "by none":
                scene.set_limit(A)
            case _:
                scene.storage.delete_record("limit", A)
        without = scene.take(holder, 2)
        scene.advance(60)

        scene.set_limit(A, concurrent=3)
        full = scene.claim(holder)
        scene.settle(succeeds(without[0]))

        assert ([], 2) == (full, len(without))
        assert 1 == len(scene.claim(holder))

    def test_limit_of_a_name_applies_to_each_of_its_keys(self, scene: Scene) -> None:
        """The limit of a name applies to each of its keys, except while the key has its own limit.

        If this fails: tenants share one limit, or a customer's own limit is ignored.
        """
        scene.set_limit("kit/tenant", concurrent=1)
        scene.set_limit("kit/tenant:7", concurrent=3)
        for tenant in (7, 8, 9):
            scene.add_limited(6, f"kit/tenant:{tenant}")
        scene.add_limited(2, "kit/tenants:9")
        holder = scene.begin()

        first = keys_held(scene.claim(holder))
        scene.set_limit("kit/tenant:8", concurrent=2)
        scene.set_limit("kit/tenant", concurrent=4)
        second = keys_held(scene.claim(holder))
        scene.storage.delete_record("limit", "kit/tenant:7")

        assert {"kit/tenant:7": 3, "kit/tenant:8": 1, "kit/tenant:9": 1, "kit/tenants:9": 2} == first
        assert {"kit/tenant:8": 1, "kit/tenant:9": 3} == second
        assert {"kit/tenant:7": 1} == keys_held(scene.claim(holder))

    def test_name_of_a_key_omits_the_parts_after_colons(self, scene: Scene) -> None:
        """The name of a key consists of its parts between slashes, each cut off at its first colon.

        For example, `a:1/b:2:3` has the name `a/b`.

        If this fails: the limit of a name applies to other keys, or to none.
        """
        scene.set_limit("kit/tenant/openai", concurrent=1)
        for key in (
            "kit/tenant:7/openai",
            "kit/tenant:7/openai:eu:1",
            "kit/tenant/openai",
            "kit:2/tenant:1/openai",
        ):
            scene.add_limited(3, key)
        scene.add_limited(3, "kit/tenant:7/openais")
        holder = scene.begin()

        claimed = keys_held(scene.claim(holder))

        assert {
            "kit/tenant:7/openai": 1, "kit/tenant:7/openai:eu:1": 1, "kit/tenant/openai": 1,
            "kit:2/tenant:1/openai": 1, "kit/tenant:7/openais": 3,
        } == claimed  # fmt: skip

    def test_paused_limit_prevents_every_start(self, scene: Scene) -> None:
        """While a key or its name is paused, no job starts; after the pause the limit is the same as before.

        If this fails: calls to an API that is down cannot be stopped, or stopping them deletes the limit.
        """
        scene.set_limit("kit/tenant", concurrent=2)
        for tenant in (7, 8):
            scene.add_limited(4, f"kit/tenant:{tenant}")
        holder = scene.begin()

        scene.set_limit("kit/tenant:7", paused=True)
        own = keys_held(scene.claim(holder))
        scene.set_limit("kit/tenant", concurrent=3, paused=True)
        scene.set_limit("kit/tenant:7", paused=False)
        named = scene.claim(holder)
        scene.set_limit("kit/tenant", concurrent=3)

        assert ({"kit/tenant:8": 2}, []) == (own, named)
        assert {"kit/tenant:7": 3, "kit/tenant:8": 1} == keys_held(scene.claim(holder))

    @pytest.mark.parametrize(
        "keys",
        [
            ("kit/a", "kit/A", "kit/á", "kit/a "),
            ("kit/%", "kit/_", "kit/*", "kit/a%", "kit/'", 'kit/"', "kit/\\"),
            ("kit/straße", "kit/strasse", "kit/😀", "kit/0", "kit/00", "kit/-", "kit/!"),
            ("kit/" + "k" * 96, "kit/" + "k" * 95 + "l", "kit/" + "ü" * 96),
        ],
        ids=["case", "signs", "letters", "long"],
    )
    def test_keys_are_compared_by_every_character(self, scene: Scene, keys: tuple[str, ...]) -> None:
        """Two keys are the same only if their strings are equal, including case and trailing spaces.

        If this fails: tenants with similar names share a limit, or a limit is ignored.
        """
        for key in keys:
            scene.set_limit(key, concurrent=1)
            scene.add_limited(2, key)
        holder = scene.begin()

        claimed = scene.claim(holder) + scene.claim(holder)

        assert dict.fromkeys(keys, 1) == keys_held(claimed)

    def test_job_can_have_four_long_keys(self, scene: Scene) -> None:
        """A job can have four keys of 512 characters in total, and each of them is limited.

        If this fails: long names are truncated, and names that become equal share a limit.
        """
        keys = [f"kit/{number}" + "ü" * 123 for number in range(4)]
        for key in keys:
            scene.set_limit(key, concurrent=2)
        scene.add_limited(4, *keys)
        scene.add_limited(1, *keys[:3], keys[3] + "u")
        holder = scene.begin()

        got = keys_held(scene.claim(holder))

        assert [2, 2, 2] == [got[key] for key in keys[:3]]
        assert 2 == got[keys[3]] + got[keys[3] + "u"]

    def test_call_with_keys_in_two_partitions_is_refused_completely(self, scene: Scene) -> None:
        """With partitions, a job with keys in two partitions is refused, and nothing of its call is stored.

        If this fails: a limit is counted in a partition that does not have its jobs.
        """
        stored = []
        for number in range(12):
            jobs = [scene.new_job(admission=asks(A)), scene.new_job(admission=asks(A, f"apart:{number}"))]
            try:
                scene.storage.insert(jobs)
            except ConfigurationError:
                assert [None, None] == scene.storage.get([job.id for job in jobs])
            else:
                stored += [job.id for job in jobs]
        holder = scene.begin()

        assert sorted(stored) == sorted(scene.claim_ids(holder) + scene.claim_ids(holder))

    # ---- strict limits -----------------------------------------------------------------------------------

    @pytest.mark.parametrize("wait", ["retry", "snooze", "crash", "immediate retry"])
    @pytest.mark.parametrize("final", ["succeeds", "fails", "is deleted"])
    def test_strict_job_keeps_its_key_until_its_end(self, scene: Scene, wait: str, final: str) -> None:
        """A strict job keeps its key between attempts; when the job ends in any way, the next one starts.

        If this fails: jobs that must run one after another overlap when one is retried.
        """
        scene.set_limit(A, concurrent=1)
        first, second = scene.add_limited(2, LimitUse(A, is_strict=True))
        holder = scene.begin()
        (running,) = scene.take(holder)
        due_at = scene.now() + HOUR
        match wait:
            case "retry":
                scene.settle(retries(running, due_at=due_at))
            case "snooze":
                scene.settle(snoozes(running, due_at=due_at))
            case "crash":
                scene.lose(holder)
                holder = scene.begin("b")
            case _:
                scene.settle(retries(running))

        between = [job.id for job in scene.claim(holder)]
        if not between:
            scene.advance(7_200)
            scene.promote()
            between = [job.id for job in scene.claim(holder)]
        (record,) = scene.storage.reconcile(holder.session, []).unknown
        meanwhile = scene.claim(holder)
        again = Running(record, holder)
        match final:
            case "succeeds":
                scene.settle(succeeds(again))
            case "fails":
                scene.settle(fails(again))
            case _:
                scene.settle(retries(again, due_at=due_at + DAY))
                assert [] == scene.claim(holder)
                scene.settle(deletes(first))

        assert ([first], []) == (between, meanwhile)
        assert [second] == scene.claim_ids(holder)

    def test_retried_strict_job_starts_before_others_of_its_key(self, scene: Scene) -> None:
        """A job that keeps a strict key starts again even if other jobs of the key come before it.

        If this fails: a retried job waits for jobs that wait for it, and no job of the key ever starts again.
        """
        scene.set_limit(A, concurrent=1)
        (first,) = scene.add_limited(1, LimitUse(A, is_strict=True))
        holder = scene.begin()
        (running,) = scene.take(holder)
        scene.add_limited(3, LimitUse(A, is_strict=True), priority=100)
        scene.settle(retries(running))

        claimed = [*scene.claim_ids(holder), *scene.claim_ids(holder)]

        assert [first] == claimed

    def test_handed_back_strict_job_keeps_no_key(self, scene: Scene) -> None:
        """A strict job that is handed back before it started keeps no key, and is first in its lane again.

        A job before it in the lane may start instead.

        If this fails: a server that stops keeps a strict key taken.
        """
        scene.set_limit(A, concurrent=1)
        ids = scene.add_limited(2, LimitUse(A, is_strict=True))
        holder = scene.begin()
        (running,) = scene.take(holder)
        scene.settle(hands_back(running))

        assert ids[:1] == scene.claim_ids(holder)
        assert [] == scene.claim(holder)

    def test_requeued_strict_job_waits_for_the_holder(self, scene: Scene) -> None:
        """A strict job that ended and was requeued no longer holds its key, and waits for the key's holder.

        If this fails: two strict jobs of a key run at the same time.
        """
        scene.set_limit(A, concurrent=1)
        first, second = scene.add_limited(2, LimitUse(A, is_strict=True))
        holder = scene.begin()
        scene.settle(fails(scene.take(holder)[0]))
        (running,) = scene.take(holder)
        scene.settle(requeues(first))

        before = scene.claim(holder)
        scene.settle(succeeds(running))

        assert (second, []) == (running.id, before)
        assert [first] == scene.claim_ids(holder)

    # ---- late jobs ---------------------------------------------------------------------------------------

    @pytest.mark.parametrize("how", ["start_before", "start_within"])
    def test_late_job_is_claimed_without_using_its_keys(self, scene: Scene, how: str) -> None:
        """A late job, whose time to start has passed, is claimed without using its keys.

        If this fails: jobs that are no longer wanted wait for slots, or use them.
        """
        scene.set_limit(A, concurrent=1)
        scene.set_limit(X, rate=1, per=DAY, burst=1)
        deadline: dict[str, int] = (
            {"start_before": BASE + HOUR} if how == "start_before" else {"start_within": HOUR}
        )
        holder = scene.begin()
        scene.add_limited(1, A)
        (running,) = scene.take(holder)
        late = scene.add_limited(2, A, X, priority=1, **deadline)
        (next_one,) = scene.add_limited(1, A, X)

        early = scene.claim(holder)
        scene.advance(7_200)
        given = scene.claim_ids(holder)
        scene.settle(succeeds(running))
        given += scene.claim_ids(holder) + scene.claim_ids(holder)

        assert [] == early
        assert [*late, next_one] == given

    def test_claimed_late_job_uses_no_slot(self, scene: Scene) -> None:
        """While a server ends late jobs, other jobs of their keys start.

        If this fails: a backlog of late jobs blocks the limit for which it waited.
        """
        scene.set_limit(A, concurrent=2)
        scene.add_limited(1, A, priority=9)
        late = scene.add_limited(3, A, start_before=BASE - HOUR)
        others = scene.add_limited(3, A)
        holder = scene.begin()
        scene.claim(holder, 1)

        claimed = [*scene.claim_ids(holder, 3), *scene.claim_ids(holder)]

        assert [*late, *others[:1]] == claimed

    @pytest.mark.parametrize("how", ["retry", "crash"])
    def test_started_job_is_never_late(self, scene: Scene, how: str) -> None:
        """A job that started in time never becomes late.

        Later starts of the job use its keys.

        If this fails: a retry is deleted because it comes after the time by which the job had to start.
        """
        scene.set_limit(A, concurrent=1)
        (first,) = scene.add_limited(1, A, start_before=BASE + HOUR)
        one, other = scene.begin("a"), scene.begin("b")
        (running,) = scene.take(one)
        if how == "retry":
            scene.settle(retries(running))
        else:
            scene.lose(one)
        scene.advance(7_200)
        (second,) = scene.add_limited(1, A)

        claimed = scene.claim_ids(other) + scene.claim_ids(other)

        assert [first] == claimed
        assert State.ENQUEUED is scene.state(second)

    @pytest.mark.parametrize(("later", "started"), [(1_800, 1), (7_200, 2)])
    def test_start_within_begins_when_a_job_is_first_enqueued(
        self, scene: Scene, later: int, started: int
    ) -> None:
        """`start_within` begins when a job is first enqueued, not when it was stored.

        If this fails: every delayed job is late.
        """
        scene.set_limit(A, concurrent=1)
        job_id = scene.schedule(36_000, admission=asks(A, start_within=HOUR))
        scene.advance(36_001)
        scene.promote()
        (other,) = scene.add_limited(1, A)

        scene.advance(later)

        assert [job_id, other][:started] == scene.claim_ids()


class KeyTests(StorageFixtures):
    """Tests of `find_keys`, and of the notification of servers when a key becomes free."""

    verbs = "find_keys"
    needs = Feature.LIMITS

    def test_find_keys_returns_holders_and_waiting_jobs(self, scene: Scene) -> None:
        """`find_keys` returns the current holders of a key, oldest first, and the number of waiting jobs.

        If this fails: people cannot see why a job does not start.
        """
        scene.set_limit(A, concurrent=3)
        ids = scene.add_limited(5, A, X)
        scene.schedule(3_600, admission=asks(A))
        holder = scene.begin()
        running = [one for _ in range(3) for one in scene.take(holder, 1)]
        scene.claim(holder)
        scene.settle(succeeds(running[0]))
        scene.add_limited(2, X)

        a, x = scene.storage.find_keys("kit/")

        assert (A, tuple(ids[1:3]), 2, 2) == (a.key, a.holders, a.running, a.waiting)
        assert (X, set(ids[1:3]), 2, 4) == (x.key, set(x.holders), x.running, x.waiting)

    @pytest.mark.parametrize("settings", [{"concurrent": 9}, {"rate": 100, "per": HOUR, "burst": 50}, None])
    def test_find_keys_includes_deleted_running_jobs(
        self, scene: Scene, settings: dict[str, int] | None
    ) -> None:
        """For a key with any settings, `find_keys` returns exactly the jobs that run, including deleted ones.

        If this fails: people look for jobs that have ended, or miss one that still runs.
        """
        if settings is not None:
            scene.set_limit(A, **settings)
        ids = scene.add_limited(3, A)
        holder = scene.begin()
        first, second = scene.take(holder, 2)
        scene.settle(deletes(first.id))
        before = scene.storage.find_keys("kit/")

        scene.settle(retries(second, due_at=scene.now() + HOUR))
        scene.storage.apply([deletes(ids[2])])
        scene.apply(succeeds(first))

        ((key, running, waiting),) = [(one.key, one.running, one.waiting) for one in before]
        assert (A, 2, 1) == (key, running, waiting)
        assert set(ids[:2]) == set(before[0].holders)
        assert [] == [one for one in scene.storage.find_keys("kit/") if one.running or one.waiting]

    def test_find_keys_returns_a_strict_holder_between_attempts(self, scene: Scene) -> None:
        """A strict job that waits for its retry holds its key, and `find_keys` returns it as the holder.

        If this fails: a key for which jobs wait appears to be free.
        """
        scene.set_limit(A, concurrent=1)
        first, _ = scene.add_limited(2, LimitUse(A, is_strict=True))
        holder = scene.begin()
        scene.settle(retries(scene.take(holder)[0], due_at=scene.now() + HOUR))

        (state,) = scene.storage.find_keys(A)

        assert ((first,), 1, 1) == (state.holders, state.running, state.waiting)

    def test_find_keys_returns_when_a_used_rate_is_free(self, scene: Scene) -> None:
        """`find_keys` returns the time at which a used rate is free, and omits free keys without jobs.

        If this fails: people cannot see when a rate allows a start again, or the list grows with each key
        that was ever used.
        """
        scene.set_limit(A, rate=1, per=HOUR, burst=1)
        scene.add_limited(1, A)
        before = scene.now()
        (running,) = scene.take(scene.begin())
        scene.settle(succeeds(running))

        (state,) = scene.storage.find_keys("kit/")

        assert (A, (), 0, 0) == (state.key, state.holders, state.running, state.waiting)
        assert before + HOUR <= state.next_arrival_at <= scene.now() + HOUR
        scene.advance(7_200)
        assert [] == scene.storage.find_keys("kit/")

    def test_find_keys_returns_pages_in_order(self, scene: Scene) -> None:
        """`find_keys` returns at most `limit` keys with the prefix after `after`, ordered by code points.

        If this fails: pages skip or repeat keys, or treat a character of a key as a wildcard.
        """
        keys = [
            "B", "a", "kit/A", "kit/_", "kit/a", "kit/a%b", "kit/a_b", "kit/axb", "kit/é", "kit/😀",
            "other/a", "t:1", "t:10", "t:2",
        ]  # fmt: skip
        for key in reversed(keys):
            scene.add_limited(1, key)
        scene.claim(scene.begin(), 5)

        def found(prefix: str = "", **page: object) -> list[str]:
            return [state.key for state in scene.storage.find_keys(prefix, **page)]  # type: ignore[arg-type]

        assert keys == found()
        assert ["kit/a_b"] == found("kit/a_")
        assert ["kit/a_b"] == found("kit/a_b")
        assert ["kit/a%b"] == found("kit/a%")
        assert [] == found("kit/a", limit=0)
        assert ["t:1", "t:10"] == found("t:1")
        pages = list[str]()
        for _ in range(4):
            pages += found("kit/", after=pages[-1] if pages else "", limit=3)
        assert keys[2:10] == pages
        assert keys[3:] == found(after="kit/A")

    # ---- notifications -----------------------------------------------------------------------------------

    def _wakes(self, scene: Scene, make_work: Callable[[Storage], object], queues: list[str]) -> None:
        """Make work repeatedly, and assert that a wait of another handle soon ends."""
        waiter, answers = scene.handles.open(), list[bool]()
        thread = threading.Thread(target=lambda: answers.append(waiter.wait(queues, 600.0)), daemon=True)
        thread.start()
        # repeat the call, because the thread may not have begun to wait yet
        for _ in range(int(self.hang_timeout / 0.05)):
            make_work(scene.storage)
            thread.join(0.05)
            if answers:
                break

        assert [True] == answers

    def _is_quiet(self, handle: Storage, queues: list[str]) -> bool:
        """Return whether a wait of this handle times out, after earlier notifications were consumed."""
        return any(not handle.wait(queues, 0.02) for _ in range(20))

    @requires(Feature.NOTIFY)
    def test_wait_times_out_if_no_waiting_job_can_start(self, scene: Scene) -> None:
        """If no waiting job can start, a wait times out after a claim that took nothing.

        If this fails: one full key keeps every idle server busy.
        """
        scene.set_limit(A, concurrent=1)
        scene.set_limit(B, rate=1, per=DAY, burst=1)
        scene.add_limited(3, A)
        scene.add_limited(3, B)
        holder = scene.begin()
        scene.claim(holder)
        scene.claim(holder)

        assert self._is_quiet(scene.storage, ["default"])

    @requires(Feature.NOTIFY)
    @pytest.mark.parametrize("how", ["apply", "exchange of another queue", "exchange for nothing", "session"])
    def test_end_that_frees_a_key_wakes_waiting_servers(self, scene: Scene, how: str) -> None:
        """If a job or session frees a key, waiting servers wake unless the caller claims the next job itself.

        If this fails: a free slot is used only after the next poll.
        """
        scene.set_limit(A, concurrent=1)
        scene.add_limited(800, A)
        number = 0

        def make_work(storage: Storage) -> None:
            nonlocal number
            number += 1
            holder = scene.begin(str(number))
            running = scene.take(holder, 1)
            match how:
                case "apply":
                    storage.apply([succeeds(one) for one in running])
                case "exchange of another queue":
                    scene.exchange(holder, [succeeds(one) for one in running], 5, ["other"])
                case "exchange for nothing":
                    scene.exchange(holder, [succeeds(one) for one in running], 0)
                case _:
                    scene.lose(holder, running=[])

        holder = scene.begin()
        (running,) = scene.take(holder)
        assert self._is_quiet(scene.storage, ["default"])
        scene.settle(succeeds(running))

        self._wakes(scene, make_work, ["default"])

    @requires(Feature.NOTIFY)
    def test_prune_that_frees_a_key_wakes_waiting_servers(self, scene: Scene) -> None:
        """Pruning a deleted job that still runs frees its keys and wakes waiting servers.

        If this fails: jobs that wait for these keys start only after the next poll.
        """
        scene.set_limit(A, concurrent=1)
        scene.add_limited(2, A)
        holder, waiter = scene.begin(), scene.handles.open()
        (running,) = scene.take(holder)
        scene.settle(deletes(running.id, expires_at=BASE - HOUR))
        assert [] == waiter.claim(scene.request(holder)).jobs
        assert self._is_quiet(waiter, ["default"])

        assert 1 == scene.prune()

        assert waiter.wait(["default"], self.hang_timeout)

    @requires(Feature.NOTIFY)
    def test_exchange_that_cannot_use_a_freed_key_wakes_others(self, scene: Scene) -> None:
        """If an exchange frees a key, but the waiting job also needs a full key, other servers are woken.

        If this fails: the storage treats the key as one for which no job waits, because it is free by then.
        """
        scene.set_limit(A, concurrent=1)
        scene.set_limit(X, concurrent=0)
        scene.add_limited(800, A, queue="mail")
        scene.add_limited(1, A, X)
        holder = scene.begin()
        running = scene.take(holder, 1, ["mail"])
        assert [] == scene.claim(holder, 1, ["mail"])
        assert self._is_quiet(scene.storage, ["mail"])

        def make_work(_: Storage) -> None:
            ends = [succeeds(one) for one in running or scene.take(holder, 1, ["mail"])]
            running.clear()
            scene.claim(holder, 1, ["mail"])
            assert [] == scene.exchange(holder, ends, 5).claim.jobs

        self._wakes(scene, make_work, ["mail"])

    @requires(Feature.NOTIFY)
    @pytest.mark.parametrize("how", ["put", "delete", "of a name"])
    def test_changed_limit_wakes_servers_of_all_queues(self, scene: Scene, how: str) -> None:
        """Setting or deleting a limit wakes servers of all queues.

        If this fails: a raised limit takes effect only at the next poll.
        """
        scene.set_limit("kit/tenant", concurrent=0)
        scene.add_limited(1, "kit/tenant:7", queue="mail")
        scene.claim(scene.begin(), 1, ["mail"])
        assert self._is_quiet(scene.storage, ["mail"])

        def make_work(storage: Storage) -> None:
            match how:
                case "put":
                    scene.set_limit("kit/tenant:7", concurrent=1)
                case "of a name":
                    scene.set_limit("kit/tenant", concurrent=1)
                case _:
                    scene.set_limit("kit/tenant", concurrent=0)
                    storage.delete_record("limit", "kit/tenant")

        self._wakes(scene, make_work, ["mail"])
