"""Batches, steps and streams as a storage holds them, for pages that show them."""

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
    """A batch without members; it is not held."""
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
    """A member that waits for these fellows, or for nothing; return its id."""
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
    """Enqueued jobs are processing, all of them or the first of these queues."""
    storage = fire.storage
    storage.begin_session(NewSession(SESSION, "server-1", "here:1", "here", 1, storage.clock(), 3_600))
    return storage.claim(ClaimRequest(queues, limit, SESSION, storage.clock())).jobs


def end(fire, job, to=State.SUCCEEDED, **said):
    """A claimed job ends so, or is suspended."""
    storage = fire.storage
    (answer,) = storage.apply(
        [
            Transition(
                job.id, frozenset({State.PROCESSING}), SESSION, job.fence, to, storage.clock(),
                attempt=job.attempt, claimed_at=job.claimed_at, started_at=job.claimed_at,
                server="here:1", **said,
            )
        ]
    )  # fmt: skip
    while storage.release(100):
        pass
    return answer


def remember(fire, job, kind, name, value, *, is_done=True, author=""):
    """The running job remembers this, or, for None, somebody outside writes it."""
    storage, now = fire.storage, fire.storage.clock()
    memo = Memo(
        MemoKind(kind), name, value, is_done, now, now - 1_500_000, getattr(job, "attempt", 0), author
    )
    guard = {} if author else {"session": SESSION, "fence": job.fence}
    return storage.remember([NewMemo(job.id, memo, **guard)])[0]
