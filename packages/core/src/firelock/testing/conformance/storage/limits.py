"""Limits: how many jobs hold a key at once, and what people are told of it."""

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

# Every key begins so: with partitions the jobs of a test lie together, as turns hold within one.
A, B, X, Y = "kit/a", "kit/b", "kit/x", "kit/y"


class LimitDuty(StorageFixtures):
    """What a number of jobs at once promises."""

    verbs = "limits"
    needs = Feature.LIMITS

    @pytest.mark.parametrize("number", [1, 2, 5])
    def test_no_more_jobs_hold_a_key_than_its_number(self, scene: Scene, number: int) -> None:
        """However many claims there are, of however many sessions, a key is held by so many jobs at once.

        If this fails: an API's or a tenant's limit is exceeded.
        """
        scene.put_numbers(A, concurrent=number)
        ids = scene.add_limited(9, A)
        holders = [scene.begin(name) for name in "abc"]

        claimed = [scene.claim_ids(holder, limit) for limit in (1, 3, 9) for holder in holders]

        assert ids[:number] == list(chain.from_iterable(claimed))
        assert number == scene.by_state()[State.PROCESSING]

    def test_what_a_job_asks_goes_with_it(self, scene: Scene) -> None:
        """A job's limits are in its record, in each claim and in a reconciliation, whole; others have none.

        If this fails: a server does not know what a job holds, or a page what it waits for.
        """
        asked = asks(
            LimitUse("kit/é:ü%", 7, is_strict=False), LimitUse(A, 0, is_strict=True),
            start_before=BASE + DAY, start_within=HOUR,
        )  # fmt: skip
        job_id, plain = scene.add(admission=asked), scene.add(beside=A)
        holder = scene.begin()

        claimed = scene.claim(holder)

        expected = {job_id: asked, plain: None}
        assert expected == {job.id: job.admission for job in claimed}
        assert expected == {job.id: job.admission for job in scene.reconcile(holder, []).unknown}
        assert expected == {one: scene.record(one).admission for one in (job_id, plain)}

    @pytest.mark.parametrize("end", sorted(ENDS))
    def test_whatever_ends_a_run_frees_its_keys(self, scene: Scene, end: str) -> None:
        """However a run ends, another job of the key may start, and one alone.

        If this fails: a slot leaks, and the key stands still for ever.
        """
        scene.put_numbers(A, concurrent=1)
        scene.add_limited(3, A)
        one, other = scene.begin("a"), scene.begin("b")
        (running,) = scene.take(one)
        before = scene.claim(other)

        scene.settle(ENDS[end](running))

        assert [] == before
        assert 1 == len(scene.claim(other))
        assert [] == scene.claim(one)

    @pytest.mark.parametrize("how", ["it ends", "its server ends", "its session is lost", "it crashes alone"])
    def test_the_dead_hold_nothing(self, scene: Scene, how: str) -> None:
        """What a session held when it ended or was lost, or lost its process, is free without upkeep of keys.

        If this fails: every killed server takes slots with it.
        """
        scene.put_numbers(A, concurrent=2)
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
    def test_a_tail_holds_its_keys(self, scene: Scene, gone: str) -> None:
        """A job that was deleted while it runs holds its keys until nobody runs it any more.

        If this fails: who deletes a running job starts one job more than the limit allows.
        """
        scene.put_numbers(A, concurrent=1)
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

    def test_a_requeued_tail_holds_its_keys(self, scene: Scene) -> None:
        """A job requeued while its old run goes on holds its keys, and waits behind itself.

        If this fails: a requeue starts one job more than the limit allows.
        """
        scene.put_numbers(A, concurrent=1)
        ids = scene.add_limited(2, A)
        one, other = scene.begin("a"), scene.begin("b")
        (running,) = scene.take(one)
        scene.storage.apply([deletes(running.id), requeues(running.id)])

        before = scene.claim(other)
        scene.lose(one)

        assert [] == before
        assert [ids[1]] == scene.claim_ids(other)

    @pytest.mark.parametrize("lane", [(A, X), (X, A)], ids=["full first", "full last"])
    def test_all_keys_admit_or_none_is_touched(self, scene: Scene, lane: tuple[str, str]) -> None:
        """A job starts only where each of its keys admits it; one that is refused takes no slot of another.

        If this fails: only one of a job's limits counts, or jobs that wait use up what others could have.
        """
        scene.put_numbers(A, concurrent=1)
        scene.put_numbers(X, concurrent=2)
        scene.add_limited(3, *lane)
        alone = scene.add_limited(3, X)
        holder = scene.begin()

        claimed = scene.claim(holder) + scene.claim(holder)

        assert {A: 1, X: 2} == keys_held(claimed)
        assert alone[:1] == [job.id for job in claimed if job.id in alone]

    @pytest.mark.parametrize(("lanes", "number"), [(4, 3), (2, 5), (4, 9)])
    @pytest.mark.parametrize("limits", [(2, 5, 100), (100, 100)], ids=["small claims", "large claims"])
    def test_lanes_that_share_a_key_count_together(
        self, scene: Scene, lanes: int, number: int, limits: tuple[int, ...]
    ) -> None:
        """In one claim as in several, a key that stands in many lanes is held by no more than its number.

        If this fails: each lane has the whole limit to itself.
        """
        scene.put_numbers(A, concurrent=number)
        for other in (X, Y, "kit/z", "kit/w")[:lanes]:
            scene.add_limited(5, A, other)
        holder = scene.begin()

        claimed = [job for limit in limits for job in scene.claim(holder, limit)]

        assert number == keys_held(claimed)[A]

    def test_an_exchange_gives_what_its_ends_free(self, scene: Scene) -> None:
        """What ends in an exchange is free for its claim; what is refused there is not.

        If this fails: servers wait for a poll after each job of a full key, or count an end that never was.
        """
        scene.put_numbers(A, concurrent=2)
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

    def test_a_job_that_comes_again_counts_once(self, scene: Scene) -> None:
        """A job that is claimed, and tried again, over and over, holds one slot.

        If this fails: retries use up a limit.
        """
        scene.put_numbers(A, concurrent=5)
        (job_id,) = scene.add_limited(1, A)
        holder = scene.begin()
        for _ in range(3):
            (running,) = scene.take(holder, 1)
            scene.settle(retries(running))
        assert [job_id] == scene.claim_ids(holder, 1)

        others = scene.add_limited(5, A)

        assert others[:4] == [one for _ in others for one in scene.claim_ids(holder, 1)]

    def test_waiting_costs_a_job_nothing(self, scene: Scene) -> None:
        """A job that is refused stays enqueued: no attempt, no history, no change of its record.

        If this fails: a full limit wears jobs out, or fills their histories.
        """
        scene.put_numbers(A, concurrent=0)
        (job_id,) = scene.add_limited(1, A)
        before = scene.record(job_id), scene.history(job_id)

        claims = [scene.storage.claim(scene.request(scene.begin())) for _ in range(3)]

        assert [([], None)] * 3 == [(claim.jobs, claim.look_again_at) for claim in claims]
        assert before == (scene.record(job_id), scene.history(job_id))

    def test_a_full_key_holds_up_no_others(self, scene: Scene) -> None:
        """Jobs behind those of a full key start at once: of other keys, of other numbers, and without keys.

        If this fails: one tenant's backlog stands before everybody's work.
        """
        scene.put_numbers(A, concurrent=1)
        scene.add_limited(300, A, priority=100)
        others = scene.add_limited(3, B), scene.add_many(3, beside=A), scene.add_limited(3, X, Y)
        holder = scene.begin()

        claimed = scene.claim(holder, 20)

        expected = set(chain.from_iterable(others))
        assert (10, 1) == (len(claimed), keys_held(claimed)[A])
        assert expected <= {job.id for job in claimed}

    def test_a_number_counts_over_queues_and_tasks(self, scene: Scene) -> None:
        """A key is one, whatever queue or task its jobs are of, and whatever list of queues is asked for.

        If this fails: the limit of a tenant is as large as there are queues.
        """
        scene.put_numbers(A, concurrent=3)
        for queue in ("mail", "bulk", "urgent"):
            scene.add_limited(2, A, queue=queue, task=f"tasks.{queue}")
        holder = scene.begin()

        claimed = [scene.claim(holder, 9, queues) for queues in (["bulk"], ["urgent", "mail"], None)]

        assert [2, 1, 0] == [len(jobs) for jobs in claimed]
        assert {"bulk", "urgent"} == {job.queue for job in chain.from_iterable(claimed)}

    def test_limits_hold_where_every_queue_is_asked(self, scene: Scene) -> None:
        """Without a list of queues as well, each key is held by no more than its number, and no queue waits.

        If this fails: servers of all queues see no limits, or see but one queue.
        """
        scene.put_numbers("kit/tenant", concurrent=1)
        for queue in ("mail", "bulk"):
            for tenant in range(3):
                scene.add_limited(2, f"kit/tenant:{tenant}/{queue}", f"kit/tenant:{tenant}", queue=queue)
        scene.add_many(2, queue="plain", beside=A)
        holder = scene.begin()

        claimed = [job for _ in range(6) for job in scene.claim(holder, 3, None)]

        keys = keys_held(claimed)
        assert [1, 1, 1] == [keys[f"kit/tenant:{tenant}"] for tenant in range(3)]
        assert 2 == sum(job.queue == "plain" for job in claimed)

    def test_a_paused_queue_keeps_its_limited_jobs(self, scene: Scene) -> None:
        """Jobs with limits of a paused queue wait, whatever their keys admit; they start when it is resumed.

        If this fails: an operator stops a queue, and half of its jobs run on.
        """
        ids = scene.add_limited(2, A, queue="mail")
        holder = scene.begin()
        scene.storage.put_record("queue", "mail", '{"paused": true}')

        paused = scene.claim(holder, 9, ["mail"]) + scene.claim(holder, 9, None)
        scene.storage.delete_record("queue", "mail")

        assert [] == paused
        assert ids == scene.claim_ids(holder, 9, ["mail"])

    @pytest.mark.parametrize("how", ["deleted", "pruned", "cleared"])
    def test_what_is_gone_neither_waits_nor_holds(self, scene: Scene, how: str) -> None:
        """Jobs that were deleted while they waited, or ended and were pruned, leave nothing of themselves.

        If this fails: a lane seems to have work for ever, or a key holders that nobody can find.
        """
        scene.put_numbers(A, concurrent=2)
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

    # ---- numbers -----------------------------------------------------------------------------------------

    def test_a_lowered_number_stops_nobody_and_lets_none_start(self, scene: Scene) -> None:
        """When a number falls below what holds the key, none starts until fewer than it hold the key.

        If this fails: a limit that was lowered is not obeyed, or its holders are forgotten.
        """
        scene.put_numbers(A, concurrent=4)
        scene.add_limited(9, A)
        holder = scene.begin()
        running = scene.take(holder)
        scene.put_numbers(A, concurrent=2)

        started = []
        for one in running[:3]:
            started.append(len(scene.claim(holder)))
            scene.settle(succeeds(one))
        started.append(len(scene.claim(holder)))

        assert 4 == len(running)
        assert [0, 0, 0, 1] == started

    @pytest.mark.parametrize(("number", "more"), [(3, 2), (None, 8), (0, 0), (1_000, 8)])
    def test_a_new_number_holds_at_once(self, scene: Scene, number: int | None, more: int) -> None:
        """A number that is raised lets as many more start; without one all start, with a zero none.

        If this fails: a changed limit takes a restart.
        """
        scene.put_numbers(A, concurrent=1)
        scene.add_limited(9, A)
        holder = scene.begin()
        scene.claim(holder)

        scene.put_numbers(A, concurrent=number)

        assert more == len(scene.claim(holder))
        assert [] == scene.claim(holder)

    def test_a_deleted_number_leaves_turns(self, scene: Scene) -> None:
        """A key whose numbers were deleted has none: all its jobs may start.

        If this fails: a limit that was taken away holds for ever.
        """
        scene.put_numbers(A, concurrent=1)
        ids = scene.add_limited(4, A)
        holder = scene.begin()
        scene.claim(holder)

        scene.storage.delete_record("limit", A)

        assert ids[1:] == scene.claim_ids(holder)

    @pytest.mark.parametrize("name", [A, "kit/tenant", "kit/tenant:7"])
    def test_a_number_set_late_counts_who_runs_already(self, scene: Scene, name: str) -> None:
        """Where a number is set for a key that had none, its present holders count, tails as well.

        If this fails: the first minutes of a new limit exceed it.
        """
        scene.add_limited(6, A, "kit/tenant:7")
        holder = scene.begin()
        first, second, third = scene.take(holder, 3)
        scene.settle(deletes(first.id))

        scene.put_numbers(name, concurrent=3)
        started = [len(scene.claim(holder))]
        for one in (first, second):
            scene.apply(succeeds(one))
            started.append(len(scene.claim(holder)))

        assert [0, 1, 1] == started
        assert State.PROCESSING is scene.state(third.id)

    @pytest.mark.parametrize("gone", ["by a rate", "by none", "deleted"])
    def test_a_number_that_comes_and_goes_counts_all(self, scene: Scene, gone: str) -> None:
        """Jobs that started while a key had no number count when it has one again.

        If this fails: who removes a limit for an hour cannot trust it afterwards.
        """
        scene.put_numbers(A, concurrent=1)
        scene.add_limited(6, A)
        holder = scene.begin()
        scene.claim(holder)
        match gone:
            case "by a rate":
                scene.put_numbers(A, rate=1_000, per=HOUR, burst=100)
            case "by none":
                scene.put_numbers(A)
            case _:
                scene.storage.delete_record("limit", A)
        without = scene.take(holder, 2)
        scene.advance(60)

        scene.put_numbers(A, concurrent=3)
        full = scene.claim(holder)
        scene.settle(succeeds(without[0]))

        assert ([], 2) == (full, len(without))
        assert 1 == len(scene.claim(holder))

    def test_each_key_of_a_name_has_the_names_number(self, scene: Scene) -> None:
        """A number of a name is that of each of its keys; a key's own number, while it has one, wins.

        If this fails: tenants share one limit, or a customer's own number is not obeyed.
        """
        scene.put_numbers("kit/tenant", concurrent=1)
        scene.put_numbers("kit/tenant:7", concurrent=3)
        for tenant in (7, 8, 9):
            scene.add_limited(6, f"kit/tenant:{tenant}")
        scene.add_limited(2, "kit/tenants:9")
        holder = scene.begin()

        first = keys_held(scene.claim(holder))
        scene.put_numbers("kit/tenant:8", concurrent=2)
        scene.put_numbers("kit/tenant", concurrent=4)
        second = keys_held(scene.claim(holder))
        scene.storage.delete_record("limit", "kit/tenant:7")

        assert {"kit/tenant:7": 3, "kit/tenant:8": 1, "kit/tenant:9": 1, "kit/tenants:9": 2} == first
        assert {"kit/tenant:8": 1, "kit/tenant:9": 3} == second
        assert {"kit/tenant:7": 1} == keys_held(scene.claim(holder))

    def test_a_name_is_what_stands_before_the_colons(self, scene: Scene) -> None:
        """Each part of a key between slashes is cut at its first colon; so `a:1/b:2:3` has the name `a/b`.

        If this fails: a number set for a name reaches other keys, or none.
        """
        scene.put_numbers("kit/tenant/openai", concurrent=1)
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

    def test_a_paused_limit_lets_none_start(self, scene: Scene) -> None:
        """A key that is paused, itself or by its name, lets none start; resumed it has the numbers it had.

        If this fails: nobody can stop the calls to an API that is down, or doing so loses the numbers.
        """
        scene.put_numbers("kit/tenant", concurrent=2)
        for tenant in (7, 8):
            scene.add_limited(4, f"kit/tenant:{tenant}")
        holder = scene.begin()

        scene.put_numbers("kit/tenant:7", paused=True)
        own = keys_held(scene.claim(holder))
        scene.put_numbers("kit/tenant", concurrent=3, paused=True)
        scene.put_numbers("kit/tenant:7", paused=False)
        named = scene.claim(holder)
        scene.put_numbers("kit/tenant", concurrent=3)

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
    def test_keys_are_told_apart_by_every_character(self, scene: Scene, keys: tuple[str, ...]) -> None:
        """Two keys are one only where they are the same text, to the case and the last blank.

        If this fails: tenants whose names are alike share a limit, or one is not obeyed.
        """
        for key in keys:
            scene.put_numbers(key, concurrent=1)
            scene.add_limited(2, key)
        holder = scene.begin()

        claimed = scene.claim(holder) + scene.claim(holder)

        assert dict.fromkeys(keys, 1) == keys_held(claimed)

    def test_a_job_may_have_four_long_keys(self, scene: Scene) -> None:
        """Four keys of 512 characters together are held like one.

        If this fails: long names are cut, and those cut alike share a limit.
        """
        keys = [f"kit/{number}" + "ü" * 123 for number in range(4)]
        for key in keys:
            scene.put_numbers(key, concurrent=2)
        scene.add_limited(4, *keys)
        scene.add_limited(1, *keys[:3], keys[3] + "u")
        holder = scene.begin()

        got = keys_held(scene.claim(holder))

        assert [2, 2, 2] == [got[key] for key in keys[:3]]
        assert 2 == got[keys[3]] + got[keys[3] + "u"]

    def test_keys_that_lie_apart_are_stored_or_refused_whole(self, scene: Scene) -> None:
        """With partitions a job whose keys lie in two of them is refused, and nothing of its call is stored.

        If this fails: a limit is counted where its jobs are not.
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

    # ---- strict ------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("wait", ["retry", "snooze", "crash", "retry at once"])
    @pytest.mark.parametrize("final", ["succeeds", "fails", "is deleted"])
    def test_a_strict_job_keeps_its_key_until_it_ended(self, scene: Scene, wait: str, final: str) -> None:
        """A strict job keeps its key between its attempts; the next starts when it has ended, however.

        If this fails: steps that have to come one after the other overlap when one is retried.
        """
        scene.put_numbers(A, concurrent=1)
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

    def test_a_strict_job_goes_on_wherever_it_stands(self, scene: Scene) -> None:
        """The job that keeps a strict key starts again, although others of the key stand in front of it.

        If this fails: a retried job waits for those that wait for it, and the key stands still for ever.
        """
        scene.put_numbers(A, concurrent=1)
        (first,) = scene.add_limited(1, LimitUse(A, is_strict=True))
        holder = scene.begin()
        (running,) = scene.take(holder)
        scene.add_limited(3, LimitUse(A, is_strict=True), priority=100)
        scene.settle(retries(running))

        claimed = [*scene.claim_ids(holder), *scene.claim_ids(holder)]

        assert [first] == claimed

    def test_a_strict_job_that_never_started_keeps_nothing(self, scene: Scene) -> None:
        """A job handed back unstarted is again first of its lane, and one in front of it may start instead.

        If this fails: a server that stops takes a strict key with it.
        """
        scene.put_numbers(A, concurrent=1)
        ids = scene.add_limited(2, LimitUse(A, is_strict=True))
        holder = scene.begin()
        (running,) = scene.take(holder)
        scene.settle(hands_back(running))

        assert ids[:1] == scene.claim_ids(holder)
        assert [] == scene.claim(holder)

    def test_a_requeued_strict_job_waits_its_turn(self, scene: Scene) -> None:
        """A strict job that had ended and was requeued holds its key no more, and waits for whoever does.

        If this fails: two strict jobs of a key run at once.
        """
        scene.put_numbers(A, concurrent=1)
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

    @pytest.mark.parametrize("how", ["instant", "span"])
    def test_a_late_job_is_given_out_uncharged(self, scene: Scene, how: str) -> None:
        """A job past the instant by which it is to start takes nothing of its keys when it is given out.

        If this fails: jobs that nobody wants any more wait for slots, or take them.
        """
        scene.put_numbers(A, concurrent=1)
        scene.put_numbers(X, rate=1, per=DAY, burst=1)
        asked: dict[str, int] = {"start_before": BASE + HOUR} if how == "instant" else {"start_within": HOUR}
        holder = scene.begin()
        scene.add_limited(1, A)
        (running,) = scene.take(holder)
        late = scene.add_limited(2, A, X, priority=1, **asked)
        (next_one,) = scene.add_limited(1, A, X)

        early = scene.claim(holder)
        scene.advance(7_200)
        given = scene.claim_ids(holder)
        scene.settle(succeeds(running))
        given += scene.claim_ids(holder) + scene.claim_ids(holder)

        assert [] == early
        assert [*late, next_one] == given

    def test_a_late_job_in_hand_takes_no_slot(self, scene: Scene) -> None:
        """While a server ends jobs that are late, others of their keys start.

        If this fails: a backlog of late jobs shuts the limit that it waited for.
        """
        scene.put_numbers(A, concurrent=2)
        scene.add_limited(1, A, priority=9)
        late = scene.add_limited(3, A, start_before=BASE - HOUR)
        others = scene.add_limited(3, A)
        holder = scene.begin()
        scene.claim(holder, 1)

        claimed = [*scene.claim_ids(holder, 3), *scene.claim_ids(holder)]

        assert [*late, *others[:1]] == claimed

    @pytest.mark.parametrize("how", ["retry", "crash"])
    def test_a_job_that_started_is_never_late(self, scene: Scene, how: str) -> None:
        """Who has started in time is no more late, whatever befell it then; its keys count.

        If this fails: a retry is deleted because it came after the hour.
        """
        scene.put_numbers(A, concurrent=1)
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
    def test_a_span_begins_when_a_job_is_first_enqueued(self, scene: Scene, later: int, started: int) -> None:
        """The time in which a job is to start begins when it comes into its queue, not when it was stored.

        If this fails: every delayed job is late.
        """
        scene.put_numbers(A, concurrent=1)
        job_id = scene.schedule(36_000, admission=asks(A, start_within=HOUR))
        scene.advance(36_001)
        scene.promote()
        (other,) = scene.add_limited(1, A)

        scene.advance(later)

        assert [job_id, other][:started] == scene.claim_ids()


class KeyDuty(StorageFixtures):
    """What `find_keys` tells, and how servers learn that a key is free."""

    verbs = "find_keys"
    needs = Feature.LIMITS

    def test_a_key_tells_who_holds_it_and_who_waits(self, scene: Scene) -> None:
        """A key's holders are named, the oldest first, and those that wait are counted; ended ones are gone.

        If this fails: nobody can see why a job does not start.
        """
        scene.put_numbers(A, concurrent=3)
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

    @pytest.mark.parametrize("numbers", [{"concurrent": 9}, {"rate": 100, "per": HOUR, "burst": 50}, None])
    def test_a_tail_is_a_holder(self, scene: Scene, numbers: dict[str, int] | None) -> None:
        """Whatever numbers a key has, who runs under it is told, also after a delete, and nobody else.

        If this fails: people look for jobs that ended, or miss one that still runs.
        """
        if numbers is not None:
            scene.put_numbers(A, **numbers)
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

    def test_a_strict_holder_is_told_between_its_attempts(self, scene: Scene) -> None:
        """A strict job that waits for its retry holds its key, and is told as its holder.

        If this fails: a key seems free for which jobs wait.
        """
        scene.put_numbers(A, concurrent=1)
        first, _ = scene.add_limited(2, LimitUse(A, is_strict=True))
        holder = scene.begin()
        scene.settle(retries(scene.take(holder)[0], due_at=scene.now() + HOUR))

        (state,) = scene.storage.find_keys(A)

        assert ((first,), 1, 1) == (state.holders, state.running, state.waiting)

    def test_a_used_rate_is_told(self, scene: Scene) -> None:
        """A key tells up to when its rate has been used; one that is free and has no job is not told.

        If this fails: nobody can see when a rate opens, or the list grows with each key there ever was.
        """
        scene.put_numbers(A, rate=1, per=HOUR, burst=1)
        scene.add_limited(1, A)
        before = scene.now()
        (running,) = scene.take(scene.begin())
        scene.settle(succeeds(running))

        (state,) = scene.storage.find_keys("kit/")

        assert (A, (), 0, 0) == (state.key, state.holders, state.running, state.waiting)
        assert before + HOUR <= state.free_at <= scene.now() + HOUR
        scene.advance(7_200)
        assert [] == scene.storage.find_keys("kit/")

    def test_keys_are_told_page_by_page(self, scene: Scene) -> None:
        """Keys come in order of code points, those above `after` that begin as asked, `limit` at most.

        If this fails: pages skip keys, repeat them, or take a sign of a key for a wildcard.
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

    # ---- being woken -------------------------------------------------------------------------------------

    def _wakes(self, scene: Scene, step: Callable[[Storage], object], queues: list[str]) -> None:
        """A wait of another handle ends soon after a step, which is done again and again."""
        waiter, answers = scene.handles.open(), list[bool]()
        thread = threading.Thread(target=lambda: answers.append(waiter.wait(queues, 600.0)), daemon=True)
        thread.start()
        for _ in range(int(self.patience / 0.05)):  # again, since the thread may not have begun to wait
            step(scene.storage)
            thread.join(0.05)
            if answers:
                break

        assert [True] == answers

    def _is_quiet(self, handle: Storage, queues: list[str]) -> bool:
        """A wait of this handle runs out: what it was told of before is over."""
        return any(not handle.wait(queues, 0.02) for _ in range(20))

    @requires(Feature.NOTIFY)
    def test_shut_keys_do_not_keep_servers_awake(self, scene: Scene) -> None:
        """Where all that waits is refused, a wait runs out after a claim that took nothing.

        If this fails: one full key keeps every idle server busy.
        """
        scene.put_numbers(A, concurrent=1)
        scene.put_numbers(B, rate=1, per=DAY, burst=1)
        scene.add_limited(3, A)
        scene.add_limited(3, B)
        holder = scene.begin()
        scene.claim(holder)
        scene.claim(holder)

        assert self._is_quiet(scene.storage, ["default"])

    @requires(Feature.NOTIFY)
    @pytest.mark.parametrize("how", ["apply", "exchange of another queue", "exchange for nothing", "session"])
    def test_an_end_wakes_who_waits_for_the_key(self, scene: Scene, how: str) -> None:
        """Who ends jobs with keys and does not take what it frees wakes those who may.

        If this fails: a freed slot waits for a poll.
        """
        scene.put_numbers(A, concurrent=1)
        scene.add_limited(800, A)
        number = 0

        def step(storage: Storage) -> None:
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

        self._wakes(scene, step, ["default"])

    @requires(Feature.NOTIFY)
    def test_a_pruned_tail_wakes_who_waits_for_the_key(self, scene: Scene) -> None:
        """A deleted job that was taken out while it still ran held its keys, and who waits for them is woken.

        If this fails: what such a job freed waits for a poll.
        """
        scene.put_numbers(A, concurrent=1)
        scene.add_limited(2, A)
        holder, waiter = scene.begin(), scene.handles.open()
        (running,) = scene.take(holder)
        scene.settle(deletes(running.id, expires_at=BASE - HOUR))
        assert [] == waiter.claim(scene.request(holder)).jobs
        assert self._is_quiet(waiter, ["default"])

        assert 1 == scene.prune()

        assert waiter.wait(["default"], self.patience)

    @requires(Feature.NOTIFY)
    def test_who_frees_a_key_and_cannot_take_it_wakes_others(self, scene: Scene) -> None:
        """A claim that finds a key free by its own ends alone, and another of the job's full, leaves it.

        If this fails: a key is taken for one that nobody waits for, as it is free by now.
        """
        scene.put_numbers(A, concurrent=1)
        scene.put_numbers(X, concurrent=0)
        scene.add_limited(800, A, queue="mail")
        scene.add_limited(1, A, X)
        holder = scene.begin()
        running = scene.take(holder, 1, ["mail"])
        assert [] == scene.claim(holder, 1, ["mail"])
        assert self._is_quiet(scene.storage, ["mail"])

        def step(_: Storage) -> None:
            ends = [succeeds(one) for one in running or scene.take(holder, 1, ["mail"])]
            running.clear()
            scene.claim(holder, 1, ["mail"])
            assert [] == scene.exchange(holder, ends, 5).claim.jobs

        self._wakes(scene, step, ["mail"])

    @requires(Feature.NOTIFY)
    @pytest.mark.parametrize("how", ["put", "delete", "of a name"])
    def test_a_new_number_wakes_every_queue(self, scene: Scene, how: str) -> None:
        """Who sets or deletes a number wakes servers of whatever queue.

        If this fails: a limit that was raised is seen by the next poll.
        """
        scene.put_numbers("kit/tenant", concurrent=0)
        scene.add_limited(1, "kit/tenant:7", queue="mail")
        scene.claim(scene.begin(), 1, ["mail"])
        assert self._is_quiet(scene.storage, ["mail"])

        def step(storage: Storage) -> None:
            match how:
                case "put":
                    scene.put_numbers("kit/tenant:7", concurrent=1)
                case "of a name":
                    scene.put_numbers("kit/tenant", concurrent=1)
                case _:
                    scene.put_numbers("kit/tenant", concurrent=0)
                    storage.delete_record("limit", "kit/tenant")

        self._wakes(scene, step, ["mail"])
