"""F40: jobs that kill their process, among many that do not."""

from __future__ import annotations

import random
import time
from collections import Counter

from firelock.model.state import State
from tests.faults.scenarios.base import Size, scenario, stage
from tests.faults.servers import eventually

_KINDS = (
    "exit", "memory", "segfault", "fork-bomb", "async-exit", "abort", "overflow", "kill", "apart-kill",
)  # fmt: skip
_CRASHES = 3


@scenario("poison", "F40", full=Size(5_000, 45), short=Size(300, 3))
def poison(place, size):
    """Jobs exit, abort, overflow, fork or run out of memory among good jobs. Only these jobs fail.

    There are `jobs` good jobs and `rounds` poisonous jobs of nine kinds, on one server with two worker
    processes.
    """
    with stage(place) as on:
        (server,) = on.serve(workers=8, processes=2, app="poison")
        began = time.monotonic()
        on.enqueue(size.jobs, 0.01)
        on.await_end()
        alone = time.monotonic() - began
        began = time.monotonic()
        kinds = _mix(on, size)
        eventually(lambda: _good_left(on, kinds) == 0, 300, "the good jobs have ended")
        together = time.monotonic() - began
        on.await_end(300)
        took = time.monotonic() - began
        records = on.records()
        starts = Counter(event.job for event in on.events() if event.what == "start")
        deaths = server.log.read_text().count("another starts")
    good = [record for record in records if record.id not in kinds]
    bad = {record.id: record for record in records if record.id in kinds}
    assert {record.state for record in good} == {State.SUCCEEDED}, Counter(record.state for record in good)
    for job_id, record in bad.items():
        _assert_failed_by_itself(kinds[job_id], record, most=_CRASHES * len(bad))
    crashes = Counter(record.crashes for record in good)
    most = max(starts[job_id] for job_id in bad)  # above 3 if the death of another job ended a run alone
    return [
        f"poison {len(bad)} of {len(set(kinds.values()))} kinds: failed after {_CRASHES} crashes or more",
        f"runs of a poisonous job: at most {most}",
        f"good {len(good)}: failed 0; by crashes {dict(sorted(crashes.items()))}; dead processes {deaths}",
        f"{size.jobs} good jobs alone {alone:.1f} s, with others {together:.1f} s; all {took:.1f} s",
    ]


def _mix(on, size):
    """Return the kind of each poisonous job; they are distributed among the good ones."""
    chance = random.Random(40)
    kinds = {}
    share = size.jobs // size.rounds
    for number in range(size.rounds):
        on.enqueue(chance.randrange(1, share), 0.01)
        kind = _KINDS[number % len(_KINDS)]
        (job_id,) = on.enqueue(1, 0.02, task=kind)
        kinds[job_id] = kind
    on.enqueue(size.jobs - len(on.acknowledged) // 2, 0.01)
    return kinds


def _good_left(on, kinds):
    bad_left = sum(not record.is_final for record in on.fire.storage.get(list(kinds)) if record is not None)
    return on.unfinished() - bad_left


def _assert_failed_by_itself(kind, record, most):
    assert record.state is State.FAILED, (kind, record.state, record.reason)
    if kind == "memory":
        # It ends no process, but might run in a process that another poisonous job ends. Then it runs again.
        assert record.crashes < _CRASHES, record
        assert "MemoryError" in (record.reason or ""), record.reason
    else:
        # If another job ended the process of the third crash, the job runs once more: it must crash alone.
        assert _CRASHES <= record.crashes <= most, (kind, record.crashes)
        assert "its process died" in (record.reason or ""), (kind, record.reason)
