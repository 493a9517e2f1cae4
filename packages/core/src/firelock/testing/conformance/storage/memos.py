"""Tests of memos: their guards, signals, waits without a worker, sleeps, and forgotten memos."""

from __future__ import annotations

import attrs
import pytest

from firelock.model.lifecycle import Moved
from firelock.model.limit import UniqueUse
from firelock.model.memo import (
    MEMO_BYTES,
    MEMOS_BYTES,
    MEMOS_LIMIT,
    Memo,
    MemoKind,
    NewMemo,
    Remembered,
)
from firelock.model.state import State
from firelock.storage import Applied, Feature
from firelock.testing.conformance.flow_scene import FlowScene, forgets, signal, sleeps, suspends
from firelock.testing.conformance.kit import requires
from firelock.testing.conformance.scene import (
    BASE,
    DAY,
    HOUR,
    STAMP,
    Running,
    asks,
    deletes,
    fails,
    requeues,
    reschedules,
    retries,
    succeeds,
)
from firelock.testing.conformance.storage.subject import StorageFixtures

_STEP, _SIGNAL, _SLEEP, _CALL = MemoKind.STEP, MemoKind.SIGNAL, MemoKind.SLEEP, MemoKind.CALL


def _step(running: Running, name: str, value: str | None = "1") -> NewMemo:
    memo = Memo(_STEP, name, value, True, STAMP, STAMP, running.job.attempt)
    return NewMemo(running.id, memo, running.holder.session, running.job.fence)


class MemoTests(StorageFixtures):
    """Tests of `remember` and `recall`."""

    verbs = "remember recall"

    # ---- stored memos ------------------------------------------------------------------------------------

    def test_later_run_recalls_memos_in_recorded_order(self, flow: FlowScene) -> None:
        """A later run recalls every memo as it was given, in the order in which the names were recorded.

        The claim of a first run reports that it has no memos; the claim of a later run reports that it has
        some.

        If this fails: a step is done again after each retry.
        """
        running = flow.run()
        given = [
            Memo(_STEP, "charge", '{"id": "ch_1"}', True, STAMP + 5, STAMP + 3, 1),
            Memo(_SLEEP, "charge", "123", True, STAMP + 6, None, 1),
            Memo(_STEP, "nothing", None, True, STAMP + 7, STAMP + 7, 1),
        ]
        session, fence = running.holder.session, running.job.fence
        answers = flow.storage.remember([NewMemo(running.id, memo, session, fence) for memo in given])
        flow.settle(retries(running))

        later = flow.run(flow.begin("b"), running.id)

        assert [Applied.APPLIED] * 3 == [one.answer for one in answers]
        assert given == [attrs.evolve(one.memo, place=0) for one in answers if one.memo is not None]
        assert (False, True) == (running.job.has_memos, later.job.has_memos)
        found = flow.recall_of(later)
        assert found is not None
        assert given == [attrs.evolve(memo, place=0) for memo in found]
        assert found == flow.storage.recall(running.id)
        assert [one.memo for one in answers] == found
        places = [memo.place for memo in found]
        assert sorted(set(places)) == places

    def test_first_finished_value_of_a_memo_is_final(self, flow: FlowScene) -> None:
        """A finished memo keeps its value forever, and is returned for any later memo with its name.

        A repeat of the same memo, for example after a lost reply, returns `ALREADY`.

        If this fails: two runs of a job continue with two results of one step.
        """
        running = flow.run()
        memo = _step(running, "charge", '"first"')
        first = flow.remember(memo)

        again = flow.remember(memo)
        other = flow.keep(running, "charge", '"second"')
        begun = flow.keep(running, "charge", None, is_done=False)

        assert [Applied.APPLIED, Applied.ALREADY, Applied.TAKEN, Applied.TAKEN] == [
            one.answer for one in (first, again, other, begun)
        ]
        assert {first.memo} == {one.memo for one in (first, again, other, begun)}
        assert {(_STEP, "charge"): '"first"'} == flow.recalled(running.id)

    def test_begun_memo_is_replaced_in_its_place(self, flow: FlowScene) -> None:
        """An unfinished memo is replaced in its place by the next memo with `replaces` set.

        If this fails: a call is forgotten when its result arrives, or a second child is created for it.
        """
        running = flow.run()
        flow.keep(running, "child", '{"ids": ["a"]}', kind=_CALL, is_done=False)
        flow.keep(running, "after", "1")

        kept = flow.keep(running, "child", '{"ids": ["b"]}', kind=_CALL, is_done=False, replaces=False)
        again = flow.keep(running, "child", '{"ids": ["c"]}', kind=_CALL, is_done=False)
        done = flow.keep(running, "child", '"result"', kind=_CALL)

        assert [Applied.TAKEN, Applied.APPLIED, Applied.APPLIED] == [
            one.answer for one in (kept, again, done)
        ]
        assert kept.memo is not None
        assert ('{"ids": ["a"]}', False) == (kept.memo.value, kept.memo.is_done)
        assert [(_CALL, "child"), (_STEP, "after")] == list(flow.recalled(running.id))
        assert '"result"' == flow.recalled(running.id)[_CALL, "child"]

    def test_memos_of_other_kinds_and_jobs_are_separate(self, flow: FlowScene) -> None:
        """The same name with four kinds identifies four memos, and each job has its own memos.

        If this fails: a step named "approve" ends the wait for a signal named "approve".
        """
        holder = flow.begin()
        one, other = flow.running(holder, *flow.add_many(2))

        for kind in MemoKind:
            assert Applied.APPLIED is flow.keep(one, "name", f'"{kind}"', kind=kind).answer
        flow.keep(other, "name", '"other"')

        assert {(kind, "name"): f'"{kind}"' for kind in MemoKind} == flow.recalled(one.id)
        assert {(_STEP, "name"): '"other"'} == flow.recalled(other.id)

    def test_memos_of_one_call_are_stored_in_order(self, flow: FlowScene) -> None:
        """The memos of a call, for any jobs, are stored one by one; each has its own result, in order.

        If this fails: concurrent steps overwrite each other, or one refused memo causes the loss of the
        others.
        """
        one, other = flow.running(flow.begin(), *flow.add_many(2))
        stale = attrs.evolve(_step(one, "stale"), fence=one.job.fence + 7)

        answers = flow.storage.remember(
            [_step(one, "a"), stale, _step(other, "b"), _step(one, "a", "2"), signal(flow.new_id(), "x")]
        )

        assert [Applied.APPLIED, Applied.REFUSED, Applied.APPLIED, Applied.TAKEN, Applied.MISSING] == [
            answer.answer for answer in answers
        ]
        assert Remembered(Applied.MISSING) == answers[-1]
        assert [{(_STEP, "a"): "1"}, {(_STEP, "b"): "1"}] == [flow.recalled(one.id), flow.recalled(other.id)]
        assert [] == flow.storage.remember([])

    @pytest.mark.parametrize(
        "text", ["x" * 200, "\U0001f525" * 200, "page:1 'é' \"☃\" %s {} \\n", "a\tb", " ", "名"]
    )
    def test_memo_names_and_values_are_any_string(self, flow: FlowScene, text: str) -> None:
        """A name of up to 200 characters, a value and an author are returned as they were given.

        If this fails: a job recalls a different step from the one that it has done.
        """
        running = flow.run()
        flow.keep(running, text, text)
        flow.keep(running, f"{text[:198]}2", text)
        assert Applied.APPLIED is flow.send(running.id, text, text, author=text)

        found = flow.storage.recall(running.id)

        assert found is not None
        assert [
            (_STEP, text, text, ""),
            (_STEP, f"{text[:198]}2", text, ""),
            (_SIGNAL, text, text, text),
        ] == [(memo.kind, memo.name, memo.value, memo.author) for memo in found]

    # ---- guards ------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("how", ["stale", "another session", "ended", "deleted", "crashed", "suspended"])
    def test_old_run_neither_stores_nor_recalls_memos(self, flow: FlowScene, how: str) -> None:
        """A run that no longer holds its job stores nothing, and recalls nothing that a newer run has stored.

        If this fails: an old run overtakes the new one, and both results of a step are used.
        """
        running = flow.run()
        flow.keep(running, "a")
        old = running
        match how:
            case "stale":
                flow.settle(retries(running))
                flow.run(running.holder, running.id)
            case "another session":
                old = attrs.evolve(running, holder=flow.begin("another"))
            case "ended":
                flow.settle(succeeds(running))
            case "deleted":
                flow.settle(deletes(running.id))
            case "crashed":
                flow.lose(running.holder)
            case "suspended":
                flow.settle(suspends(running))

        answer = flow.keep(old, "b")

        assert (Applied.REFUSED, None) == (answer.answer, flow.recall_of(old))
        assert {(_STEP, "a"): '"kept"'} == flow.recalled(running.id)

    def test_memo_of_an_unknown_job_is_missing(self, flow: FlowScene) -> None:
        """For an unknown job `remember` returns `MISSING`, and `recall` returns None.

        If this fails: memos accumulate that belong to no job.
        """
        unknown = flow.new_id()

        assert Applied.MISSING is flow.send(unknown, "x")
        assert None is flow.storage.recall(unknown)
        assert None is flow.storage.recall(unknown, session="session-a", fence=1)
        assert [] == flow.storage.recall(flow.add())

    @pytest.mark.parametrize("bound", ["number", "bytes"])
    def test_memos_beyond_the_limits_are_refused(self, flow: FlowScene, bound: str) -> None:
        """Beyond MEMOS_LIMIT memos, or MEMOS_BYTES of values, new memos are refused; nothing else changes.

        If this fails: one job that loops fills the storage.
        """
        running = flow.run()
        value, number = ("1", MEMOS_LIMIT) if bound == "number" else ("é" * (MEMO_BYTES // 2), _FULL)
        full = [_step(running, f"step {place}", value) for place in range(number)]
        assert {Applied.APPLIED} == {one.answer for one in flow.storage.remember(full)}

        refused = [flow.remember(_step(running, "one more")), flow.send(running.id, "approval")]

        assert [Remembered(Applied.REFUSED), Applied.REFUSED] == refused
        assert Applied.ALREADY is flow.remember(full[-1]).answer
        assert number == len(flow.recalled(running.id))

    # ---- signals -----------------------------------------------------------------------------------------

    def test_signal_enqueues_the_waiting_job_once(self, flow: FlowScene) -> None:
        """A suspended job uses no worker and no attempt; the signal for which it waits enqueues it once.

        If this fails: an approval never reaches its job, or starts it twice.
        """
        running = flow.run()
        flow.begin_wait(running, "approval")
        assert Applied.APPLIED is flow.apply(suspends(running))
        record = flow.record(running.id)
        assert (State.AWAITING, "signal approval", 0, None, None) == (
            record.state, record.waits_for, record.attempt, record.session, record.ended_at,
        )  # fmt: skip
        assert [] == flow.claim_ids(running.holder)
        before = flow.now()

        answer = flow.send(running.id, "approval")

        record = flow.record(running.id)
        assert (Applied.APPLIED, State.ENQUEUED, None) == (answer, record.state, record.waits_for)
        assert Moved.SIGNALLED.format(name="approval") == record.reason == flow.last_entry(running.id).reason
        assert record.enqueued_at is not None
        assert before <= record.enqueued_at <= flow.now()
        states = [entry.state for entry in flow.history(running.id)]
        assert [State.ENQUEUED, State.AWAITING, State.ENQUEUED] == states
        later = flow.run(flow.begin("b"), running.id)
        assert (1, True) == (later.job.attempt, later.job.has_memos)
        assert {(_SIGNAL, "approval"): '"yes"'} == flow.recalled(running.id)

    def test_other_signals_do_not_resume_a_waiting_job(self, flow: FlowScene) -> None:
        """Other signals, even with a longer or similar name, leave a job waiting, but they are stored.

        If this fails: a job continues without the signal for which it waits.
        """
        running = flow.run()
        flow.settle(suspends(running))

        answers = [flow.send(running.id, name) for name in ("approval:2", "approv", "APPROVAL", "refusal")]

        assert [Applied.APPLIED] * 4 == answers
        assert (State.AWAITING, 4) == (flow.state(running.id), len(flow.recalled(running.id)))
        assert "signal approval" == flow.record(running.id).waits_for

    def test_begun_signal_does_not_resume_a_waiting_job(self, flow: FlowScene) -> None:
        """A signal that has begun but is not finished does not wake the job that waits for it.

        If this fails: a job continues with an answer that nobody has given.
        """
        running = flow.run()
        flow.settle(suspends(running))
        begun = Memo(_SIGNAL, "approval", None, False, BASE, author="ada")

        answer = flow.remember(NewMemo(running.id, begun)).answer

        assert Applied.APPLIED is answer
        flow.check(running.id, state=State.AWAITING, waits_for="signal approval")
        assert Applied.APPLIED is flow.send(running.id, "approval")
        assert State.ENQUEUED is flow.state(running.id)

    @pytest.mark.parametrize("when", ["enqueued", "running", "begun", "scheduled"])
    def test_signal_sent_before_the_wait_is_kept(self, flow: FlowScene, when: str) -> None:
        """A signal that arrives before the job waits for it is stored, and the suspension finds it.

        If this fails: an answer that arrives before the job waits for it is lost.
        """
        job_id = flow.schedule(3_600) if when == "scheduled" else flow.add()
        if when in ("enqueued", "scheduled"):
            assert Applied.APPLIED is flow.send(job_id, "approval")
            flow.advance(7_200)
            flow.promote()
        running = flow.run(flow.begin(), job_id)
        if when == "begun":
            flow.begin_wait(running, "approval")
        if when in ("running", "begun"):
            assert Applied.APPLIED is flow.send(job_id, "approval")
            assert State.PROCESSING is flow.state(job_id)

        result = flow.apply(suspends(running, due_at=BASE + 9 * HOUR))

        record = flow.record(job_id)
        assert (True, State.ENQUEUED, None, None) == (
            result.is_applied, record.state, record.waits_for, record.due_at,
        )  # fmt: skip
        assert '"yes"' == flow.recalled(job_id)[_SIGNAL, "approval"]
        last = flow.last_entry(job_id)
        assert (State.ENQUEUED, Moved.SIGNALLED.format(name="approval")) == (last.state, last.reason)
        assert State.AWAITING not in [entry.state for entry in flow.history(job_id)]
        assert [job_id] == flow.claim_ids(flow.begin("b"))

    def test_begun_wait_does_not_end_its_own_suspension(self, flow: FlowScene) -> None:
        """A begun wait without a signal does not prevent the suspension of its own job.

        If this fails: a waiting job runs again and again.
        """
        running = flow.run()
        flow.begin_wait(running, "approval", BASE + HOUR)

        flow.settle(suspends(running, due_at=BASE + HOUR))

        flow.check(running.id, state=State.AWAITING, due_at=BASE + HOUR, waits_for="signal approval")

    def test_first_of_two_signals_is_stored(self, flow: FlowScene) -> None:
        """Of two signals with the same name, the first is stored; a repeat by its sender returns `ALREADY`.

        If this fails: an approval is overruled after the job has continued with it.
        """
        job_id = flow.add()
        memo = signal(job_id, "approval", '"yes"', "ada")

        answers = [
            flow.remember(memo).answer, flow.send(job_id, "approval", '"no"', "bob"),
            flow.remember(memo).answer, flow.send(job_id, "approval", '"yes"', "bob"),
        ]  # fmt: skip

        assert [Applied.APPLIED, Applied.TAKEN, Applied.ALREADY, Applied.TAKEN] == answers
        memos = flow.storage.recall(job_id)
        assert memos is not None
        assert [('"yes"', "ada")] == [(one.value, one.author) for one in memos]

    def test_ended_job_stores_a_signal_only_if_it_failed(self, flow: FlowScene) -> None:
        """A failed job stores a signal for its requeue; a job that has succeeded or was deleted refuses it.

        If this fails: a signal is reported as accepted, although no run will ever read it.
        """
        one, two, three = flow.running(flow.begin(), *flow.add_many(3))
        flow.settle(succeeds(one))
        flow.settle(fails(two))
        flow.settle(deletes(three.id))

        answers = [flow.send(running.id, "approval") for running in (one, two, three)]

        assert [Applied.REFUSED, Applied.APPLIED, Applied.REFUSED] == answers
        assert [0, 1, 0] == [len(flow.recalled(running.id)) for running in (one, two, three)]
        assert [State.SUCCEEDED, State.FAILED, State.DELETED] == flow.states(one.id, two.id, three.id)
        assert flow.apply(requeues(two.id)).is_applied
        again = flow.run(flow.begin("b"), two.id)
        flow.settle(suspends(again))
        assert State.ENQUEUED is flow.state(two.id)

    def test_repeated_signal_returns_already_after_the_job_ended(self, flow: FlowScene) -> None:
        """A repeated signal returns `ALREADY`, even if its job has ended in the meantime.

        If this fails: a sender whose reply was lost gets the error that the job has ended without a decision.
        """
        running = flow.run()
        memo = signal(running.id, "approval")
        flow.remember(memo)
        flow.settle(succeeds(running))

        answers = [flow.remember(memo).answer, flow.send(running.id, "approval", '"no"')]

        assert Applied.ALREADY is answers[0]
        assert not answers[1].is_applied

    # ---- time-outs ---------------------------------------------------------------------------------------

    def test_wait_ends_at_its_due_time(self, flow: FlowScene) -> None:
        """A wait with a due time ends at that time: the job is enqueued and no longer waits.

        Until then, the next due time includes it.

        If this fails: a wait with a time-out lasts forever.
        """
        running = flow.run()
        flow.begin_wait(running, "approval", BASE + 2 * HOUR)
        flow.settle(suspends(running, due_at=BASE + 2 * HOUR))
        flow.schedule(9 * 3_600)
        early = flow.promote()
        flow.advance(3 * 3_600)

        late = flow.promote()

        assert (0, BASE + 2 * HOUR) == (early.promoted, early.next_due_at)
        assert 1 == late.promoted
        record = flow.record(running.id)
        assert (State.ENQUEUED, None, None, 0) == (
            record.state, record.due_at, record.waits_for, record.attempt,
        )  # fmt: skip
        assert 0 == flow.promote().promoted
        assert [running.id] == flow.claim_ids(flow.begin("b"))

    def test_first_of_time_out_and_signal_is_stored(self, flow: FlowScene) -> None:
        """After a stored time-out a signal is too late, and after a stored signal a time-out is too late.

        If this fails: a job continues as if nobody had answered, although the sender was notified that the
        answer was accepted.
        """
        holder = flow.begin()
        one, other = flow.running(holder, *flow.add_many(2))

        timed_out = flow.time_out(one, "approval")
        late = flow.send(one.id, "approval")
        early = flow.send(other.id, "approval")
        too_late = flow.time_out(other, "approval")

        assert [Applied.APPLIED, Applied.TAKEN, Applied.APPLIED, Applied.TAKEN] == [
            timed_out.answer, late, early, too_late.answer,
        ]  # fmt: skip
        assert too_late.memo is not None
        assert ('"yes"', "ada") == (too_late.memo.value, too_late.memo.author)
        assert {(_SIGNAL, "approval"): None} == flow.recalled(one.id)

    def test_signal_removes_the_time_out_of_a_wait(self, flow: FlowScene) -> None:
        """A job that was woken by its signal is no longer due, even if it waits again.

        If this fails: an obsolete time-out starts a job in the middle of its next wait.
        """
        running = flow.run()
        flow.settle(suspends(running, due_at=BASE + HOUR))
        flow.send(running.id, "approval")
        again = flow.run(flow.begin("b"), running.id)
        flow.settle(suspends(again, "second"))
        flow.advance(5 * 3_600)

        promotion = flow.promote()

        assert (0, None) == (promotion.promoted, promotion.next_due_at)
        flow.check(running.id, state=State.AWAITING, due_at=None, waits_for="signal second")

    # ---- suspensions -------------------------------------------------------------------------------------

    @pytest.mark.parametrize("how", ["stale", "another session", "deleted"])
    def test_suspension_by_an_old_run_is_refused(self, flow: FlowScene, how: str) -> None:
        """Like any other result, a suspension is refused if its run has lost the job.

        If this fails: an old run suspends a job that a new run is processing.
        """
        running = flow.run()
        late = suspends(running)
        match how:
            case "stale":
                flow.settle(retries(running))
                flow.run(running.holder, running.id)
            case "another session":
                late.session = flow.begin("another").session
            case "deleted":
                flow.settle(deletes(running.id))

        assert Applied.REFUSED is flow.apply(late)
        assert (State.DELETED if how == "deleted" else State.PROCESSING) is flow.state(running.id)
        assert None is flow.record(running.id).waits_for

    @pytest.mark.parametrize("how", ["requeued", "deleted"])
    def test_waiting_job_can_be_requeued_or_deleted(self, flow: FlowScene, how: str) -> None:
        """A waiting job can be deleted, or requeued to run from its start; signals no longer affect it.

        If this fails: an operator cannot end a wait, or a late answer starts a deleted job.
        """
        running = flow.run()
        flow.keep(running, "a")
        flow.settle(suspends(running, due_at=BASE + HOUR))

        change = requeues(running.id) if how == "requeued" else deletes(running.id)
        assert flow.apply(change).is_applied
        answer = flow.send(running.id, "approval")
        flow.advance(7_200)
        flow.promote()

        moved = (Applied.APPLIED, State.ENQUEUED) if how == "requeued" else (Applied.REFUSED, State.DELETED)
        assert moved == (answer, flow.state(running.id))
        flow.check(running.id, waits_for=None, due_at=None)
        assert (1 if how == "requeued" else 0) == len(flow.claim_ids(flow.begin("b")))

    def test_exchange_suspends_a_job_and_claims_the_next(self, flow: FlowScene) -> None:
        """An exchange that suspends a job claims the next one in the same call.

        If this fails: waiting jobs still occupy a worker.
        """
        a, b = flow.add_many(2)
        holder = flow.begin()
        one = flow.take(holder, 1)[0]

        exchange = flow.exchange(holder, [suspends(one)], 1)

        assert ([a, b], True) == ([one.id, exchange.claim.jobs[0].id], exchange.results[0].is_applied)
        assert State.AWAITING is flow.state(a)

    def test_sleeping_job_is_scheduled_without_using_a_retry(self, flow: FlowScene) -> None:
        """A sleeping job is scheduled, shows what it waits for, and uses no retry; later it is enqueued.

        If this fails: a sleep is shown as a failure, or occupies a worker.
        """
        running = flow.run()
        flow.settle(retries(running))
        running = flow.run(flow.begin("b"), running.id)
        flow.keep(running, "night", str(BASE + 2 * HOUR), kind=_SLEEP)

        flow.settle(sleeps(running, "night", due_at=BASE + 2 * HOUR))

        record = flow.record(running.id)
        assert (State.SCHEDULED, BASE + 2 * HOUR, "sleep night", 1, False, 1) == (
            record.state, record.due_at, record.waits_for, record.retries, record.is_retrying, record.attempt,
        )  # fmt: skip
        flow.advance(3 * 3_600)
        assert 1 == flow.promote().promoted
        flow.check(running.id, state=State.ENQUEUED, waits_for=None)
        again = flow.run(flow.begin("c"), running.id)
        assert 2 == again.job.attempt
        flow.settle(retries(again, due_at=flow.now() + HOUR))
        assert flow.record(running.id).is_retrying

    def test_sleeping_job_can_be_rescheduled(self, flow: FlowScene) -> None:
        """An operator can reschedule a sleeping job, like every scheduled job.

        If this fails: a job that sleeps for a month cannot be woken.
        """
        running = flow.run()
        flow.settle(sleeps(running, "month", due_at=BASE + 30 * DAY))

        assert flow.apply(reschedules(running.id, due_at=BASE + HOUR)).is_applied
        flow.advance(7_200)

        assert (1, State.ENQUEUED) == (flow.promote().promoted, flow.state(running.id))

    @requires(Feature.LIMITS)
    def test_suspended_job_frees_its_limit(self, flow: FlowScene) -> None:
        """A waiting job holds no slot of its limit key; it takes one again when it continues.

        If this fails: two approvals that nobody answers stop all jobs of a tenant.
        """
        flow.set_limit("kit-wait", concurrent=1)
        first, second = flow.add_limited(2, "kit-wait")
        holder = flow.begin()
        (one,) = flow.take(holder)

        flow.settle(suspends(one))
        (two,) = flow.take(holder)
        flow.send(first, "approval")

        assert ([first, second], []) == ([one.id, two.id], flow.take(holder))
        flow.settle(succeeds(two))
        assert [first] == [running.id for running in flow.take(holder)]
        assert ["kit-wait"] == [key.key for key in flow.storage.find_keys("kit-wait") if key.running == 1]

    # ---- forgotten memos ---------------------------------------------------------------------------------

    def test_requeue_forgets_the_named_memo_and_all_later_ones(self, flow: FlowScene) -> None:
        """A requeue with `forget_from` deletes the named memo and all recorded after it; others stay.

        The place of a memo is determined by the first record of its name, not by its completion.

        If this fails: "run again from here" repeats earlier steps, or continues with the results of later
        ones.
        """
        running = flow.run()
        flow.keep(running, "a")
        flow.keep(running, "b", None, kind=_CALL, is_done=False)
        flow.keep(running, "c")
        flow.keep(running, "b", '"late"', kind=_CALL)
        flow.send(running.id, "b")
        flow.settle(fails(running))

        assert flow.apply(forgets(running.id, _CALL, "b")).is_applied

        assert (State.ENQUEUED, [(_STEP, "a")]) == (flow.state(running.id), list(flow.recalled(running.id)))
        again = flow.run(flow.begin("b"), running.id)
        assert Applied.APPLIED is flow.keep(again, "c", '"new"').answer
        assert {(_STEP, "a"): '"kept"', (_STEP, "c"): '"new"'} == flow.recalled(running.id)

    def test_refused_requeue_forgets_no_memos(self, flow: FlowScene) -> None:
        """If the memo does not exist, or the job runs, the requeue is refused and nothing is forgotten.

        If this fails: a running job loses its memos.
        """
        running = flow.run()
        flow.keep(running, "a")
        while_running = flow.apply(forgets(running.id, _STEP, "a"))
        flow.settle(fails(running))

        wrong = [
            flow.apply(forgets(running.id, _STEP, "b")),
            flow.apply(forgets(running.id, _CALL, "a")),
        ]

        assert [Applied.REFUSED] * 3 == [while_running, *wrong]
        assert (State.FAILED, {(_STEP, "a"): '"kept"'}) == (
            flow.state(running.id), flow.recalled(running.id),
        )  # fmt: skip
        assert flow.apply(forgets(running.id, _STEP, "a")).is_applied
        assert {} == flow.recalled(running.id)

    def test_job_waits_again_after_its_signal_was_forgotten(self, flow: FlowScene) -> None:
        """If the memo of a wait was forgotten, the job waits again, and another signal is accepted.

        If this fails: a wrong approval can never be corrected.
        """
        running = flow.run()
        flow.send(running.id, "approval", '"no"')
        flow.settle(succeeds(running))
        flow.settle(forgets(running.id, _SIGNAL, "approval"))
        again = flow.run(flow.begin("b"), running.id)

        flow.settle(suspends(again))
        answer = flow.send(running.id, "approval", '"yes"')

        assert (Applied.APPLIED, State.ENQUEUED) == (answer, flow.state(running.id))
        assert {(_SIGNAL, "approval"): '"yes"'} == flow.recalled(running.id)

    def test_retries_crashes_and_requeues_keep_memos(self, flow: FlowScene) -> None:
        """Retries, crashes, failures and requeues leave all memos unchanged.

        If this fails: a job that is fixed and requeued makes a payment twice.
        """
        running = flow.run()
        flow.keep(running, "a")
        flow.lose(running.holder)
        running = flow.run(flow.begin("b"), running.id)
        flow.keep(running, "b")
        flow.settle(fails(running))

        flow.settle(requeues(running.id))

        assert [(_STEP, "a"), (_STEP, "b")] == list(flow.recalled(running.id))

    def test_prune_deletes_the_memos_of_a_job(self, flow: FlowScene) -> None:
        """After a job was pruned, none of its memos is recalled.

        If this fails: memos of jobs that were pruned long ago fill the storage.
        """
        running = flow.run()
        flow.keep(running, "a")
        flow.settle(succeeds(running, expires_at=BASE - DAY))

        assert 1 == flow.prune()

        assert None is flow.storage.recall(running.id)
        assert Applied.MISSING is flow.send(running.id, "x")

    @requires(Feature.TRANSACTIONAL_ENQUEUE)
    @pytest.mark.parametrize("commits", [True, False])
    def test_memo_is_stored_with_its_transaction(
        self, flow: FlowScene, open_transaction: object, commits: bool
    ) -> None:
        """A memo stored within a transaction exists after its commit, or not at all.

        Therefore a memo and the effect of its step are stored together.

        If this fails: a step is done twice, or is skipped although its effect was rolled back.
        """
        assert callable(open_transaction)
        running = flow.run()

        with open_transaction(commits) as within:
            (answer,) = flow.storage.remember([_step(running, "a")], within=within)

        assert Applied.APPLIED is answer.answer
        assert ({(_STEP, "a"): "1"} if commits else {}) == flow.recalled(running.id)

    @requires(Feature.TRANSACTIONAL_ENQUEUE)
    def test_memo_of_an_old_run_is_refused_within_a_transaction(
        self, flow: FlowScene, open_transaction: object
    ) -> None:
        """A memo of an old run is also refused within a transaction.

        If this fails: two runs of a job both do a step that must be done only once.
        """
        assert callable(open_transaction)
        running = flow.run()
        flow.lose(running.holder)

        with open_transaction(True) as within:
            (answer,) = flow.storage.remember([_step(running, "a")], within=within)

        assert (Applied.REFUSED, {}) == (answer.answer, flow.recalled(running.id))

    @requires(Feature.UNIQUE)
    def test_suspended_job_keeps_its_unique_key(self, flow: FlowScene) -> None:
        """A suspended job keeps its unique key, because it has not ended.

        If this fails: a second approval of an order is requested while the first still waits.
        """
        unique = asks(unique=UniqueUse("tasks.run kit/wait"))
        job_id = flow.add(admission=unique)
        flow.settle(suspends(flow.run(flow.begin(), job_id)))

        (answer,) = flow.storage.insert([flow.new_job(admission=unique)]).is_new

        assert not answer
        assert State.AWAITING is flow.state(job_id)


_FULL = MEMOS_BYTES // MEMO_BYTES
