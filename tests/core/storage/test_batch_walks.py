"""Across modules: random operations on nested batches; counts stay correct and every batch ends.

Whenever nothing is left to release, the counts are computed again from the records.
"""

from __future__ import annotations

import itertools
from random import Random

import pytest

from firelock.errors import BatchFinished
from firelock.model.batch import BatchCounts
from firelock.model.dependencies import On
from firelock.model.job import JobFilter
from firelock.model.lifecycle import is_legal
from firelock.model.memo import MemoKind
from firelock.model.state import FINAL_STATES, State
from firelock.storage.memory import MemoryStorage

from .relations import DictStorage, RelationScene

OPERATIONS, CALM = 120, 400
HOLD = 10**12


class Walk:
    """A storage to which random operations are applied."""

    def __init__(self, storage, chance):
        self.scene, self.chance = RelationScene(storage), chance
        self.batches, self.jobs = [], []
        self.runs = {}

    # ---- operations --------------------------------------------------------------------------------------

    def add_batch(self):
        chance, outer = self.chance, self.some(self.batches)
        fellows = [one for one in self.jobs + self.batches if self.batch_of(one) == outer]
        after = [chance.choice(fellows)] if fellows and chance.random() < 0.5 else []
        batch = self.scene.batch(
            batch=outer, after=after, on=chance.choice(list(On)), fails_fast=chance.random() < 0.4,
            hold=HOLD if chance.random() < 0.2 else None,
        )  # fmt: skip
        if self.insert(batch):
            self.batches.append(batch.id)

    def add_job(self):
        chance, batch = self.chance, self.some(self.batches)
        fellows = [one for one in self.jobs + self.batches if self.batch_of(one) == batch and batch]
        after = chance.sample(fellows, min(len(fellows), chance.choice([0, 0, 1, 2])))
        job = self.scene.job(
            batch=batch, after=after, on=chance.choice(list(On)), at=HOLD if chance.random() < 0.1 else None
        )
        if self.insert(job):
            self.jobs.append(job.id)

    def insert(self, job):
        try:
            return self.scene.storage.insert([job]).is_new[0]
        except BatchFinished:
            return False

    def claim(self):
        self.runs |= self.scene.claim(self.chance.choice([1, 3]))

    def end(self):
        if self.runs:
            job = self.runs.pop(self.chance.choice(list(self.runs)))
            (self.scene.fail if self.chance.random() < 0.4 else self.scene.succeed)(job)

    def suspend(self):
        if self.runs:
            self.scene.suspend(self.runs.pop(self.chance.choice(list(self.runs))), due_at=HOLD)

    def signal(self):
        if self.jobs:
            self.scene.signal(self.chance.choice(self.jobs))

    def delete(self):
        self.scene.delete(self.chance.choice(self.jobs + self.batches))

    def requeue(self):
        id = self.chance.choice(self.jobs + self.batches)
        if not self.scene.record(id).is_stopping:
            self.scene.requeue(id, self.chance.choice([None, (MemoKind.SIGNAL, "approval")]))

    def fill(self):
        if self.batches:
            self.scene.hold(self.chance.choice(self.batches), self.chance.choice([None, HOLD]))

    def lose(self):
        """Lose the session and continue with another one."""
        self.scene.lose()
        self.runs = {}

    def release(self):
        self.scene.storage.release(self.chance.choice([1, 2, 5]))

    def perform(self):
        operations = [self.add_job] * 4 + [self.claim] * 3 + [self.end] * 4 + [self.release] * 3
        operations += [self.add_batch, self.suspend, self.signal, self.requeue, self.fill, self.lose]
        operations += [self.delete] * (self.chance.random() < 0.5)
        if self.jobs or self.batches:
            self.chance.choice(operations)()
        else:
            self.add_batch()

    # ---- reading -----------------------------------------------------------------------------------------

    def some(self, ids):
        return self.chance.choice([*ids, None]) if ids else None

    def batch_of(self, id):
        relations = self.scene.record(id).relations
        return None if relations is None else relations.batch_id

    def is_waiting(self, job):
        """Return whether a member that has not ended waits for another member."""
        if job.state is not State.AWAITING or job.waits_for is not None:
            return False
        counts = self.scene.batch_counts(job.id)
        is_related = counts is None or (counts.is_unopened and not counts.is_cancelled)
        return is_related and job.reason != "runs when its batch opens"

    def counted(self, batch):
        members = self.scene.storage.find(JobFilter(batch_id=batch), limit=1_000).jobs
        waiting = [one for one in members if self.is_waiting(one)]
        moving = [one for one in members if not one.is_final or one.is_stopping]
        ends = [sum(one.state is state for one in members) for state in (State.SUCCEEDED, State.FAILED)]
        deleted = sum(one.state is State.DELETED for one in members)
        return BatchCounts(len(members), len(moving) - len(waiting), len(waiting), *ends, deleted)

    def check(self):
        for batch in self.batches:
            counts, expected = self.scene.batch_counts(batch), self.counted(batch)
            names = ("total", "active", "waiting", "succeeded", "failed", "deleted")
            got = {name: getattr(counts, name) for name in names}
            assert {name: getattr(expected, name) for name in names} == got, batch
            self.check_state(batch, counts)
        for id in self.jobs + self.batches:
            states = [entry.state for entry in self.scene.storage.history(id).entries]
            assert all(
                before is State.ENQUEUED or is_legal(before, after)
                for before, after in itertools.pairwise(states)
            ), states

    def check_state(self, batch, counts):
        state = self.scene.state(batch)
        is_open = counts.active or ((counts.is_held or counts.is_unopened) and not counts.is_cancelled)
        if counts.is_cancelled:
            assert (state is State.DELETED) == (not is_open)
        elif is_open:
            assert state is State.AWAITING
        else:
            assert (State.FAILED if counts.failed or counts.waiting else State.SUCCEEDED) is state

    def finish(self):
        """End everything without errors: all jobs that can run succeed, and all holds have expired."""
        for batch in self.batches:
            self.scene.hold(batch, None)
        self.scene.storage.clock_offset = 2 * HOLD
        for _ in range(CALM):
            self.scene.storage.promote(100)
            self.runs |= self.scene.claim()
            for job in self.runs.values():
                self.scene.succeed(job)
            is_over = not self.runs
            self.runs = {}
            if not self.scene.settle(7) and is_over:
                return
        raise AssertionError("it does not end")


def walked(storage, seed):
    walk = Walk(storage, Random(seed))
    for _ in range(OPERATIONS):
        walk.perform()
        if walk.chance.random() < 0.2:
            walk.scene.settle(3)
            walk.check()
    walk.finish()
    walk.check()
    return walk


@pytest.mark.parametrize("seed", range(40))
def test_every_batch_counts_its_members_and_ends(seed):
    """At the end of each walk, a batch is open only if it waits for an event that never happens."""
    walk = walked(MemoryStorage(), seed)

    for batch in walk.batches:
        counts = walk.scene.batch_counts(batch)
        assert walk.scene.state(batch) in FINAL_STATES or counts.is_unopened


@pytest.mark.parametrize("seed", range(2))
def test_row_storage_counts_the_same_as_memory(seed):
    assert shown(walked(MemoryStorage(), seed)) == shown(walked(DictStorage(), seed))


def shown(walk):
    return [(walk.scene.state(batch), walk.scene.batch_counts(batch)) for batch in walk.batches]
