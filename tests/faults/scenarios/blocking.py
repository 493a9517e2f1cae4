"""F08, F11, F12: stopped processes, and jobs that block everything else."""

from __future__ import annotations

import random
import threading
import time

from tests.faults.checker import late_ends
from tests.faults.scenarios.base import Size, scenario, stage
from tests.faults.servers import eventually

_QUICK = {"session_timeout": 1.0, "heartbeat": 0.3, "sweep": 0.2, "poll": 0.1}
_SESSIONS = 5  # for how many session timeouts a job blocks


# ---- paused servers --------------------------------------------------------------------------------------


@scenario("paused-servers", "F08", full=Size(40, 60), short=Size(30, 1))
def paused_servers(place, size):
    """A server is stopped for three session timeouts and then continues. Its late ends are refused.

    By then another server has the jobs, with newer fences. The stopped server continues with a new session.
    """
    resumed_after = []
    with stage(place, **_QUICK) as on:
        paused, other = on.server(), on.server()
        for _ in range(size.rounds):
            on.up()
            resumed_after.append(_pause_and_resume(on, paused, other, size.jobs))
        report = on.finish()
        late = late_ends(on.events())
        refused = sum(server.log.read_text().count("was refused") for server in (paused, other))
        records = on.records()
    assert late, "no run was frozen"
    assert refused >= len(late), (refused, late)
    assert [record for record in records if record.result != str(record.fence)] == []
    return [
        *report.lines(),
        f"late ends {len(late)}, all refused; every result is from the newest claim",
        f"at work with a new session within {max(resumed_after):.2f} s",
    ]


def _pause_and_resume(on, paused, other, jobs):
    """Return how long the server took to run jobs again after a freeze of three session timeouts."""
    chance = random.Random(8)
    pids = []
    for _ in range(20):
        on.keep_busy(jobs, lambda: chance.uniform(0.4, 0.8), by=jobs)
        eventually(lambda: _runs(on, paused), 20, "the resumed server runs jobs")
        time.sleep(chance.uniform(0.05, 0.3))
        pids = paused.freeze(frozen=True)
        on.note("freeze", *pids)
        # A server frozen during a write would prevent all renewals, because SQLite has only one writer.
        if _is_answering(on) and (frozen := _runs(on, paused)):
            break
        paused.freeze(frozen=False)
        on.note("freeze", *other.family())
    else:
        raise AssertionError(pids)
    time.sleep(3 * _QUICK["session_timeout"])
    eventually(
        lambda: _was_claimed_again(on, frozen), 20, "the job of a frozen run belongs to another server"
    )
    paused.freeze(frozen=False)
    resumed_at = time.monotonic()
    return eventually(
        lambda: on.starts_after(resumed_at, paused.family(), 0.2), 20, "the resumed server starts jobs"
    )


def _is_answering(on):
    """Return whether the storage completes a write within a short time."""
    write = threading.Thread(target=on.fire.storage.put_record, args=("faults", "is-answering", "1"))
    write.start()
    write.join(0.2)
    return not write.is_alive()


def _runs(on, server):
    """Return the start events of the server's current runs."""
    children = server.children()
    return [event for event in _open_runs(on.events()) if event.pid in children]


def _was_claimed_again(on, runs):
    fences = {event.job: event.fence for event in runs}
    return any(
        event.what == "start" and event.fence > fences.get(event.job, event.fence) for event in on.events()
    )


def _open_runs(events):
    ended = {(event.job, event.pid, event.fence) for event in events if event.what in {"end", "cancelled"}}
    starts = [event for event in events if event.what == "start"]
    return [event for event in starts if (event.job, event.pid, event.fence) not in ended]


# ---- blocking jobs ---------------------------------------------------------------------------------------


@scenario("block-interpreter", "F11", full=Size(40, 10), short=Size(20, 1))
def block_interpreter(place, size):
    """A job blocks its process's interpreter for five session timeouts. Its jobs do not count as lost."""
    seconds = _SESSIONS * _QUICK["session_timeout"]
    with stage(place, **_QUICK) as on:
        on.serve(2, app="blocking")
        for number in range(size.rounds):
            on.enqueue(size.jobs, 0.05)
            held = on.enqueue(1, seconds, task=("hold-in-c", "hold-in-regex")[number % 2])
            on.await_starts(held)
            on.enqueue(size.jobs, 0.05)
            on.await_end(60)
        report = on.finish(repeats="none")
        _assert_no_reclaim(on)
    return [*report.lines(), f"blocked for {seconds:.0f} s with a session timeout of 1 s: sessions lost 0"]


@scenario("block-event-loop", "F12", full=Size(40, 10), short=Size(20, 1))
def block_event_loop(place, size):
    """A coroutine blocks the event loop for five session timeouts. Nothing is lost; a warning names it."""
    seconds = _SESSIONS * _QUICK["session_timeout"]
    warned = []
    with stage(place, **_QUICK) as on:
        (server,) = on.serve(app="blocking")
        for _ in range(size.rounds):
            on.enqueue(size.jobs, 0.05)
            blocker = on.enqueue(1, seconds, task="block-event-loop")
            on.enqueue(size.jobs, 0.05, task="awork")
            on.await_starts(blocker)
            warned.append(_await_words(server, f"by job {blocker[0]}"))
            on.await_end(60)
        report = on.finish(repeats="none")
        warnings = server.log.read_text().count("has been blocked")
        _assert_no_reclaim(on)
    assert warnings == size.rounds, warnings
    assert max(warned) <= place.within(1.0), warned
    return [*report.lines(), f"logged within {max(warned):.2f} s, {warnings} warnings; sessions lost 0"]


def _await_words(server, words):
    return eventually(lambda: words in server.log.read_text(), 5, f"the log contains {words!r}")


def _assert_no_reclaim(on):
    sessions = [record for view in on.fire.servers.list() for record in view.sessions]
    assert all(record.is_alive for record in sessions), sessions
    assert len(sessions) == len(on.servers), sessions
