"""F49: locks whose holders die or are paused."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from tests.faults.checker import quantiles
from tests.faults.ledger import read_ledger
from tests.faults.program import run_program
from tests.faults.scenarios.base import Size, scenario

_TTL = 0.6
_LONGEST_WAIT = 0.25  # between two attempts to get a held lock
_SLACK = 0.3


@scenario("lock-holders", "F49", full=Size(8, 200), short=Size(8, 3))
def lock_holders(place, size):
    """Holders of a lock are killed, or paused past its expiry. Fences only grow, and two never hold the lock.

    There are `jobs` contenders, each of which holds the lock for up to a quarter of its lifetime.
    """
    assert not any(run_program(place, "lock_contenders", size.jobs, size.rounds, _TTL))
    events = read_ledger(place.folder / "lock_contenders")
    entries, asleep = _entries(events)
    disturbed = _disturbed(events)
    _assert_no_late_writes(events, asleep | disturbed.keys())
    waits = [
        after.at - disturbed[before.fence] for before, after in pairwise(entries) if before.fence in disturbed
    ]
    bound = _TTL + _LONGEST_WAIT + _SLACK
    assert max(waits) <= place.within(bound), sorted(waits)
    hit = Counter(event.what for event in events)
    lost = {event.fence for event in events if event.what == "lost"}
    return [
        f"holders {len(entries)}, killed {hit['kill']}, paused {hit['freeze']}",
        f"decreasing fences 0, writes after the loss of the lock 0, reported losses {len(lost)}",
        f"next holder waited p50 {quantiles(waits)[0]:.2f} s, max {max(waits):.2f} s; bound {bound:.2f} s",
    ]


def _disturbed(events):
    """Return the time when a holder was killed or paused, by fence.

    The intended holder may have released the lock or taken it again meanwhile, so the lock that it held when
    the signal was sent counts.
    """
    held = {}
    disturbed = {}
    for event in events:
        if event.what == "enter":
            held[event.pid] = event.fence
        elif event.what in {"write", "lost"}:
            held.pop(event.pid, None)
        elif event.what in {"kill", "freeze"} and int(event.note) in held:
            disturbed[held[int(event.note)]] = event.at
    return disturbed


def _entries(events):
    """Return the entries, whose fences grow, and the fences of holders frozen before recording their entry.

    Such a holder records its entry when it continues, long after others have entered.
    """
    recorded = [event for event in events if event.what == "enter"]
    frozen = {int(event.note) for event in events if event.what == "freeze"}
    assert len({event.fence for event in recorded}) == len(recorded), "two holders had the same fence"
    entries = []
    asleep = set()
    for event in recorded:
        if not entries or event.fence > entries[-1].fence:
            entries.append(event)
        else:
            assert event.pid in frozen, f"a fence decreased: {event}"
            asleep.add(event.fence)
    return entries, asleep


def _assert_no_late_writes(events, disturbed):
    """Assert that no holder writes after another has entered, and that only disturbed ones lose the lock."""
    newest = 0
    for event in events:
        if event.what == "enter":
            newest = max(newest, event.fence)
        elif event.what == "write":
            assert event.fence == newest, event
        elif event.what == "lost":
            assert event.fence in disturbed, event
