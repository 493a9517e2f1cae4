"""Across modules: batches on PostgreSQL under many concurrent clients: no early end and no deadlock."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import pytest

from firelock.errors import BatchFinished
from firelock.storage import Applied, ClaimRequest, JobFilter, State
from firelock.testing import Handles
from firelock.testing.conformance.flow_scene import FlowScene
from firelock.testing.conformance.scene import (
    HOUR,
    Running,
    deletes,
    fails,
    opener,
    requeues,
    succeeds,
)

ROUNDS = 25


@pytest.fixture
def flow(postgresql):
    """A storage with helpers for batches and memos."""
    with closing(Handles(opener(postgresql.url("listen=off")))) as handles:
        yield FlowScene(handles)


@pytest.fixture(autouse=True)
def log(postgresql):
    """The server must not have aborted any transaction because of a deadlock."""
    before = len(postgresql.server.read_log())
    yield
    assert "deadlock detected" not in postgresql.server.read_log()[before:]


def race(folds, works):
    """Run the `works` concurrently, and run the `folds` repeatedly until all of them have ended."""
    is_over = threading.Event()

    def fold_on(fold):
        while not is_over.is_set():
            fold()

    with ThreadPoolExecutor(len(folds) + len(works)) as pool:
        folders = [pool.submit(fold_on, fold) for fold in folds]
        try:
            for one in [pool.submit(work) for work in works]:
                one.result(120)
        finally:
            is_over.set()
        for one in folders:
            one.result(60)


def test_fold_does_not_end_a_batch_with_an_active_member(flow):
    """One member never ends.

    Others are added and end in their own transactions, while two threads fold. If a fold read changes before
    it locked the batch, it would find the end of a member but not its earlier addition.
    """
    batch, (root,) = flow.batch_of(1)
    kept = flow.running(flow.begin("root"), root)[0]
    handles, sessions = flow.open(5), [flow.begin(name) for name in "abc"]
    seen = []

    def work(number):
        handle, holder = handles[number], sessions[number]
        for _ in range(ROUNDS):
            handle.insert([flow.new_member(batch)])
            claimed = handle.claim(ClaimRequest(["default"], 1, holder.session, flow.stamp())).jobs
            ends = [succeeds(Running(job, holder)) for job in claimed]
            while ends:  # another claim may have locked a job that it read before this claim took it
                found = handle.exchange(ends, ClaimRequest(["default"], 0, holder.session, flow.stamp()))
                results = zip(ends, found.results, strict=True)
                ends = [end for end, result in results if result is Applied.BUSY]

    def fold(number):
        handles[number].release(100)
        seen.append(handles[number].get([batch])[0].state)

    race([partial(fold, 3), partial(fold, 4)], [partial(work, number) for number in range(3)])

    assert {State.AWAITING} == set(seen)
    for number, holder in enumerate(sessions):  # jobs that another claim had locked during a read
        handles[number].apply([succeeds(one) for one in flow.take(holder)])
    flow.settle(succeeds(kept))
    flow.settle_all()
    number = 3 * ROUNDS + 1
    assert (number, 0, 0, number, 0, 0) == flow.counts(batch)
    assert State.SUCCEEDED is flow.state(batch)


def test_concurrent_changes_of_nested_batches_do_not_deadlock(flow):
    """Members fail and are requeued or deleted while folds, sweeps, adds and cancellations run.

    Finally, each batch has ended, and its counts match its members.
    """
    handles = flow.open(6)
    holders = [flow.begin(name) for name in "abc"]
    outer = flow.batch("outer", fails_fast=True, due_at=flow.now() + HOUR)
    inner = flow.batch("inner", within=outer, fails_fast=True, due_at=flow.now() + HOUR)
    members = [flow.member(batch) for _ in range(10) for batch in (outer, inner)]

    def work(number):
        holder = holders[number]
        for turn in range(ROUNDS):
            request = ClaimRequest(["default"], 3, holder.session, flow.stamp())
            for job in handles[number].claim(request).jobs:
                end = fails if turn % 3 == number else succeeds
                handles[number].apply([end(Running(job, holder))])

    def people(number):
        for turn in range(ROUNDS):
            at = turn * 7 % len(members)
            handles[number].apply([requeues(members[at])])
            handles[number].apply([deletes(members[at - 1])])
            try:
                handles[number].insert([flow.new_member(inner if turn % 2 else outer)])
            except BatchFinished:
                break

    folds = [partial(handles[number].release, 20) for number in (4, 5)]
    race(folds, [*(partial(work, number) for number in range(3)), partial(people, 3)])

    flow.settle(deletes(outer))
    flow.settle_all()
    for holder in holders:
        flow.lose(holder)
    flow.settle_all()
    assert [State.DELETED] * 2 == flow.states(outer, inner)
    for batch in (outer, inner):
        counts = flow.batch_counts(batch)
        states = Counter(flow.states(*flow.found(JobFilter(batch_id=batch))))
        assert (states.total(), 0, 0) == (counts.total, counts.active, counts.waiting)
        assert [counts.succeeded, counts.failed, counts.deleted] == [
            states[State.SUCCEEDED], states[State.FAILED], states[State.DELETED]
        ]  # fmt: skip
