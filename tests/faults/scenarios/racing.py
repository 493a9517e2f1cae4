"""F46, F48: actions of users and clients on jobs while servers run them."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import attrs

from firelock import FirelockError, JobNotFound
from firelock.model.dependencies import On
from firelock.model.lifecycle import continuation_target
from firelock.model.state import FINAL_STATES, State
from tests.faults.checker import is_legal
from tests.faults.scenarios.base import Size, scenario, stage
from tests.faults.servers import eventually

_CLIENTS = 4
_CHUNK = 50


def _from_threads(work):
    """Run the function concurrently for each client."""
    with ThreadPoolExecutor(_CLIENTS) as clients:
        list(clients.map(work, range(_CLIENTS)))


# ---- continuations ---------------------------------------------------------------------------------------


@attrs.frozen
class _Pair:
    parent: str
    child: str
    on: On


@scenario("continuations", "F46", full=Size(20_000, 1), short=Size(400, 1))
def continuations(place, size):
    """Continuations are attached while parents run, fail, are deleted and requeued. Each ends in one way.

    There are `jobs` pairs.
    """
    pairs = []
    with stage(place) as on:
        on.serve(2)
        _from_threads(lambda seed: _attach(on, size.jobs // _CLIENTS, random.Random(seed), pairs))
        parents = [pair.parent for pair in pairs]
        eventually(lambda: all(record.is_final for record in on.records(parents)), 120, "parents have ended")
        on.fire.jobs.delete([one.id for one in on.records(parents) if one.state is State.FAILED])
        on.await_end(60)
        starts = Counter(event.job for event in on.events() if event.what == "start")
        wrong = [why for pair in pairs if (why := _wrong_fate(on, pair, starts[pair.child]))]
        fates = Counter(str(record.state) for record in on.records(pair.child for pair in pairs))
    assert wrong == [], wrong[:3]
    return [f"pairs {len(pairs)}: ends {dict(fates)}, stuck 0, run twice 0"]


def _attach(on, pairs, chance, made):
    """Store parents in chunks, each with a continuation, and interfere, all at random times."""
    child = on.task("work")
    for _ in range(max(1, pairs // _CHUNK)):
        tasks = [on.task(chance.choice(("work", "work", "fail"))) for _ in range(_CHUNK)]
        parents = [task.enqueue(chance.uniform(0.0, 0.004)) for task in tasks]
        chance.shuffle(parents)
        for parent in parents:
            wanted = chance.choice(tuple(On))
            job = parent.then(child.using(on=wanted.value), 0.0)
            made.append(_Pair(parent.id, job.id, wanted))
            _interfere(parent, chance)
            time.sleep(chance.choice((0.0, 0.0, 0.002)))


def _interfere(parent, chance):
    """Delete or requeue one parent of five."""
    try:
        if chance.random() < 0.15:
            parent.delete()
        elif chance.random() < 0.05:
            parent.requeue()
    except FirelockError:  # it is deleted already, or is about to run
        return


def _wrong_fate(on, pair, starts):
    """Return what is wrong with the child, or None if an end of its parent explains its state."""
    child, history = on.record(pair.child), on.fire.storage.history(pair.child).entries
    ends = [
        entry.state for entry in on.fire.storage.history(pair.parent).entries if entry.state in FINAL_STATES
    ]
    targets = {continuation_target(pair.on, end) for end in ends}
    message = f"{pair} ended {child.state} after {starts} runs, its parent had the states {ends}: {history}"
    if child.state is State.SUCCEEDED:
        is_right = starts == 1 and State.ENQUEUED in targets
    else:
        is_right = child.state is State.DELETED and starts == 0 and State.DELETED in targets
    moves = [entry for entry in history if entry.state in {State.ENQUEUED, State.DELETED}]
    return None if is_right and len(moves) == 1 and is_legal(on.fire, child.id) else message


@scenario("expiring-parents", "F46", full=Size(10_000, 1), short=Size(200, 1))
def expiring_parents(place, size):
    """Continuations are attached to parents that are pruned soon after they end. Each ends in the right way.

    There are `jobs` pairs.
    """
    pairs = []
    with stage(place, keep_succeeded=0.05, keep_deleted=0.05, sweep=0.05) as on:
        on.serve()
        _from_threads(lambda seed: _attach_late(on, size.jobs // _CLIENTS, random.Random(seed), pairs))
        on.await_end(60)
        eventually(lambda: sum(on.fire.jobs.counts().by_state.values()) == 0, 60, "everything was pruned")
        starts = Counter(event.job for event in on.events() if event.what == "start")
    runs = {True: 1, False: 0}  # if the child waits for success or any end, and if not
    wrong = [pair for pair in pairs if starts[pair.child] != runs[pair.on in {On.SUCCEEDED, On.FINISHED}]]
    assert wrong == [], wrong[:3]
    return [
        f"pairs {size.jobs}: attached {len(pairs)}, parents of the others were pruned; stuck 0, wrong ends 0"
    ]


def _attach_late(on, pairs, chance, made):
    """Store parents in chunks, and a continuation for each while they run, end and are pruned."""
    task = on.task("work")
    for _ in range(pairs // 10):
        for parent in task.enqueue_many([(0.0,)] * 10):
            time.sleep(chance.uniform(0.0, 0.04))
            wanted = chance.choice(tuple(On))
            try:
                child = parent.then(task.using(on=wanted.value), 0.0)
            except JobNotFound:
                continue
            made.append(_Pair(parent.id, child.id, wanted))


# ---- operators -------------------------------------------------------------------------------------------


@attrs.define
class _Actions:
    """The actions that operators requested."""

    last: dict[str, str] = attrs.field(factory=dict)  # the last action on each job
    counts: Counter[str] = attrs.field(factory=Counter)


@scenario("operators", "F48", full=Size(2_000, 100_000), short=Size(120, 2_000))
def operators(place, size):
    """Deletions and requeues race with workers. Histories are legal; the last action counts; no runs overlap.

    There are `rounds` actions on `jobs` jobs.
    """
    chance, actions_taken = random.Random(48), _Actions()
    with stage(place) as on:
        on.serve(2)
        ids = on.enqueue(size.jobs, lambda: chance.uniform(0.0, 0.05))
        shares = [ids[seed::_CLIENTS] for seed in range(_CLIENTS)]
        actions = size.rounds // _CLIENTS
        _from_threads(lambda seed: _act(on, shares[seed], actions, actions_taken))
        on.await_end(120)
        eventually(lambda: not any(record.is_stopping for record in on.records()), 30, "no tail is left")
        illegal = [job_id for job_id in ids if not is_legal(on.fire, job_id)]
        records = {record.id: record for record in on.records()}
        overlaps = _overlaps(on.events())
    assert illegal == [], illegal[:3]
    assert overlaps == [], overlaps[:3]
    for job_id, action in actions_taken.last.items():
        expected = State.DELETED if action == "delete" else State.SUCCEEDED
        assert records[job_id].state is expected, (action, records[job_id])
    counts = dict(sorted(actions_taken.counts.items()))
    return [f"actions {counts} on {size.jobs} jobs: illegal histories 0, resurrected 0, overlapping runs 0"]


def _act(on, ids, actions, actions_taken):
    """Delete or requeue one job after another; no other thread uses these jobs."""
    chance = random.Random(len(actions_taken.last))
    for _ in range(actions):
        job_id = chance.choice(ids)
        action = chance.choice(("delete", "requeue"))
        act = on.fire.jobs.delete if action == "delete" else on.fire.jobs.requeue
        (result,) = act([job_id])
        actions_taken.counts[f"{action} {result}"] += 1
        if result.is_applied:
            actions_taken.last[job_id] = action
        time.sleep(chance.choice((0.0, 0.0, 0.001)))


def _overlaps(events):
    """Return pairs of runs of a job in which the second started before the first had ended."""
    runs = defaultdict(list)
    ends = {(event.job, event.fence): event.at for event in events if event.what in {"end", "cancelled"}}
    for event in events:
        if event.what == "start":
            runs[event.job].append((event, ends.get((event.job, event.fence), event.at)))
    return [
        (before, after)
        for one in runs.values()
        for (before, ended_at), (after, _) in pairwise(one)
        if after.at < ended_at
    ]
