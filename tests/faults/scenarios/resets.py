"""F20: connections that are reset continuously, and the remaining throughput."""

from __future__ import annotations

import time

from firelock import Firelock
from tests.faults.checker import quantiles
from tests.faults.scenarios.base import Size, every, scenario, stage
from tests.faults.scenarios.network import NETWORKED, behind_proxy

_PAUSE = 0.2  # seconds between two resets
_CONNECTS = 10  # the minimum interval, in multiples of a connection's duration
_CHECK_SECONDS = 0.5  # seconds between two test connections
_TURNS = 5  # good and bad turns, because the load of a machine changes


@scenario("connection-resets", "F20", full=Size(4_000, 1), short=Size(500, 1), schemes=NETWORKED)
def connection_resets(place, size):
    """Every connection is reset five times a second. Nothing is lost or repeated, and work continues.

    The scenario runs `jobs` jobs of 10 ms without resets and as many with resets, in five turns each. If a
    test connection takes more than 20 ms to connect and read the clock, the machine is busy, and the interval
    between resets is ten times that duration. Each reset may delay the work by three times that duration,
    plus a twentieth of a second.
    """
    good = []
    bad = []
    connecting = []
    done = []
    with stage(place) as on, behind_proxy(on.place) as (proxy, far):
        on.serve(place=far)
        for _ in range(_TURNS):
            with every(_CHECK_SECONDS, lambda: connecting.append(_connect(place))):
                good.append(_duration(on, size.jobs // _TURNS))
                pause = max(_PAUSE, _CONNECTS * quantiles(connecting)[0])
                with every(pause, lambda: done.append(_reset(proxy))):
                    bad.append(_duration(on, size.jobs // _TURNS))
        report = on.finish(repeats="none")
    cost = sum(bad) - sum(good)
    p50, _, most = quantiles(connecting)
    cost_line = (
        f"resets {len(done)}, one in {sum(bad) / len(done):.2f} s, each cost "
        f"{cost / len(done) * 1e3:.0f} ms; a test connection took p50 {p50 * 1e3:.0f} ms, "
        f"max {most * 1e3:.0f} ms"
    )
    assert cost <= place.within(len(done) * (3 * p50 + 0.05)), cost_line
    return [
        *report.lines(),
        f"at {sum(good) / sum(bad) * 100:.0f} % of the rate without resets; sessions lost 0",
        cost_line,
    ]


def _duration(on, jobs):
    """Return how long this number of jobs took."""
    began = time.monotonic()
    on.enqueue(jobs, 0.01)
    on.await_end(240)
    return time.monotonic() - began


def _connect(place):
    """Return how long a test connection took to connect and read the clock."""
    began = time.monotonic()
    with Firelock(place.storage) as client:
        client.storage.clock()
    return time.monotonic() - began


def _reset(proxy):
    proxy.reset()
    return time.monotonic()
