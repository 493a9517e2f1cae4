"""The position at which a claim starts to read after slow reads."""

from __future__ import annotations

import pytest

from firelock.storage import ClaimRequest
from firelock_sql.postgresql.claim_start import ClaimStart, Probe

LATE = 5_000_000
NOW = 1_000_000_000


class Clock:
    """A clock in seconds that a test moves."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def start(clock):
    """The state of a process that has not claimed anything yet."""
    return ClaimStart(clock)


def request(queues=("mail",), limit=2):
    return ClaimRequest(queues, limit, "session", NOW)


def after_slow_reads(start, *claimed, queues=("mail",), micros=100_000):
    """Return the next read after several full reads of this duration. The last one claimed these places."""
    start.record(start.next_read(request(queues)), [], micros)
    start.record(start.next_read(request(queues)), [], micros)
    start.record(start.next_read(request(queues)), claimed, micros)
    return start.next_read(request(queues))


def test_fast_reads_are_full(start):
    """The more jobs a read claims, the longer it may take without counting as slow."""
    read = after_slow_reads(start, *[("mail", 0, 1, n) for n in range(500)], micros=32_000)

    assert read.probes is None


def test_single_slow_reads_do_not_shorten_later_reads(start):
    """The first read of dead index entries marks them, so the next read is fast and no job has to wait."""
    for micros in (100_000, 100_000, 3, 100_000, 100_000):
        start.record(start.next_read(request()), [("mail", 0, 10, 3)], micros)

    assert start.next_read(request()).probes is None


def test_reads_are_full_again_after_a_pause(start, clock):
    """The pause is a multiple of the read's duration.

    For example, it lasts two seconds after a read of a tenth of a second.
    """
    after_slow_reads(start, ("mail", 0, 10, 3))

    clock.seconds = 1.9
    assert start.next_read(request()).probes is not None
    clock.seconds = 2.0
    assert start.next_read(request()).probes is None


def test_places_remain_known_after_a_full_read(start, clock):
    """A full read claims a job that was stored late, but the levels still begin at the same positions."""
    after_slow_reads(start, ("mail", 0, 10, 3))
    clock.seconds = 3.0

    start.record(start.next_read(request()), [("mail", 0, 5, 1)], 100_000)

    assert Probe("mail", 0, 0, (10, 3)) in start.next_read(request()).probes


def test_short_read_that_finds_too_few_jobs_moves_its_start(start):
    """Every job stored until then has been read, except for jobs of transactions that are still open."""
    read = after_slow_reads(start, ("mail", 0, 10, 1))
    start.record(read, [], ["mail"])

    assert Probe("mail", 0, 0, (NOW - LATE, 0)) in start.next_read(request()).probes


def test_start_place_of_short_reads_never_decreases(start):
    """A job that is handed back before this position waits for the next full read."""
    read = after_slow_reads(start, ("mail", 0, NOW, 9))
    start.record(read, [], ["mail"])

    assert Probe("mail", 0, 0, (NOW, 9)) in start.next_read(request()).probes


def test_number_of_known_levels_is_bounded(start):
    """Levels that are not remembered are found by probes between the known levels."""
    read = after_slow_reads(start, *[("mail", n, 10, n) for n in range(1_200)], micros=1_000_000)

    assert 2 * 1_000 + 1 == len(read.probes)
