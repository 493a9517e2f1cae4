"""The log lines about a storage outage: one at its beginning, one every five minutes, and one at its end."""

from __future__ import annotations

from firelock.server.outage import REPORT_INTERVAL, Outage


class Clock:
    """A clock in seconds that the test moves."""

    now = 1_000.0

    def __call__(self):
        return self.now


def test_outage_is_reported_every_five_minutes():
    """Each report contains the duration of the outage. Between two reports there is nothing to log."""
    clock = Clock()
    outage = Outage(clock)

    reports = []
    for _ in range(130):
        reports.append(outage.note_failure())
        clock.now += 5.0

    assert REPORT_INTERVAL == 300.0
    assert [300.0, 600.0] == [each for each in reports if each is not None]


def test_next_outage_is_reported_separately():
    """The duration and the reports of a new outage start from zero."""
    clock = Clock()
    outage = Outage(clock)

    outage.note_failure()
    clock.now += 299.0
    first = outage.end()
    clock.now += 1_000.0
    begins = outage.note_failure()
    clock.now += 299.0

    assert (299.0, None, None, 299.0) == (first, begins, outage.note_failure(), outage.end())
    assert outage.end() == 0.0
