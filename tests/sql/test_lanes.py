"""Where a claim looks once looks have become long."""

from __future__ import annotations

import pytest

from firelock_sql.claim import ClaimRequest
from firelock_sql.postgresql.lanes import Lanes, Probe

LATE = 5_000_000
NOW = 1_000_000_000
EDGES = (-(1 << 31) - 1, 1 << 31)


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
def lanes(clock):
    """What a process knows that has claimed nothing yet."""
    return Lanes(clock)


def asked(queues=("mail",), limit=2):
    return ClaimRequest(queues, limit, "session", NOW)


def after_a_long_look(lanes, *claimed, queues=("mail",), micros=100_000):
    """The next look, after several whole ones that took so many micros; the last claimed these."""
    lanes.looked(lanes.look(asked(queues)), [], micros)
    lanes.looked(lanes.look(asked(queues)), [], micros)
    lanes.looked(lanes.look(asked(queues)), claimed, micros)
    return lanes.look(asked(queues))


def test_quick_looks_are_whole(lanes):
    """What a look takes for each job that it claims is not long."""
    look = after_a_long_look(lanes, *[("mail", 0, 1, n) for n in range(500)], micros=32_000)

    assert look.probes is None


def test_one_long_look_is_none_and_two_with_a_short_between_are_none(lanes):
    """The first along entries that nobody sees any more marks them: nothing has to wait for that."""
    for micros in (100_000, 100_000, 3, 100_000, 100_000):
        lanes.looked(lanes.look(asked()), [("mail", 0, 10, 3)], micros)

    assert lanes.look(asked()).probes is None


def test_after_a_long_look_lanes_begin_behind_what_was_claimed(lanes):
    """Priorities that nobody has seen are looked for between those that are known."""
    look = after_a_long_look(lanes, ("mail", 5, 30, 7), ("mail", 5, 20, 9), ("mail", 0, 10, 3))

    assert [
        Probe("mail", 5, EDGES[1]),
        Probe("mail", 5, 5, (30, 7)),
        Probe("mail", 0, 5),
        Probe("mail", 0, 0, (10, 3)),
        Probe("mail", EDGES[0], 0),
    ] == look.probes


def test_looks_are_whole_again_after_a_rest(lanes, clock):
    """The rest is as long as the look was, many times: two seconds for a tenth."""
    after_a_long_look(lanes, ("mail", 0, 10, 3))

    clock.seconds = 1.9
    assert lanes.look(asked()).probes is not None
    clock.seconds = 2.0
    assert lanes.look(asked()).probes is None


def test_places_stay_known_from_one_rest_to_the_next(lanes, clock):
    """A whole look claims what came late; the lanes begin where they did."""
    after_a_long_look(lanes, ("mail", 0, 10, 3))
    clock.seconds = 3.0

    lanes.looked(lanes.look(asked()), [("mail", 0, 5, 1)], 100_000)

    assert Probe("mail", 0, 0, (10, 3)) in lanes.look(asked()).probes


def test_a_short_look_that_is_full_passes_what_it_claimed(lanes):
    """Of lanes behind it nothing is known."""
    look = after_a_long_look(lanes, ("mail", 5, 10, 1), ("mail", 0, 10, 2))
    lanes.looked(look, [("mail", 5, 20, 3), ("mail", 5, 20, 4)], ["mail"])

    probes = lanes.look(asked()).probes
    assert Probe("mail", 5, 5, (20, 4)) in probes
    assert Probe("mail", 0, 0, (10, 2)) in probes


def test_a_short_look_that_finds_too_little_passes_all_but_the_last_seconds(lanes):
    """Whatever was stored by then has been seen, but for transactions still open."""
    look = after_a_long_look(lanes, ("mail", 0, 10, 1))
    lanes.looked(look, [], ["mail"])

    assert Probe("mail", 0, 0, (NOW - LATE, 0)) in lanes.look(asked()).probes


def test_a_paused_queue_is_not_passed(lanes):
    """Its jobs are claimed where they are once it is served again."""
    look = after_a_long_look(lanes, ("mail", 0, 10, 1))
    lanes.looked(look, [], None)

    assert Probe("mail", 0, 0, (10, 1)) in lanes.look(asked()).probes


def test_a_place_never_moves_back(lanes):
    """What was handed back meanwhile waits for the next whole look."""
    look = after_a_long_look(lanes, ("mail", 0, NOW, 9))
    lanes.looked(look, [], ["mail"])

    assert Probe("mail", 0, 0, (NOW, 9)) in lanes.look(asked()).probes


def test_a_server_that_names_queues_probes_those(lanes):
    """One whose lanes nobody knows is looked at as a whole."""
    look = after_a_long_look(
        lanes, ("mail", 0, 10, 1), ("bulk", 0, 10, 2), queues=("never seen", "mail", "mail")
    )

    assert ["never seen", "mail"] == list(dict.fromkeys(probe.queue for probe in look.probes))
    assert Probe("never seen", *EDGES) in look.probes


def test_a_server_of_queues_that_nobody_knows_looks_at_all_of_them(lanes):
    """There is nothing to step over."""
    after_a_long_look(lanes, ("mail", 0, 10, 1))

    assert lanes.look(asked(("other",))).probes is None


def test_a_server_of_all_queues_probes_the_gaps_between_them(lanes):
    """A queue that is new is found by one step."""
    look = after_a_long_look(lanes, ("mail", 0, 10, 1), ("bulk", 0, 10, 2), queues=None)

    assert ['{"","bulk"}', '{"bulk","mail"}', "mail"] == [
        look.values[name] for name in ("gap_lows", "gap_highs", "last_known")
    ]


def test_no_more_than_a_thousand_lanes_are_known(lanes):
    """What grows is bounded; those beyond are looked for between the others."""
    look = after_a_long_look(lanes, *[("mail", n, 10, n) for n in range(1_200)], micros=1_000_000)

    assert 2 * 1_000 + 1 == len(look.probes)
