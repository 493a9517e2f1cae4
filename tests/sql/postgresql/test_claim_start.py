"""Where a claim looks once looks have become long."""

from __future__ import annotations

import pytest

from firelock.storage import ClaimRequest
from firelock_sql.postgresql.claim_start import ClaimStart, Probe

LATE = 5_000_000
NOW = 1_000_000_000


class Clock:
    """Seconds that a test moves."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def start(clock):
    """What a process knows that has claimed nothing yet."""
    return ClaimStart(clock)


def asked(queues=("mail",), limit=2):
    return ClaimRequest(queues, limit, "session", NOW)


def after_a_long_look(start, *claimed, queues=("mail",), micros=100_000):
    """The next look, after several whole ones that took so many micros; the last claimed these."""
    start.looked(start.look(asked(queues)), [], micros)
    start.looked(start.look(asked(queues)), [], micros)
    start.looked(start.look(asked(queues)), claimed, micros)
    return start.look(asked(queues))


def test_quick_looks_are_whole(start):
    """What a look takes for each job that it claims is not long."""
    look = after_a_long_look(start, *[("mail", 0, 1, n) for n in range(500)], micros=32_000)

    assert look.probes is None


def test_one_long_look_is_none_and_two_with_a_short_between_are_none(start):
    """The first along entries that nobody sees any more marks them: nothing has to wait for that."""
    for micros in (100_000, 100_000, 3, 100_000, 100_000):
        start.looked(start.look(asked()), [("mail", 0, 10, 3)], micros)

    assert start.look(asked()).probes is None


def test_looks_are_whole_again_after_a_rest(start, clock):
    """The rest is as long as the look was, many times: two seconds for a tenth."""
    after_a_long_look(start, ("mail", 0, 10, 3))

    clock.seconds = 1.9
    assert start.look(asked()).probes is not None
    clock.seconds = 2.0
    assert start.look(asked()).probes is None


def test_places_stay_known_from_one_rest_to_the_next(start, clock):
    """A whole look claims what came late; the levels begin where they did."""
    after_a_long_look(start, ("mail", 0, 10, 3))
    clock.seconds = 3.0

    start.looked(start.look(asked()), [("mail", 0, 5, 1)], 100_000)

    assert Probe("mail", 0, 0, (10, 3)) in start.look(asked()).probes


def test_a_short_look_that_finds_too_little_passes_all_but_the_last_seconds(start):
    """Whatever was stored by then has been seen, but for transactions still open."""
    look = after_a_long_look(start, ("mail", 0, 10, 1))
    start.looked(look, [], ["mail"])

    assert Probe("mail", 0, 0, (NOW - LATE, 0)) in start.look(asked()).probes


def test_a_place_never_moves_back(start):
    """What was handed back meanwhile waits for the next whole look."""
    look = after_a_long_look(start, ("mail", 0, NOW, 9))
    start.looked(look, [], ["mail"])

    assert Probe("mail", 0, 0, (NOW, 9)) in start.look(asked()).probes


def test_no_more_than_a_thousand_levels_are_known(start):
    """What grows is bounded; those beyond are looked for between the others."""
    look = after_a_long_look(start, *[("mail", n, 10, n) for n in range(1_200)], micros=1_000_000)

    assert 2 * 1_000 + 1 == len(look.probes)
