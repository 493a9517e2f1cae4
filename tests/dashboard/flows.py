"""Batches, steps and streams in a storage, for tests of the pages that show them."""

from __future__ import annotations

from firelock.model.batch import BATCH_TASK
from firelock.storage import (
    BatchRules,
    ClaimRequest,
    Edge,
    Memo,
    MemoKind,
    NewJob,
    NewMemo,
    NewSession,
    Relations,
    State,
    Transition,
    write_relations,
)

SESSION = "session-1"


def new_batch(fire, name="import of tuesday", *, outer=None, parents=(), **rules):
    """Store a batch without members, which is not held open, and return its id."""
    storage = fire.storage
    (id,) = storage.new_ids(1)
    relations = Relations(outer, batch=BatchRules(name, **rules))
    storage.insert(
        [
            _job(
                id,
                BATCH_TASK,
                state=State.AWAITING,
                now=storage.clock(),
                parents=tuple(parents),
                relations=relations,
            )
        ]
    )
    return id


def add(fire, batch, task="shop.load", *, parents=(), queue="default", arguments="{}", inputs=()):
    """Store a member that waits for these parents, or for none, and return its id."""
    storage = fire.storage
    (id,) = storage.new_ids(1, batch)
    state = State.AWAITING if parents else State.ENQUEUED
    edges = tuple(Edge(parent) for parent in parents)
    storage.insert(
        [
            _job(
                id, task, state=state, now=storage.clock(), parents=edges,
                relations=Relations(batch, inputs=inputs), queue=queue, arguments=arguments,
            )
        ]
    )  # fmt: skip
    return id


def _job(id, task, *, state, now, parents, relations, queue="default", arguments="{}"):
    return NewJob(
        id,
        task,
        arguments,
        "json",
        queue,
        0,
        state,
        now,
        parents=parents,
        relations_json=write_relations(relations),
    )


def claim(fire, limit=100, queues=None):
    """Claim the enqueued jobs of all queues, or of these queues, and return them."""
    storage = fire.storage
    storage.begin_session(NewSession(SESSION, "server-1", "here:1", "here", 1, storage.clock(), 3_600))
    return storage.claim(ClaimRequest(queues, limit, SESSION, storage.clock())).jobs


def end(fire, job, to=State.SUCCEEDED, **fields):
    """End a claimed job in this state, or suspend it."""
    storage = fire.storage
    (answer,) = storage.apply(
        [
            Transition(
                job.id, frozenset({State.PROCESSING}), SESSION, job.fence, to, storage.clock(),
                attempt=job.attempt, claimed_at=job.claimed_at, started_at=job.claimed_at,
                server="here:1", **fields,
            )
        ]
    )  # fmt: skip
    while storage.release(100):
        pass
    return answer


def remember(fire, job, kind, name, value, *, is_done=True, author=""):
    """Store this memo for the running job; with an `author`, store it from outside the job."""
    storage, now = fire.storage, fire.storage.clock()
    memo = Memo(
        MemoKind(kind), name, value, is_done, now, now - 1_500_000, getattr(job, "attempt", 0), author
    )
    guard = {} if author else {"session": SESSION, "fence": job.fence}
    return storage.remember([NewMemo(job.id, memo, **guard)])[0]
