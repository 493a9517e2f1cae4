"""Counts, rollups and failures, as people read them."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from firelock.model.state import State

# Upper bounds of the duration histogram's buckets, in seconds; a last bucket holds what is longer.
DURATION_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@attrs.frozen
class Counts:
    """How many jobs are in each state; states and queues without jobs may be left out."""

    by_state: Mapping[State, int]
    by_queue: Mapping[str, Mapping[State, int]]


@attrs.frozen
class Rollup:
    """What ended within one minute, for one task, queue and outcome."""

    minute: int  # micros of the minute's start
    task: str
    queue: str
    outcome: str  # succeeded, failed, deleted, retried, crashed
    count: int
    duration: int  # sum, in micros
    histogram: tuple[int, ...]  # one count a bucket of DURATION_BUCKETS, and one for what is longer


@attrs.frozen
class FailureGroup:
    """Failed jobs that failed alike."""

    fingerprint: str
    type: str
    message: str  # of the newest of them
    task: str
    count: int
    newest_at: int
    sample_id: str


@attrs.frozen
class Finding:
    """Something `doctor` found: what is wrong and how to mend it."""

    is_error: bool
    what: str
    mend: str
    code: str = "storage"  # which rule found it, for programs and for who words it otherwise
    values: Mapping[str, object] = attrs.Factory(dict)  # what the words are about: names and numbers
    since: int | None = None  # micros
