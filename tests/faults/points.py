"""Named points at which a process dies: before, within or after a storage's call, or in a task.

Each process has one point as its target. Within a call, a kernel timer ends the process after a random part
of the usual duration of such calls, so no further Python code runs. These events are in a separate ledger,
which is small and read by each process that selects its target.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import threading
import time
from collections import Counter, deque
from pathlib import Path

from firelock.storage import FINAL_STATES, MemoKind
from tests.faults.ledger import Ledger, read_ledger
from tests.faults.servers import is_running

_FIRST_SPAN = 0.002  # seconds, used before any call has been measured
_MEASURED = 20


def _is_memo(*kinds, is_done):
    def matches(memos, **_):
        return any(one.memo.kind in kinds and one.memo.is_done is is_done for one in memos)

    return matches


def _has_transition(is_meant):
    return lambda transitions, *_, **__: any(map(is_meant, transitions))


def _always(*_, **__):
    return True


# The calls of each point: methods of the storage, and a condition for their arguments.
_CALLS = {
    "claim": (("claim", "exchange"), _always),
    "end": (("apply", "exchange"), _has_transition(lambda one: one.to in FINAL_STATES)),
    "suspend": (("apply", "exchange"), _has_transition(lambda one: one.waits_for is not None)),
    "fold": (("release",), _always),
    "promote": (("promote",), _always),
    "recall": (("recall",), _always),
    "memo": (("remember",), _is_memo(MemoKind.STEP, is_done=True)),
    "nap": (("remember",), _is_memo(MemoKind.SLEEP, is_done=True)),
    "wait": (("remember",), _is_memo(MemoKind.SIGNAL, is_done=False)),
    "send": (("remember",), _is_memo(MemoKind.SIGNAL, is_done=True)),
    "name": (("remember",), _is_memo(MemoKind.CALL, is_done=False)),
    "child": (("insert",), lambda jobs, **_: bool(jobs)),
    "chunk": (("insert",), lambda jobs, **_: bool(jobs)),
    "let-go": (("apply",), _always),
    "sweep": (("release",), _always),
}


class Points:
    """The point at which this process dies, if any: `NAME:WHEN` for calls, or a name for points in tasks.

    Args:
        folder: the folder of the ledger, in which a ledger of points is created.
        point: the name, or None for a process that does not kill itself.
        every: the process dies at a random one of this number of calls or visits of a task.
    """

    def __init__(self, folder, point, every=1):
        self._ledger = Ledger(_ledger_of(folder))
        self.point, self._every = point, every
        self._name, _, self._when = (point or "").partition(":")
        self._chance = random.Random(os.getpid())
        self._spans = deque([_FIRST_SPAN], _MEASURED)
        self._arming = threading.Lock()
        if point is not None:
            self._ledger.write("aim", note=point)

    def come_to(self, point):
        """Record that a task has reached this point; die if it is the target."""
        if point == self.point and self._is_last():
            self.die()

    def watch(self, storage):
        """Let the process die at a call of this storage, if its point is such a call."""
        verbs, is_meant = _CALLS.get(self._name, ((), _always))
        for verb in verbs:
            setattr(storage, verb, self._deadly(getattr(storage, verb), is_meant))

    def _deadly(self, verb, is_meant):
        @functools.wraps(verb)
        def deadly(*args, **kwargs):
            if not is_meant(*args, **kwargs):
                return verb(*args, **kwargs)
            is_last = self._is_last()
            if is_last and self._when == "before":
                self.die()
            if is_last and self._when == "within" and self._arming.acquire(blocking=False):
                try:
                    return self._within(verb, args, kwargs)
                finally:
                    self._arming.release()
            began = time.monotonic()
            answer = verb(*args, **kwargs)
            self._spans.append(time.monotonic() - began)
            if is_last and self._when == "behind":
                self.die()
            return answer

        return deadly

    def _within(self, verb, args, kwargs):
        seconds = max(1e-5, self._chance.uniform(0.0, self._chance.choice(self._spans)))
        self._ledger.write("armed", note=f"{self.point} {seconds}")
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            return verb(*args, **kwargs)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._ledger.write("disarmed", note=self.point)

    def _is_last(self):
        return self._chance.randrange(self._every) == 0

    def die(self):
        """Record the point and kill this process."""
        self._ledger.write("point", note=self.point)
        os.kill(os.getpid(), signal.SIGKILL)


def aim(folder, points, times):
    """Return the point with the fewest deaths and running processes, or None if all points have enough."""
    events = read_ledger(_ledger_of(folder))
    aimed = {event.pid: event.note for event in events if event.what == "aim"}
    taken = Counter(point for _, point, _ in _deaths(events))
    taken.update(point for pid, point in aimed.items() if pid != os.getpid() and is_running(pid))
    left = [point for point in points if taken[point] < times]
    return min(left, key=lambda point: (taken[point], random.random())) if left else None


def note_killed(folder, pids):
    """Record that these processes are about to be killed, so that their deaths are not those of a timer."""
    Ledger(_ledger_of(folder)).write("killed", note=" ".join(map(str, pids)))


def deaths(folder):
    """Return the process, point and time of each process that killed itself."""
    return list(_deaths(read_ledger(_ledger_of(folder))))


def _deaths(events):
    """Yield the process, point and time of each death; a later process can have the id of a dead one."""
    armed = {}
    for event in events:
        if event.what == "armed":
            if event.pid in armed:
                yield armed[event.pid]
            point, seconds = event.note.split(" ")
            armed[event.pid] = event.pid, point, event.at + float(seconds)
        elif event.what == "disarmed":
            armed.pop(event.pid, None)
        elif event.what == "killed":
            for pid in map(int, event.note.split(" ")):
                if pid in armed and event.at < armed[pid][2]:  # the timer had not expired
                    del armed[pid]
        elif event.what == "point":
            yield event.pid, event.note, event.at
    yield from (death for pid, death in armed.items() if not is_running(pid))


def _ledger_of(folder):
    path = Path(folder) / "points"
    path.mkdir(parents=True, exist_ok=True)
    return path
