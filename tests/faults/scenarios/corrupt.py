"""F42: rows that no Firelock client wrote."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import attrs

from firelock.model.job import NewJob
from firelock.model.state import State
from firelock.storage import JobFilter, StorageError
from tests.faults.checker import stored
from tests.faults.scenarios.base import Size, scenario, stage
from tests.faults.servers import eventually

# Jobs that other clients or versions might store, by their fault.
_UNREADABLE = {
    "invalid JSON": lambda job: attrs.evolve(job, arguments="{seconds: 1"),
    "nothing": lambda job: attrs.evolve(job, arguments=""),
    "another shape": lambda job: attrs.evolve(job, arguments="[1, 2]"),
    "another type": lambda job: attrs.evolve(job, arguments='{"seconds":"soon"}'),
    "an unexpected argument": lambda job: attrs.evolve(job, arguments='{"seconds":0,"minutes":0}'),
    "no argument": lambda job: attrs.evolve(job, arguments="{}"),
    "too deep": lambda job: attrs.evolve(job, arguments='{"seconds":' + "[" * 5_000 + "]" * 5_000 + "}"),
    "a huge number": lambda job: attrs.evolve(job, arguments='{"seconds":' + "9" * 10_000 + "}"),
    "not a number": lambda job: attrs.evolve(job, arguments='{"seconds":NaN}'),
}
# Jobs that wait for a newer server, with words from their reason.
_WAITING = {
    "an unknown task": (lambda job: attrs.evolve(job, task="unknown.task"), "not registered"),
    "an unknown serializer": (lambda job: attrs.evolve(job, serializer="pickle"), "not installed"),
    "no serializer": (lambda job: attrs.evolve(job, serializer=""), "not installed"),
    "an unknown retry policy": (lambda job: attrs.evolve(job, retry='{"kind":"banana"}'), "newer release"),
}
# Valid jobs that run although they have another, invalid value.
_TOLERATED = {
    "an invalid retry policy": lambda job: attrs.evolve(job, retry="{"),
    "a negative timeout": lambda job: attrs.evolve(job, timeout_seconds=-1.0),
    "an invalid queue name": lambda job: attrs.evolve(job, queue="no queue's name; DROP TABLE"),
}


@scenario("unreadable-jobs", "F42", full=Size(20_000, 20), short=Size(200, 1))
def unreadable_jobs(place, size):
    """Jobs with unreadable arguments fail with the reason and keep them; unknown tasks and serializers wait.

    There are `rounds` jobs of each kind among `jobs` good jobs.
    """
    with stage(place) as on:
        on.serve()
        bad = {}
        for _ in range(size.rounds):
            for kind, change in {**_UNREADABLE, **_TOLERATED}.items():
                on.enqueue(size.jobs // (size.rounds * (len(_UNREADABLE) + len(_TOLERATED) + 1)), 0.0)
                if (job_id := _insert(on, change)) is not None:
                    bad[job_id] = kind
            for kind, (change, _) in _WAITING.items():
                if (job_id := _insert(on, change)) is not None:
                    bad[job_id] = kind
        on.enqueue(20, 0.0)
        eventually(lambda: _unended(on) == 0, 60, "the good jobs have ended")
        eventually(lambda: _left(on, bad) == 0, 60, "the bad jobs have ended")
        report = on.report()
        report.assert_well()
        for job_id, kind in bad.items():
            _assert_quarantined(on, job_id, kind)
    return [
        f"good {report.jobs}: all succeeded; bad {len(bad)} of {len(set(bad.values()))} kinds quarantined"
    ]


def _insert(on, change):
    """Return the id of a changed job; None if the storage refuses it, which is allowed for a queue name."""
    storage = on.fire.storage
    job = NewJob(
        storage.new_ids(1)[0],
        "work",
        '{"seconds":0.0}',
        "json",
        "default",
        0,
        State.ENQUEUED,
        storage.clock(),
    )
    changed = change(job)
    try:
        storage.insert([changed])
    except StorageError:
        assert changed.queue != job.queue, changed
        return None
    return job.id


def _unended(on):
    return sum(not record.is_final for record in on.records())


def _left(on, bad):
    named = [job_id for job_id, kind in bad.items() if kind not in _WAITING]
    return sum(not on.record(job_id).is_final for job_id in named)


def _assert_quarantined(on, job_id, kind):
    record = on.record(job_id)
    if kind in _WAITING:
        assert record.state is State.SCHEDULED, (kind, record)
        assert record.attempt == 0, (kind, record)
        assert _WAITING[kind][1] in (record.reason or ""), (kind, record)
    elif kind in _UNREADABLE:
        assert record.state is State.FAILED, (kind, record)
        assert record.retries == 0, (kind, record)
        assert "cannot be read" in (record.reason or ""), (kind, record)
        assert record.arguments != '{"seconds":0.0}' or record.serializer != "json", (kind, record)
    else:
        assert record.is_final, (kind, record)


# ---- rows of a file --------------------------------------------------------------------------------------

# Values of each column of a job that no version of Firelock writes there.
_GARBAGE = {
    "state": "banana",
    "tags": "[not json",
    "meta_json": b"\xff",
    "retry": "\udcff".encode("utf-8", "surrogateescape"),
    "history": "no line of ours\n",
    "creation": "{",
    "parents": "[[1]]",
    "arguments": b"\xff\xfe\x00",
    "serializer": b"\xff",
    "task": b"\xff",
    "priority": "high",
    "enqueued_at": "yesterday",
    "created_at": "yesterday",
    "changed_at": "yesterday",
    "timeout_seconds": "soon",
    "nominal_at": "noon",
    "attempt": "first",
    "retries": "many",
    "crashes": "none",
    "fence": "wooden",
    "queue": b"\xff",
    "reason": b"\xff",
}


@scenario("corrupt-rows", "F42", full=Size(20_000, 20), short=Size(200, 1), schemes=["sqlite"])
def corrupt_rows(place, size):
    """Each column of some waiting jobs is overwritten with garbage. Other jobs run, and lists can be read.

    There are `rounds` rows for each column among the rows of `jobs` good jobs.
    """
    with stage(place) as on:
        good = on.enqueue(size.jobs, 0.0)
        bad = {on.enqueue(1, 0.0)[0]: column for _ in range(size.rounds) for column in _GARBAGE}
        good += on.enqueue(size.jobs // 10, 0.0)
        _overwrite(place, bad)
        (server,) = on.serve()
        eventually(lambda: _all_succeeded(on, good), 60, "the good jobs have ended")
        on.fire.jobs.find(limit=500)
        for state in State:
            on.fire.storage.find(JobFilter(state=state), limit=500)
        late = on.enqueue(20, 0.0)
        eventually(lambda: _all_succeeded(on, late), 20, "later jobs have ended")
        assert server.stop() == 0
    return [
        f"good {len(good) + len(late)}: all succeeded; rows with garbage {len(bad)} of {len(_GARBAGE)} kinds"
    ]


def _overwrite(place, bad):
    path = Path(place.storage.removeprefix("sqlite:///").partition("?")[0])
    with closing(sqlite3.connect(path)) as connection, connection:
        for job_id, column in bad.items():
            statement = f"UPDATE firelock_jobs SET {column} = ? WHERE id = ?"
            connection.execute(statement, (_GARBAGE[column], job_id))


def _all_succeeded(on, ids):
    return all(record and record.state is State.SUCCEEDED for record in stored(on.fire.storage, ids))
