"""Batches in a file: fast and slow paths have equal results, which are those of the storage in memory."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from firelock.model.state import FINAL_STATES
from firelock.storage import Applied, BatchFinished, Edge, JobFilter, Memo, MemoKind, NewMemo, On, State
from firelock.storage.memory import MemoryStorage
from firelock.testing.conformance.flow_scene import FlowScene
from firelock.testing.conformance.scene import Handles, deletes, opener, succeeds
from firelock_sql.connections.transaction import Text
from firelock_sql.rows import batch_row, memo_row
from firelock_sql.sqlite.storage import SqliteStorage
from firelock_sql.verbs import batch_change, batches, insert, settle, streams
from tests.core.storage.test_batch_walks import shown, walked


@pytest.fixture
def flow(path):
    """A file with helpers for batches and members."""
    with closing(Handles(opener(f"sqlite:///{path}?synchronous=normal"))) as handles:
        yield FlowScene(handles)


@pytest.mark.parametrize("seed", range(6))
def test_file_counts_batches_like_memory(tmp_path, seed):
    """A random sequence of operations on nested batches leads to the same states and counts."""
    with closing(SqliteStorage(f"sqlite:///{tmp_path}/jobs.db?synchronous=normal")) as storage:
        walk = walked(storage, seed)

        assert shown(walked(MemoryStorage(), seed)) == shown(walk)
        for batch in walk.batches:
            assert walk.scene.state(batch) in FINAL_STATES or walk.scene.batch_counts(batch).is_unopened


def test_plain_end_of_a_member_is_counted_like_any_other(flow):
    """One member is settled without a read by the handle that claimed it, and the other by another handle."""
    batch, members = flow.batch_of(3)
    short, long, last = flow.running(flow.begin(), *members)

    results = [flow.apply(succeeds(short)), *flow.handles.open().apply([succeeds(long)])]
    counts = flow.counts(batch)

    assert [Applied.APPLIED, Applied.APPLIED] == results  # `release` has nothing to do yet
    assert (3, 1, 0, 2, 0, 0) == counts
    assert Applied.RELEASE_NEEDED is flow.apply(succeeds(last))
    flow.settle_all()
    assert (State.SUCCEEDED, (3, 0, 0, 3, 0, 0)) == (flow.state(batch), flow.counts(batch))


@pytest.mark.parametrize("is_unopened", [False, True])
def test_fast_and_slow_path_store_equal_members(flow, is_unopened):
    """Members that are stored by the hundred are listed in the same way as members on the slow path."""
    source = flow.add()
    batch = flow.batch(after=[source] if is_unopened else [])
    many = [flow.new_member(batch) for _ in range(112)]
    tagged = flow.new_member(batch, tags=("odd",))

    flow.storage.insert(many)
    again = flow.storage.insert([many[0], tagged]).is_new

    assert [False, True] == list(again)
    assert (113, 113, 0, 0, 0, 0) == flow.counts(batch)
    found = flow.storage.find(JobFilter(batch_id=batch), limit=200, oldest_first=True).jobs
    assert sorted(one.id for one in [*many, tagged]) == sorted(one.id for one in found)
    assert {State.AWAITING if is_unopened else State.ENQUEUED} == {one.state for one in found}


@pytest.mark.parametrize("number", [1, 40, 112])
def test_batch_stored_with_members_equals_one_stored_alone(flow, number):
    """Plain members that directly follow their batch use the fast path, and later jobs use the slow path."""
    batch = flow.new_batch()
    members = [flow.new_member(batch.id) for _ in range(number)]
    waiting = flow.new_member(batch.id, members[0].id)
    callback = flow.new_job(state=State.AWAITING, parents=(Edge(batch.id, On.SUCCEEDED),))
    everything = [batch, *members, waiting, callback, flow.new_member(batch.id)]

    first = flow.storage.insert(everything).is_new
    checked = flow.storage.release(10)
    again = flow.storage.insert(everything).is_new

    assert ({True}, {False}) == (set(first), set(again))
    assert 0 == checked  # no member can have ended
    assert (number + 2, number + 1, 1, 0, 0, 0) == flow.counts(batch.id)
    holder = flow.begin()
    while taken := flow.take(holder):
        flow.storage.apply([succeeds(one) for one in taken])
        flow.settle_all()
    assert (State.SUCCEEDED, (number + 2, 0, 0, number + 2, 0, 0)) == (
        flow.state(batch.id),
        flow.counts(batch.id),
    )
    assert State.SUCCEEDED is flow.state(callback.id)


def test_batch_after_a_deleted_job_accepts_and_sweeps_its_members(flow):
    """Whether the job is deleted before or after the batch is stored, the batch ends in the same way.

    Later members are refused.
    """
    source = flow.add()
    flow.settle(deletes(source, at=flow.stamp()))
    batch = flow.new_batch(after=[source])
    members = [flow.new_member(batch.id) for _ in range(3)]

    flow.storage.insert([batch, *members])
    with pytest.raises(BatchFinished, match="is cancelled"):
        flow.member(batch.id)
    flow.settle_all()

    assert (State.DELETED, (3, 0, 0, 0, 0, 3)) == (flow.state(batch.id), flow.counts(batch.id))


def test_page_of_members_is_equal_with_and_without_a_state(flow):
    """Members are read from their own table, tested one by one, or looked up if there are few of them."""
    batch, members = flow.batch_of(5)
    flow.settle(succeeds(flow.running(flow.begin(), *members)[0]))
    flow.add()
    flow.member(batch)
    flow.member(batch, members[4])

    pages = {}
    for state in (None, State.ENQUEUED, State.PROCESSING, State.SUCCEEDED, State.AWAITING):
        found = flow.storage.find(JobFilter(batch_id=batch, state=state), limit=2)
        pages[state] = [one.id for one in found.jobs]
        while found.cursor is not None:
            found = flow.storage.find(JobFilter(batch_id=batch, state=state), limit=2, cursor=found.cursor)
            pages[state] += [one.id for one in found.jobs]

    of_states = [id for state, ids in pages.items() if state is not None for id in ids]
    assert sorted(pages[None]) == sorted(of_states)
    assert 7 == len(of_states)


def test_statements_of_batches_use_indexes(flow, path):
    """Even if many jobs exist, each statement finds its rows with an index."""
    flow.batch_of(2)
    dialect = SQLiteDialect_pysqlite(paramstyle="qmark")
    modules = (batch_change, batch_row, batches, insert, memo_row, settle, streams)
    statements = {
        text.compiled(dialect).text
        for module in modules
        for value in vars(module).values()
        for text in (value if isinstance(value, list) else [value])
        if isinstance(text, Text)
    }

    with closing(sqlite3.connect(path)) as connection:

        def plan(statement):
            nothing = [None] * statement.count("?")
            return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", nothing)]

        plans = {statement: plan(statement) for statement in statements}

    scans = {
        statement: plan
        for statement, plan in plans.items()
        if any(re.match(r"SCAN (?!json_each|firelock_releasing)(?!.*USING)", line) for line in plan)
    }
    assert {} == {one: plan for one, plan in scans.items() if "DISTINCT batch_id" not in one}


def test_job_with_memos_ends_like_any_other(flow):
    """Memos from before or after the claim do not slow down the settling of other jobs."""
    first, second = flow.add(), flow.add()
    runs = flow.running(flow.begin(), first, second)
    memo = Memo(MemoKind.STEP, "fetch", "1", is_done=True, at=flow.stamp())
    flow.storage.remember([NewMemo(first, memo, runs[0].holder.session, runs[0].job.fence)])

    results = flow.storage.apply([succeeds(one) for one in runs])

    assert [Applied.APPLIED, Applied.APPLIED] == results
    assert [State.SUCCEEDED, State.SUCCEEDED] == [flow.state(first), flow.state(second)]
    assert ["fetch"] == [one.name for one in flow.storage.recall(first)]
