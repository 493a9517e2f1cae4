"""The models' counter-examples, played on a storage: each move of a trail is the call that performs it.

If a model splits an operation into two moves, so that other moves can come between them, the storage has one
verb for both. Then only the order of the verbs remains. A move that only a broken form makes is refused by
the storage, or has the correct result. Everything is checked after each verb. At the end, every job that can
continue does so.
"""

from __future__ import annotations

import json
from pathlib import Path

from firelock.errors import BatchFinished
from firelock.model.dependencies import Edge, Relations
from firelock.model.memo import MemoKind
from firelock.model.state import FINAL_STATES, State
from firelock.testing.conformance import scene as ends
from firelock.testing.conformance.flow_scene import FlowScene, call_memo, forgets, suspends
from firelock.testing.conformance.operations.batch_operations import BatchGround
from firelock.testing.conformance.scene import BASE, DAY, HOUR, Handles

from .batch_variants import SCENES

_HOLD = 5 * HOUR
_TABLE = Path(__file__).with_name("counter_examples.txt")


class BatchSchedule(BatchGround):
    """A scene of the batch model, played on a storage."""

    def __init__(self, open_handle, scene):
        super().__init__(open_handle, 0)
        self.plan = SCENES[scene]
        number = 1 + len(self.plan.outer_of)
        self.batch_ids = [self.flow.new_id()]
        self.batch_ids += self.flow.storage.new_ids(number - 1, self.batch_ids[0]) if number > 1 else []
        self.ids = self.flow.storage.new_ids(len(self.plan.batch_of), self.batch_ids[0])
        self.running, self.lost = {}, {}  # the members' runs: current runs, and runs that have lost their job
        self.wanted = set()  # requeued members, with no failure since
        if not self.plan.chunks:
            self._store_all()

    # ---- storing -----------------------------------------------------------------------------------------

    def _new_batch(self, place, **fields):
        outer, source = self.plan.outer_of.get(place), self.plan.after.get(place)
        return self.flow.new_batch(
            within=None if outer is None else self.batch_ids[outer],
            after=[] if source is None else [self.ids[source]],
            fails_fast=place in self.plan.fails_fast, id=self.batch_ids[place], **fields,
        )  # fmt: skip

    def _new_member(self, place):
        batch, parent = self.batch_ids[self.plan.batch_of[place]], self.plan.parent_of.get(place)
        waits = {"state": State.AWAITING, "parents": (Edge(self.ids[parent or 0]),)}
        fields = waits if parent is not None else {}
        return self.flow.new_tied(Relations(batch), {"id": self.ids[place], "queue": f"m{place}", **fields})

    def _store(self, batches, members):
        callbacks = {batch.id: self.new_callbacks(batch.id) for batch in batches}
        try:
            self.storage.insert([*batches, *members, *(job for some in callbacks.values() for job in some)])
        except BatchFinished:
            self.record("  refused, the batch is over")
            return
        self.jobs += [job.id for job in members]
        self.batches += [batch.id for batch in batches]
        self.callbacks |= {batch: [job.id for job in some] for batch, some in callbacks.items()}

    def _store_all(self):
        late = set(self.plan.adds.values())
        members = [place for place in range(len(self.ids)) if place not in late]
        for batch in reversed(range(len(self.batch_ids))):  # batches that others wait for come first
            own = [place for place in members if self.plan.batch_of[place] == batch]
            self._store([self._new_batch(batch)], [self._new_member(place) for place in own])

    # ---- moves -------------------------------------------------------------------------------------------

    def play(self, trail):
        """Make every move of the trail, and check everything after each move and at the end."""
        for move in trail:
            self.record(move)
            words = move.split()
            verb = "_".join(word for word in words if not word.isdigit() and word not in ("refused", "to"))
            places = [int(word) for word in words if word.isdigit()]
            try:
                getattr(self, f"do_{verb}", self.do_release)(*places)
                self._judge_all()
            except AssertionError as error:
                raise AssertionError(f"{error}\n{' > '.join(self.recorded)}") from error
        self.settle()
        self._judge_all()
        self.held = list(self.running.values())
        self.end()

    def _judge_all(self):
        records = self.stored()
        self.judge(records)
        swept = [place for place in self.wanted if records[self.ids[place]].state is State.DELETED]
        assert not swept, f"requeued members {swept} are stopped by what failed before"

    def do_release(self, *_):
        """Perform one unit of `release`: update one job's continuations, fold once, or sweep once."""
        self.release(1)

    def do_take(self, *_):
        """Do nothing: on a storage a fold is one operation, see `do_release`."""

    do_look_add = do_look_sweep = do_nothing_sweep = do_take

    def do_store(self, chunk):
        """Store a chunk; the first one also stores the batch, which is held."""
        members = [self._new_member(place) for place in self.plan.chunks[chunk]]
        if chunk == 0:
            self._store([self._new_batch(0, due_at=self.flow.now() + _HOLD)], members)
        else:
            self._store([], members)

    def do_store_all(self):
        """Store the batch and its members in one operation."""
        self._store([self._new_batch(0)], [self._new_member(place) for place in self.plan.chunks[0]])

    def do_close(self):
        """End the hold of the batch."""
        self.flow.hold(self.batch_ids[0], None)

    def do_creator(self):
        """Store the second chunk, in time or not, and end the hold."""
        self.do_store(len(self.plan.chunks) - 1)
        self.do_close()

    def do_creator_dies(self):
        """Do nothing: from now on, the hold is not extended."""

    def do_hold_expires(self):
        """Move the clock past the time of the hold."""
        self.flow.advance(2 * _HOLD / 1_000_000)
        self.flow.promote()

    def do_claim(self, place):
        """Claim the member with a separate session."""
        for running in self.flow.take(self.begin(), 1, [f"m{place}"]):
            self.running[place] = running

    def do_succeed(self, place):
        """Settle the member's run as succeeded."""
        if place in self.running:
            self.flow.apply(ends.succeeds(self.running.pop(place)))

    def do_fail(self, place):
        """Settle the member's run as finally failed."""
        if place in self.running:
            self.flow.apply(ends.fails(self.running.pop(place)))
        self.wanted.clear()

    def do_lose(self, place):
        """End the session of the member's run."""
        if place in self.running:
            self.lost[place] = self.running.pop(place)
            self.flow.lose(self.lost[place].holder)

    def do_late_end(self, place):
        """Send the end of a run that has lost its job; the storage must refuse it."""
        if place in self.lost:
            assert not self.flow.apply(ends.succeeds(self.lost.pop(place))).is_applied

    def do_tail_over(self, place):
        """Send the end of a run that was cancelled."""
        if place in self.running:
            self.flow.apply(ends.succeeds(self.running.pop(place)))

    def do_add(self, place):
        """Add a member from within a member."""
        self._store([], [self._new_member(place)])

    def do_add_from_outside(self):
        """Add a member from outside, in time or not."""
        over = self.flow.state(self.batch_ids[0]) in FINAL_STATES
        before = len(self.jobs)
        self.do_add(self.plan.added_outside)
        assert over == (len(self.jobs) == before), "a job was added to a batch that has ended"

    def do_requeue(self, place):
        """Requeue the member."""
        if self.flow.apply(ends.requeues(self.ids[place])).is_applied:
            self.wanted.add(place)

    def do_delete(self, place):
        """Delete the member."""
        self.wanted.discard(place)
        self.flow.apply(ends.deletes(self.ids[place]))

    def do_cancel(self, place):
        """Cancel the batch."""
        self.wanted.clear()
        self.flow.apply(ends.deletes(self.batch_ids[place]))

    def do_continue(self, _):
        """Update the continuations of the batch."""
        self.settle()


class StepSchedule:
    """The job of the step model, played on a storage: it waits for a signal and then runs a step."""

    def __init__(self, open_handle):
        self.handles = Handles(open_handle)
        self.flow = FlowScene(self.handles)
        self.job = self.flow.add()
        self.runs = {}  # by worker, including lost ones
        self.begun = self.generation = 0
        self.accepted = {}  # by generation
        self.seen = set()  # values that current runs continued with: generation, name, value
        self.due_at = BASE + 10 * HOUR

    def close(self):
        """Close every handle."""
        self.handles.close()

    def play(self, trail):
        """Make every move; then the job must continue to its end with the accepted signal."""
        for move in trail:
            self._do(move)
            self._judge()
        self._finish()

    def _do(self, move):
        words = [word for word in move.replace(",", "").split() if not word.isdigit()]
        numbers = [int(word) for word in move.split() if word.isdigit()]
        name = " ".join(words)
        match name.removesuffix(" refused"):
            case "signal" | "signal writes":
                self._send(numbers[0])
            case "it is late":
                self.flow.advance(20 * 3_600)
            case "promote":
                self.flow.promote()
            case "requeue":
                self.flow.apply(ends.requeues(self.job))
            case "again from here":
                self._forget()
            case "delete":
                self.flow.apply(ends.deletes(self.job))
            case "claim":
                self._claim(numbers[0])
            case other if numbers and numbers[0] in self.runs:
                self._work(numbers[0], other)

    def _send(self, who):
        if self.flow.state(self.job) in (State.SUCCEEDED, State.DELETED):
            return
        if self.flow.send(self.job, "approval", f'"{who}"').is_applied:
            assert self.generation not in self.accepted, "two signals were both accepted"
            self.accepted[self.generation] = f'"{who}"'

    def _forget(self):
        memos = self.flow.storage.recall(self.job)
        change = forgets(self.job, memos[0].kind, memos[0].name) if memos else ends.requeues(self.job)
        if self.flow.apply(change).is_applied and memos:
            self.generation += 1

    def _claim(self, worker):
        self.begun += 1
        for running in self.flow.take(self.flow.begin(str(self.begun)), 1):
            self.runs[worker] = running

    def _work(self, worker, what):
        running = self.runs[worker]
        match what:
            case "kill" | "lose":
                self.flow.lose(running.holder)
                if what == "kill":
                    del self.runs[worker]
            case "recall":
                for memo in self.flow.recall_of(running) or ():
                    if memo.is_done:
                        self.seen.add((self.generation, memo.name, memo.value))
            case "begin":
                self._saw("approval", self.flow.begin_wait(running, "approval", self.due_at))
            case "time-out" | "takes it for the time-out":
                self._saw("approval", self.flow.time_out(running, "approval"))
            case "remember":
                self._saw("b", self.flow.keep(running, "b", f'"{running.job.fence}"'))
            case "suspend" | "suspend it is there":
                self.flow.apply(suspends(running, due_at=self.due_at))
                del self.runs[worker]
            case "end":
                self.flow.apply(ends.succeeds(running))
                del self.runs[worker]

    def _saw(self, name, answer):
        if answer.memo is not None and answer.memo.is_done:
            self.seen.add((self.generation, name, answer.memo.value))

    def _judge(self):
        names = [(generation, name) for generation, name, _ in self.seen]
        assert len(set(names)) == len(names), f"runs of one generation saw different values: {self.seen}"
        for generation, name, value in self.seen:
            if name == "approval" and generation in self.accepted:
                assert value == self.accepted[generation], "another answer was used than the accepted one"
        record = self.flow.record(self.job)
        self._judge_waits()
        for worker, running in self.runs.items():
            is_present = (record.session, record.fence) == (running.holder.session, running.job.fence)
            if not (is_present and record.state is State.PROCESSING):
                assert self.flow.recall_of(running) is None, f"worker {worker} recalls what is not its own"

    def _judge_waits(self):
        waits = self.flow.state(self.job) is State.AWAITING
        assert not (waits and self.generation in self.accepted), "it waits for what was accepted"

    def _finish(self):
        for running in self.runs.values():  # runs in progress suspend, or have lost their job
            self.flow.apply(suspends(running, due_at=self.due_at))
        self._judge_waits()
        self.flow.apply(ends.requeues(self.job))
        self.flow.advance(20 * 3_600)
        self.flow.promote()
        self.runs = {}
        self._claim(0)
        for move in ("recall 0", "begin 0", "time-out 0", "remember 0"):
            self._do(move)
            self._judge()
        if not self.accepted.get(self.generation):
            assert (self.generation, "approval", None) in self.seen
        self._do("end 0")
        assert self.flow.state(self.job) is State.SUCCEEDED


class CallSchedule:
    """The caller of the call model, played on a storage."""

    def __init__(self, open_handle):
        self.handles = Handles(open_handle)
        self.flow = FlowScene(self.handles)
        self.job = self.flow.add()
        # by worker, and the workers that are about to wait
        self.runs, self.child_of, self.waiting = {}, {}, set()
        self.children = []  # in the order of their names
        self.begun = 0

    def close(self):
        """Close every handle."""
        self.handles.close()

    def play(self, trail):
        """Make every move; then the caller must continue to its end with its child's result."""
        for move in trail:
            self._do(move)
        self._finish()

    def _do(self, move):
        words = move.replace(",", "").split()
        number = next(int(word) for word in words if word.isdigit())
        name = " ".join(word for word in words if not word.isdigit())
        match name:
            case "claim":
                self._claim(number)
            case "child succeeds" | "child fails":
                self._end_child(number, ends.succeeds if name == "child succeeds" else ends.fails)
            case "release":
                self.flow.settle_all()
            case "prune":
                self.flow.advance(60)
                self.flow.prune()
            case "requeue":
                self.flow.apply(ends.requeues(self.job))
            case other if number in self.runs:
                self._work(number, other)

    def _claim(self, worker):
        self.begun += 1
        for running in self.flow.take(self.flow.begin(str(self.begun)), 1):
            self.runs[worker] = running

    def _work(self, worker, what):
        running = self.runs[worker]
        match what:
            case "kill" | "lose":
                self.flow.lose(running.holder)
                if what == "kill":
                    del self.runs[worker]
            case "name" | "make first":
                self._name(worker)
            case "make":
                self._make(worker)
            case "finds nothing":
                assert self.flow.storage.get(self.child_of[worker])[0], "the result was pruned unread"
            case "suspend" | "suspend it is over":
                children = self.child_of.get(worker, [])
                self.flow.apply(suspends(running, "child", kind=MemoKind.CALL, children=children))
            case "waits":
                self.waiting.add(worker)
            case "keep":
                self.flow.keep(running, "child", '"result"', kind=MemoKind.CALL)
            case "gets the failure":
                self.flow.apply(ends.fails(running))
            case "end":
                self.flow.apply(ends.succeeds(running))

    def _name(self, worker):
        """Store the id of the child that the run will call, unless it is already stored."""
        running = self.runs[worker]
        child = self.flow.storage.new_ids(1, self.job)[0]
        memo = call_memo(running, "child", child)
        answer = self.flow.remember(type(memo)(memo.job_id, memo.memo, memo.session, memo.fence, False))
        if answer.memo is not None and not answer.memo.is_done:
            self.child_of[worker] = json.loads(answer.memo.value)["ids"]
            self._make(worker)
        else:
            assert not answer.answer.is_applied

    def _make(self, worker):
        for child in self.child_of.get(worker, []):
            job = self.flow.new_tied(Relations(caller_id=self.job), {"id": child, "queue": "children"})
            if self.flow.storage.insert([job]).is_new[0]:
                self.children.append(child)

    def _end_child(self, number, end):
        if number >= len(self.children):
            return
        self.begun += 1
        for running in self.flow.take(self.flow.begin(str(self.begun)), 1, ["children"]):
            self.flow.apply(end(running, expires_at=BASE - DAY))

    def _finish(self):
        """Continue without failures: the caller waits for its child and reads the result."""
        for worker in list(self.runs):
            self._work(worker, "suspend" if worker in self.waiting else "lose")
        self.runs = {}
        for _ in range(4):
            self._end_child(0, ends.succeeds)
            self.flow.settle_all()
            self.flow.prune()
            self._claim(0)
            if 0 in self.runs:
                self._name(0)
                (record,) = self.flow.storage.get(self.child_of[0])
                assert record is not None, "what the caller is to read is gone"
                if record.is_final:
                    break
                self._work(0, "suspend")
                del self.runs[0]
        assert self.flow.apply(ends.succeeds(self.runs[0])).is_applied, "the caller never goes on"
        assert len(self.children) == 1, f"{len(self.children)} children were made for one attempt"


def counter_examples(kind):
    """Return the trails of a model's broken forms by their names."""
    found, is_wanted, name = {}, False, ""
    for line in _TABLE.read_text("utf-8").splitlines():
        if line.startswith("===="):
            is_wanted = line.strip("= ") == kind
        elif line.startswith("  ") and is_wanted:
            found[name] = tuple(line.strip().split(" > "))
        else:
            name = line
    return found
