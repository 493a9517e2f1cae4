"""F41: jobs that behave as badly as Python allows."""

from __future__ import annotations

import signal
import time

from tests.faults.scenarios.base import Size, scenario, stage
from tests.faults.scenarios.kills import left_over
from tests.faults.servers import eventually

_WHERE = ("thread", "loop", "process")

# The expected end: state and a word of the error type; None if it depends on the executor.
_KINDS = {
    "base-exception": ("failed", "BaseException"),
    "system-exit": ("failed", "SystemExit"),
    "keyboard-interrupt": ("failed", "KeyboardInterrupt"),
    "cancelled-error": ("failed", "CancelledError"),
    "generator-exit": ("failed", "GeneratorExit"),
    "stop-iteration": ("failed", ""),  # in a coroutine, Python raises a RuntimeError instead
    "unreadable": ("failed", "Unreadable"),
    "unreadably": ("failed", "Unreadably"),
    "deep": ("failed", "RecursionError"),
    "chained": ("failed", "ValueError"),
    "unstorable": None,
    "object": ("succeeded", ""),
    "surrogates": ("succeeded", ""),
    "closed-streams": ("succeeded", ""),
    "surroundings": None,  # only the main thread can set signal handlers
    "low-recursion": None,
    "leaked-threads": ("succeeded", ""),
    "stopped-loop": None,
    "ended-loop": None,
    "fork-and-return": ("succeeded", ""),
}


@scenario("hostile-python", "F41", full=Size(5, 1), short=Size(1, 1))
def hostile_python(place, size):
    """Jobs raise anything, and break streams, limits, the loop and the environment.

    Later jobs are unaffected. They run in threads, on the event loop and in job processes, with `jobs` probes
    after each.
    """
    with stage(place, grace=1) as on:
        (server,) = on.serve(app="hostile", workers=2)
        child = server.children()
        for where in _WHERE:
            for kind, expected in _KINDS.items():
                _assert_ended(_play(on, f"{where}.{kind}"), expected)
                for _ in range(size.jobs):
                    probe = _play(on, f"{where}.probe")
                    assert probe.result == "[]", (where, kind, probe)
        assert server.children() == child, server.log.read_text()[-2_000:]
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        took = time.monotonic() - began
        eventually(lambda: left_over(place) == [], place.within(2), "no process that a job started is left")
        report = on.report()
    assert report.stuck == 0, report.lines()
    return [
        f"{len(_KINDS)} kinds in {len(_WHERE)} executors: all ended readably, later jobs unaffected",
        f"the server ended with 0 within {took:.1f} s",
    ]


def _play(on, task):
    """Run a job of the task, and return it when it has ended."""
    (job_id,) = on.enqueue(1, 0.0, task=task)
    eventually(lambda: on.record(job_id).is_final, 30, f"{task} has ended")
    return on.record(job_id)


def _assert_ended(record, expected):
    assert record.is_final, record
    assert record.crashes == 0, record
    if expected is not None:
        state, word = expected
        assert record.state == state, record
        assert word in ("" if record.error is None else record.error.type), record
    assert record.reason or record.state != "failed", record
