"""The number of jobs that are claimed ahead.

It grows when workers run out of jobs and shrinks as soon as jobs wait.
"""

from __future__ import annotations

import pytest

from firelock.server.dispatcher import ClaimAhead


def test_claim_ahead_grows_when_workers_run_out_of_jobs():
    """Each time workers are idle although jobs are available, the number grows by one plus 5 %."""
    ahead = ClaimAhead(500)

    grown = []
    for _ in range(3):
        ahead.ran_dry()
        grown.append(ahead.ahead)

    assert [1, 2, 3] == grown


@pytest.mark.parametrize(
    ("wait", "left", "are_handed_back"),
    [(0.0, 100, False), (0.020, 100, False), (0.0201, 90, False), (0.050, 90, False), (0.0501, 0, True)],
)
def test_claim_ahead_shrinks_when_jobs_wait(wait, left, are_handed_back):
    """A wait above 20 ms lowers the number by a tenth.

    After a wait above 50 ms, the waiting jobs are handed back and the number drops to zero.
    """
    ahead = ClaimAhead(100)
    for _ in range(100):
        ahead.ran_dry()

    handed_back = ahead.observe(wait)

    assert (left, are_handed_back) == (ahead.ahead, handed_back)


@pytest.mark.parametrize(("seconds", "left"), [(0.1, 50), (0.3, 0)])
def test_claim_ahead_resumes_when_a_worker_becomes_free(seconds, left):
    """When a worker becomes free, claiming ahead continues with half of the number.

    If this took so long that the jobs must be long ones, the new number is zero.
    """
    now = [7.0]
    ahead = ClaimAhead(100, lambda: now[0])
    for _ in range(100):
        ahead.ran_dry()
    ahead.observe(0.06)

    now[0] += seconds
    ahead.go_on()

    assert (left, False) == (ahead.ahead, ahead.is_stalled)


@pytest.mark.parametrize(
    ("short", "ends", "seconds", "left"),
    [
        (0.002, 500, 0.022, 101),  # 20 ms longer than an exchange with few ends
        (0.002, 500, 0.0221, 86),
        (0.050, 500, 0.150, 101),  # a distant storage: three times as long as with few ends
        (0.050, 500, 0.151, 86),
        (0.002, 10, 0.5, 101),  # this exchange is not long because of its ends
    ],
)
def test_claim_ahead_shrinks_when_outcomes_make_exchanges_long(short, ends, seconds, left):
    """The number drops by a tenth, from 95, and does not grow again until an exchange is short."""
    ahead = ClaimAhead(500)
    for _ in range(36):
        ahead.ran_dry()
    ahead.exchanged(2, short)

    ahead.exchanged(ends, seconds)
    ahead.ran_dry()

    assert left == ahead.ahead
