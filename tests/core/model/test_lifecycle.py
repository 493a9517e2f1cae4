"""The lifecycle of a job as pure functions: allowed state changes, claim holders, and times of retries."""

from __future__ import annotations

import inspect

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firelock.model import lifecycle
from firelock.model.dependencies import On
from firelock.model.job import ClaimedJob, ErrorInfo, HistoryEntry
from firelock.model.lifecycle import (
    ALLOWED,
    CRASH_LIMIT,
    HISTORY_LIMIT,
    Moved,
    Retention,
    bounded_history,
    continuation_target,
    waiting_reason,
)
from firelock.model.session import ClaimHolder
from firelock.model.state import FINAL_STATES, State

SECOND = 1_000_000
AT, STARTED_AT, EXPIRES_AT = 9_000 * SECOND, 8_000 * SECOND, 99_000 * SECOND
HOLDER = ClaimHolder("session-a", "host:a")
ERROR = ErrorInfo("builtins.ValueError", "no such day", "f00d", "Traceback")

instants = st.integers(min_value=0, max_value=2**53)
spans = st.integers(min_value=1, max_value=2**40)


def claimed(**changes):
    """Return a job that the holder has claimed."""
    job = ClaimedJob(
        "j1", "tasks.run", "[]", "json", "default", 0, attempt=3, retries=1, crashes=0, fence=7,
        created_at=1_000, enqueued_at=2_000, claimed_at=3_000,
    )  # fmt: skip
    return attrs.evolve(job, **changes)


ENDS = [
    "succeeded", "retried", "failed", "deleted_by_policy", "snoozed", "handed_back", "unknown_task",
    "undecodable", "crashed_alone",
]  # fmt: skip
GIVEN = {
    "at": AT, "started_at": STARTED_AT, "wait": SECOND, "reason": "a reason", "error": ERROR, "result": "1",
    "result_absent": None, "expires_at": EXPIRES_AT,
}  # fmt: skip


def end_of(job, end, **given):
    """Return the transition for this end of an attempt, with the required arguments."""
    make = getattr(lifecycle, end)
    taken = inspect.signature(make).parameters
    return make(job, HOLDER, **{name: value for name, value in {**GIVEN, **given}.items() if name in taken})


every_end = pytest.mark.parametrize("end", ENDS)


# ---- allowed state changes -------------------------------------------------------------------------------


def test_table_of_state_changes_contains_every_state():
    """A job can leave every state. Only a scheduled job and an open batch can stay in their state."""
    ways = {(before, after) for before in State for after in ALLOWED[before]}

    assert set(State) == set(ALLOWED)
    assert {State.SCHEDULED, State.AWAITING} == {before for before, after in ways if before is after}


def test_only_runs_and_batches_return_to_awaiting():
    """A run returns to `awaiting` when it is suspended, and an ended batch when it is opened again."""
    before = {state for state in State if State.AWAITING in ALLOWED[state]}

    assert {State.AWAITING, State.PROCESSING, State.SUCCEEDED, State.FAILED} == before


def test_only_runs_and_batches_succeed_or_fail():
    """The only other change to these states is a restore, which can return a job to `failed`."""
    ways = {after: {before for before in State if after in ALLOWED[before]} for after in State}

    assert {State.PROCESSING, State.AWAITING} == ways[State.SUCCEEDED]
    assert {State.PROCESSING, State.AWAITING, State.DELETED} == ways[State.FAILED]
    assert {State.ENQUEUED} == ways[State.PROCESSING]


@every_end
@pytest.mark.parametrize("crashes", range(CRASH_LIMIT + 1))
def test_every_outcome_of_an_attempt_is_an_allowed_change(end, crashes):
    transition = end_of(claimed(crashes=crashes), end)

    assert all(lifecycle.is_legal(before, transition.to) for before in transition.from_states)


# ---- the holder of a claim -------------------------------------------------------------------------------


@every_end
def test_history_entry_of_an_outcome_describes_the_attempt(end):
    """The entry contains the attempt's number, times and server.

    An attempt that never ran has no start time.
    """
    transition = end_of(claimed(attempt=3, claimed_at=3_000), end)

    started = None if end in {"unknown_task", "undecodable"} else STARTED_AT
    expected = HistoryEntry(transition.to, AT, transition.reason, 3, 3_000, started, "host:a")
    assert expected == transition.entry()


@pytest.mark.parametrize("state", sorted(set(State) - lifecycle.RESTORABLE))
def test_restore_to_a_state_with_lost_data_raises(state):
    """Such a call is a mistake of the caller."""
    with pytest.raises(ValueError, match=f"cannot be {state} again"):
        lifecycle.restore(
            "j1", lifecycle.PreviousState(state), at=AT, reason="restored", expires_at=EXPIRES_AT
        )


def test_earlier_state_is_known_only_if_the_delete_is_last():
    """After a requeue, the deletion no longer determines the earlier state."""
    entries = [
        HistoryEntry(state, at) for at, state in enumerate((State.ENQUEUED, State.DELETED, State.ENQUEUED))
    ]

    assert (lifecycle.PreviousState(State.ENQUEUED), None) == (
        lifecycle.previous_state(entries[:2]),
        lifecycle.previous_state(entries),
    )


# ---- crashes in the history -------------------------------------------------------------------------------

HOW = "SIGKILL; possibly out of memory"
LOST, DIED = Moved.SESSION_LOST.value, Moved.WORKER_DIED.format(how=HOW)
DIED_ALONE, ITS_OWN = Moved.WORKER_DIED_ALONE.format(how=HOW), lifecycle.JOB_PROCESS_DIED.format(how=HOW)


def crash(reason, started_at=None):
    """Return the history entry of a crash."""
    return HistoryEntry(State.ENQUEUED, AT, reason, 1, 3_000, started_at, "host:a")


@pytest.mark.parametrize(
    ("entries", "losses"),
    [
        ([], 0),
        ([crash(LOST)], 0),
        ([crash(LOST, STARTED_AT)], 1),
        ([crash(DIED)], 1),
        ([crash(DIED_ALONE)], 1),
        ([crash(ITS_OWN, STARTED_AT)], 0),
        ([crash("server stopping", STARTED_AT), HistoryEntry(State.ENQUEUED, AT, LOST)], 0),
        ([crash(LOST, STARTED_AT), crash(ITS_OWN), crash(LOST), crash(DIED)], 2),
    ],
)
def test_crash_counts_as_a_loss_if_the_job_was_running(entries, losses):
    """A job that a lost server had claimed but not started does not count. A job process is not a server."""
    count = sum(entry.reason != "server stopping" for entry in entries)

    assert losses == lifecycle.crashes_of(entries, count).losses


def test_crashes_before_the_last_requeue_do_not_count():
    """A requeue resets the number of crashes, but their entries stay in the history."""
    entries = [crash(DIED), crash(DIED_ALONE), HistoryEntry(State.ENQUEUED, AT, "requeued"), crash(DIED)]

    assert [1, 0] == [lifecycle.crashes_of(entries, count).losses for count in (1, 0)]
    assert lifecycle.crashes_of(entries[:3], 0).alone is None


def test_only_the_last_crash_can_show_that_the_job_ran_alone():
    """The reason of the crash describes how the process died."""
    alone = [
        lifecycle.crashes_of([crash(first), crash(last)], 2).alone
        for first, last in ((DIED, DIED_ALONE), (DIED_ALONE, DIED), (DIED_ALONE, ITS_OWN))
    ]

    assert [DIED_ALONE, None, None] == alone


# ---- unknown tasks ---------------------------------------------------------------------------------------


@given(created_at=instants, age=st.integers(-(2**40), 2**53))
def test_job_with_an_unknown_task_is_postponed_by_half_its_age(created_at, age):
    """The delay is 15 seconds to five minutes, even if the job's creation time is in the future."""
    at = created_at + age
    transition = end_of(claimed(created_at=created_at), "unknown_task", at=at)

    assert (State.SCHEDULED, True) == (transition.to, transition.gives_back)
    assert min(max(age // 2, 15 * SECOND), 300 * SECOND) == transition.due_at - at


@pytest.mark.parametrize(("age", "is_silent"), [(0, False), (14, False), (15, True), (601, True)])
def test_series_of_waits_is_recorded_once(age, is_silent):
    """The history contains only the first wait of a series."""
    at = 1_000 + age * SECOND

    job = claimed(created_at=1_000, enqueued_at=at, attempt=1, retries=0)
    transition = end_of(job, "unknown_task", at=at)

    assert is_silent == transition.is_silent


@pytest.mark.parametrize("nominal_at", [None, 1_000 + 7_200 * SECOND])
def test_first_wait_is_recorded_even_after_a_long_queue_time(nominal_at):
    """The series begins with the first server that cannot run the job, not with the creation of the job."""
    since = 1_000 if nominal_at is None else nominal_at
    job = claimed(
        created_at=1_000, nominal_at=nominal_at, enqueued_at=since + 5 * SECOND, attempt=1, retries=0
    )

    first = end_of(job, "unknown_task", at=since + 3_600 * SECOND)

    assert not first.is_silent


def test_reason_contains_the_missing_serializer():
    """The reason also contains the server. The wait is as long as for an unknown task."""
    job = claimed(serializer="encrypted")

    transition = lifecycle.unknown_serializer(job, HOLDER, at=AT)

    assert (
        "serializer 'encrypted' is not installed on server host:a; waiting for a server that has it"
        == transition.reason
    )
    assert end_of(job, "unknown_task").due_at == transition.due_at


# ---- continuations ---------------------------------------------------------------------------------------

RUNS, ENDS_TOO = State.ENQUEUED, State.DELETED


@pytest.mark.parametrize(
    ("on", "targets"),
    [
        (On.SUCCEEDED, (RUNS, None, ENDS_TOO)), (On.FAILED, (ENDS_TOO, RUNS, ENDS_TOO)),
        (On.DELETED, (ENDS_TOO, None, RUNS)), (On.FINISHED, (RUNS, RUNS, RUNS)),
    ],
)  # fmt: skip
def test_end_of_a_parent_determines_what_happens_to_its_continuations(on, targets):
    """If the parent fails, a continuation of its success waits until the parent is requeued or deleted."""
    ends = (State.SUCCEEDED, State.FAILED, State.DELETED)

    assert targets == tuple(continuation_target(on, parent) for parent in ends)


def test_reason_of_a_waiting_continuation_contains_the_parent_state():
    """The reason also contains the state for which the continuation waits."""
    assert "parent failed; runs when it has succeeded" == waiting_reason(On.SUCCEEDED, State.FAILED)
    assert "parent failed; runs when it is deleted" == waiting_reason(On.DELETED, State.FAILED)


# ---- retention -------------------------------------------------------------------------------------------


@given(at=instants, spans=st.tuples(spans, spans, spans))
def test_each_final_state_has_a_separate_retention(at, spans):
    """The retention period begins when the job ends.

    With None, the job is kept forever. A job that has not ended never expires.
    """
    retention, ends = Retention(*spans), (State.SUCCEEDED, State.FAILED, State.DELETED)

    assert [at + span for span in spans] == [retention.until(state, at) for state in ends]
    assert {None} == {retention.until(state, at) for state in set(State) - FINAL_STATES}
    assert {None} == {Retention(None, None, None).until(state, at) for state in State}


# ---- histories -------------------------------------------------------------------------------------------


def grown(number):
    """Return a history with this number of entries, whose times are their positions."""
    history = []
    for place in range(number):
        history = bounded_history(history, HistoryEntry(State.ENQUEUED, place))
    return history


@given(number=st.integers(min_value=0, max_value=4 * HISTORY_LIMIT))
def test_history_is_bounded_and_counts_removed_entries(number):
    """A single entry replaces the removed entries and contains their number.

    Up to the limit, no entry is removed.
    """
    history = grown(number)

    assert min(number, HISTORY_LIMIT) == len(history)
    assert number == sum(entry.elided or 1 for entry in history)
    assert sorted(entry.at for entry in history) == [entry.at for entry in history]
    assert number > HISTORY_LIMIT or list(range(number)) == [entry.at for entry in history]


def test_long_history_keeps_its_oldest_and_newest_entries():
    """One entry replaces the entries between them."""
    history = grown(250)

    (mark,) = [entry for entry in history if entry.elided]
    half = HISTORY_LIMIT // 2
    assert list(range(half)) == [entry.at for entry in history[:half]]
    assert HistoryEntry(State.ENQUEUED, 200, elided=151) == mark == history[half]
    assert list(range(201, 250)) == [entry.at for entry in history[half + 1 :]]
