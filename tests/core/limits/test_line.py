"""The order of a line, the position of a job in it, and estimates of the job's start."""

from __future__ import annotations

import pytest

from firelock.limits import LINE_LENGTH, LimitSettings, Spot, place_of, spots
from firelock.limits.line import NEVER, start_bound, start_estimate

SECOND = 1_000_000


class Lanes:
    """Lanes of these lengths that count the jobs read from them."""

    def __init__(self, *lengths):
        self.lengths = lengths
        self.read = 0

    def count(self, of, most):
        found = [min(self.lengths[lane], most) for lane in of]
        self.read += sum(found)
        return found

    def spots(self, after, limit):
        return [(one.lane, one.rank) for one in spots(self.count, len(self.lengths), after, limit)]


def test_lanes_take_turns():
    """Each round takes one job from each lane that is not empty."""
    lanes = Lanes(1, 3, 2)

    assert [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (1, 2)] == lanes.spots(0, 100)
    assert [(2, 0), (1, 1)] == lanes.spots(2, 2)
    assert [] == lanes.spots(6, 10)
    assert [] == Lanes().spots(0, 10)


@pytest.mark.parametrize("lengths", [(5,), (1, 4, 2), (2, 2, 2), (1, 1, 7, 1)])
def test_position_of_every_job_is_found(lengths):
    """The position of a job is its index in the line."""
    lanes = Lanes(*lengths)

    line = spots(lanes.count, len(lengths), 0, 100)

    assert [*range(sum(lengths))] == [place_of(lanes.count, len(lengths), spot) for spot in line]


def test_number_of_read_jobs_is_bounded():
    """However many jobs wait, a page or a position reads at most a few times as many jobs as it shows."""
    lanes = Lanes(*[1] * 400, *[5_000_000] * 3)

    line = lanes.spots(0, 1_000)
    read_by_page, lanes.read = lanes.read, 0
    place = place_of(lanes.count, 403, Spot(402, 3_000_000))

    assert 1_000 == len(line)
    assert read_by_page < 5_000
    assert LINE_LENGTH == place
    assert lanes.read < 5 * LINE_LENGTH
    assert LINE_LENGTH == len(Lanes(20_000).spots(0, 30_000))


def settings(**given):
    return LimitSettings(**given)


@pytest.mark.parametrize(
    ("given", "facts", "seconds"),
    [
        ({"concurrent": 2}, {"running": 2}, 5),  # one run of 10 s in two slots
        ({"concurrent": 2}, {"running": 2, "ahead": 5}, 30),
        ({"concurrent": 2}, {"running": 1}, 0),
        ({"concurrent": 2}, {"running": 1, "ahead": 1}, 5),
        ({"concurrent": 2}, {"running": 2, "run_time": None}, None),
        ({"concurrent": 0}, {}, NEVER),
        ({"rate": 0}, {}, NEVER),
        ({"concurrent": 5, "is_paused": True}, {}, NEVER),
        ({}, {"next_arrival_at": 30 * SECOND}, 30),  # closed, without a rate
        ({"rate": 5, "per": 60 * SECOND, "burst": 1}, {"next_arrival_at": 12 * SECOND}, 12),
        ({"rate": 5, "per": 60 * SECOND, "burst": 1}, {"next_arrival_at": 12 * SECOND, "ahead": 177}, 2_136),
        ({"rate": 60, "per": 60 * SECOND, "burst": 3}, {"ahead": 2}, 0),
        ({"rate": 60, "per": 60 * SECOND, "burst": 3}, {"ahead": 3}, 1),
        ({"rate": 60, "per": 60 * SECOND, "burst": 10}, {"ahead": 3, "cost": 10}, 30),
        ({"rate": 60, "per": 60 * SECOND, "burst": 1, "concurrent": 1}, {"running": 1, "ahead": 2}, 30),
    ],
)
def test_start_of_a_job_is_estimated(given, facts, seconds):
    """The estimate uses the rate, the jobs ahead and the duration of runs.

    If the job cannot start before an operator changes the limit, the estimate is NEVER.
    """
    inputs = {
        "running": 0, "next_arrival_at": 0, "ahead": 0, "cost": 1, "run_time": 10.0 * SECOND, "now": 0,
        **facts,
    }  # fmt: skip

    at = start_estimate(settings(**given), **inputs)

    assert at == (None if seconds is None else seconds * SECOND)


@pytest.mark.parametrize(
    ("given", "left", "facts", "seconds"),
    [
        ({"concurrent": 3}, [40, 10, 30], {}, 10),  # the next start follows the first end
        ({"concurrent": 3}, [40, 10, 30], {"ahead": 1}, 30),
        ({"concurrent": 3}, [40, 10, 30], {"ahead": 3}, 110),  # second round: one run of 100 s before it
        ({"concurrent": 3}, [40, 10, 30], {"ahead": 8}, 240),
        ({"concurrent": 3}, [40], {"ahead": 1}, 0),  # two slots are free
        ({"concurrent": 3}, [40], {"ahead": 2}, 40),
        ({"concurrent": 1}, [40, 10, 30], {}, 40),  # the limit was lowered, so two ends do not free a slot
        ({"concurrent": 3}, [40, 10, 30], {"timeout": None}, None),
        ({"concurrent": 3}, [40], {"timeout": None}, 0),
        ({"concurrent": 0}, [], {}, NEVER),
        ({"rate": 5, "per": 60 * SECOND, "burst": 1}, [40], {"next_arrival_at": 12 * SECOND}, 12),
        ({"rate": 5, "per": 60 * SECOND, "concurrent": 1}, [40], {"next_arrival_at": 99 * SECOND}, 99),
    ],
)
def test_estimated_start_is_bounded_by_timeouts(given, left, facts, seconds):
    """The jobs ahead run no longer than their timeout (100 s). Without timeouts, there is no bound."""
    inputs = {"next_arrival_at": 0, "ahead": 0, "cost": 1, "timeout": 100.0 * SECOND, "now": 0, **facts}

    at = start_bound(settings(**given), left=[seconds * SECOND for seconds in left], **inputs)

    assert at == (None if seconds is None else seconds * SECOND)
