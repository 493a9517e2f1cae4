"""Events for open pages: changed topics and one sample per second, sent in a stream or polled."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import TYPE_CHECKING

import attrs
from starlette.responses import Response

from firelock import FirelockError
from firelock.storage import Counts, State
from firelock_dashboard.stats.rollups import MINUTE
from firelock_dashboard.web.event_stream import CHECKS_EVERY, EventStream
from firelock_dashboard.web.formatting import instant

if TYPE_CHECKING:
    from firelock import Firelock

log = logging.getLogger(__name__)

_EVERY = 1.0  # seconds between readings
_QUIET = 2.0  # minimum seconds between two announcements of a topic
_GRACE = 5.0  # seconds for which samples continue after the last listener has left, because it might return
_POLLED = 15.0  # seconds for which samples continue after a poll
_SAMPLES = 120
_EVENTS = 200
_LONGEST_PAUSE = 30.0  # the maximum number of seconds between readings of an unreachable storage


@attrs.frozen
class LiveEvent:
    """One event for listeners."""

    number: int  # ascends
    name: str  # "moved", "sample", "down" or "up"
    text: str

    @property
    def wire(self) -> bytes:
        """The event in the format of a stream; its text is one line."""
        return f"event: {self.name}\ndata: {self.text}\n\n".encode()


class Live:
    """The events of one dashboard, from a thread that reads the storage every second while pages are open.

    The newest events are kept in order, and listeners fetch the events that they do not have yet. A slow
    listener misses some events, but does not delay other listeners.
    """

    def __init__(
        self,
        fire: Firelock,
        counts: Callable[[], Counts],
        *,
        masked: Callable[[str], str] = str,
        on_changed: Callable[[], None] = lambda: None,
        on_moved: Callable[[Collection[str]], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._masked = masked  # masks secrets in the messages of errors
        self._on_changed = on_changed  # called when an operation in any process changes jobs
        self._on_moved = on_moved  # called before listeners are notified and read again
        self._monotonic = monotonic
        self._make_sampler = partial(Sampler, fire, counts, monotonic=monotonic, every=_EVERY)
        self._sampler = self._make_sampler()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._listeners = 0
        self._wanted_until = float("-inf")
        self._number = 0
        self._events: deque[LiveEvent] = deque(maxlen=_EVENTS)
        self._samples: deque[Sample] = deque(maxlen=_SAMPLES)
        self._waiting: set[str] = set()  # changed topics that are not announced yet
        self._announced_at: dict[str, float] = {}
        self._pause = _EVERY
        self.checks_every = CHECKS_EVERY  # seconds between checks of whether a stream's visitor may read
        self.storage_error: str | None = None  # the storage's last error, or None while it is reachable

    # ---- listening -----------------------------------------------------------------------------------------

    def join(self) -> int:
        """Add a listener, and return the number of the newest event."""
        with self._lock:
            self._listeners += 1
            self._start()
            return self._number

    def leave(self) -> None:
        """Remove a listener."""
        with self._lock:
            self._listeners -= 1
            self._wanted_until = self._monotonic() + _GRACE

    def samples(self) -> list[Sample]:
        """Return the last samples, oldest first; they continue for 15 seconds after each call."""
        with self._lock:
            self._wanted_until = max(self._wanted_until, self._monotonic() + _POLLED)
            self._start()
            return list(self._samples)

    def after(self, number: int) -> list[LiveEvent]:
        """Return the kept events above this number, oldest first."""
        with self._lock:
            return [event for event in self._events if event.number > number]

    @property
    def is_closed(self) -> bool:
        """Whether every stream must end."""
        return self._ending.is_set()

    # ---- reading the storage -------------------------------------------------------------------------------

    def read(self) -> None:
        """Read the storage once and notify listeners of changes; called by the thread."""
        try:
            sample, moved = self._sampler.read()
        except FirelockError as error:
            self._pause = min(_LONGEST_PAUSE, self._pause * 2)
            self._sampler = self._make_sampler()
            self._report_error(self._masked(str(error)))
            return
        if "operations" in moved:
            self._on_changed()
        self._pause = _until_mid_second(sample.at)
        with self._lock:
            if self.storage_error is not None:
                self.storage_error = None
                self._add_event("up", "")
                moved = list(TOPICS)
            self._samples.append(sample)
            self._add_event("sample", json.dumps(attrs.asdict(sample), separators=(",", ":")))
            due = self._due_topics(moved)
        if due:
            self._on_moved(due)  # called without the lock, because it may wait for a reading
            with self._lock:
                self._add_event("moved", " ".join(due))

    def _report_error(self, text: str) -> None:
        with self._lock:
            if self.storage_error is None:
                log.info("The storage is unreachable; open pages are not updated until it is back: %s", text)
            self.storage_error = text
            self._add_event("down", json.dumps(text))

    def _due_topics(self, moved: Collection[str]) -> list[str]:
        """Return the changed topics that can be announced now.

        A topic that was announced within the last two seconds must wait.
        """
        now = self._monotonic()
        self._waiting.update(moved)
        due = [t for t in TOPICS if t in self._waiting and now - self._announced_at.get(t, -_QUIET) >= _QUIET]
        self._waiting.difference_update(due)
        self._announced_at.update(dict.fromkeys(due, now))
        return due

    def _add_event(self, name: str, text: str) -> None:
        self._number += 1
        self._events.append(LiveEvent(self._number, name, text))

    # ---- the thread ----------------------------------------------------------------------------------------

    def _start(self) -> None:
        is_running = self._thread is not None and self._thread.is_alive()  # False after a fork
        if not is_running and not self._ending.is_set():
            self._thread = threading.Thread(target=self._run, name="firelock-live", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while self._must_continue():
            self.read()
            self._ending.wait(self._pause)

    def _must_continue(self) -> bool:
        with self._lock:
            is_wanted = self._listeners > 0 or self._monotonic() < self._wanted_until
            if not is_wanted or self._ending.is_set():
                self._thread = None
            return self._thread is not None

    def close(self) -> None:
        """Stop the thread and end all streams."""
        with self._lock:  # so that a thread that is being started can be joined
            self._ending.set()
            thread = self._thread
        if thread is not None:
            thread.join(5)


class LiveStream(EventStream):
    """A stream of the events that occur after its start."""

    def __init__(self, live: Live, is_reader: Callable[[], Awaitable[bool]]) -> None:
        super().__init__(is_reader, live.checks_every)
        self._live = live
        self._number = 0

    def join(self) -> None:
        """See `EventStream.join`."""
        self._number = self._live.join()

    async def read_new_events(self) -> bytes:
        """See `EventStream.read_new_events`."""
        events = self._live.after(self._number)
        if events:
            self._number = events[-1].number
        return b"".join(event.wire for event in events)

    def refusal(self) -> Response:
        """Return the response after which an EventSource does not connect again, so that the page polls."""
        return Response(status_code=204)

    @property
    def has_ended(self) -> bool:
        """See `EventStream.has_ended`."""
        return self._live.is_closed

    def leave(self) -> None:
        """See `EventStream.leave`."""
        self._live.leave()


def _until_mid_second(at: float) -> float:
    """Return the seconds until the middle of the next second, so that each second has exactly one sample."""
    pause = (0.5 - at % 1) % 1
    return pause + 1 if pause < 0.5 else pause  # noqa: PLR2004 - half a second


TOPICS = ("jobs", "queues", "servers", "recurring", "operations", "ended")

_GAP = 3  # rates are unknown after more missed readings, because they would be averages over a pause
_SLOWLY, _SELDOM = 2, 5  # the numbers of readings after which data that changes less often is read
_PAGE = 500


@attrs.frozen
class Sample:
    """One reading. Rates are per second, and None if there is no earlier reading to compare with."""

    at: float  # seconds since 1970, by the storage's clock
    enqueued: int
    processing: int
    created: float | None
    succeeded: float | None
    failed: float | None
    deleted: float | None
    retried: float | None  # attempts that failed or crashed and are retried


class Sampler:
    """A reader of samples and changed topics, to be used by one thread.

    Rates are computed from the growth of totals. Totals can also decrease, because pruning removes ended
    jobs, and a requeue removes a job from its total. Therefore a rate is never below 0, and while jobs are
    pruned it is lower than the real rate. Failed attempts that are retried are not in any total; rollups
    count them, two seconds late.
    """

    def __init__(
        self, fire: Firelock, counts: Callable[[], Counts], *, monotonic: Callable[[], float], every: float
    ) -> None:
        self._fire = fire
        self._counts = counts
        self._monotonic = monotonic
        self._every = every
        self._read_count = 0
        self._last: tuple[float, Counts] | None = None
        self._readings: dict[str, object] = {}
        self._ended: Counter[tuple[int, str]] = Counter()  # attempts of two minutes, by minute and outcome
        self._retried: dict[int, int] = {}  # by minute
        self._retried_at: float | None = None
        self._retried_rate: float | None = None

    def read(self) -> tuple[Sample, list[str]]:
        """Return the current sample and the topics that have changed since the last call.

        The first call returns no topics.
        """
        counts, now = self._counts(), self._monotonic()
        last, self._last = self._last, (now, counts)
        passed = None if last is None else now - last[0]
        if passed is not None and passed > (_GAP + 0.5) * self._every:
            passed = self._retried_at = None
        at = self._fire.client.clock.now() / 1_000_000
        self._count_ended(now, at)
        moved = self._moved(counts)
        self._read_count += 1
        return self._sample(at, counts, last[1] if last and passed else None, passed), moved

    def _sample(self, at: float, counts: Counts, before: Counts | None, passed: float | None) -> Sample:
        now = counts.by_state

        def grown(*states: State) -> float | None:
            if before is None or not passed:
                return None
            by = sum(now.get(state, 0) - before.by_state.get(state, 0) for state in states)
            return round(max(0, by) / passed, 2)

        return Sample(
            round(at, 3), now.get(State.ENQUEUED, 0), now.get(State.PROCESSING, 0),
            created=grown(*State), succeeded=grown(State.SUCCEEDED), failed=grown(State.FAILED),
            deleted=grown(State.DELETED), retried=passed and self._retried_rate,
        )  # fmt: skip

    # ---- changed topics ------------------------------------------------------------------------------------

    def _moved(self, counts: Counts) -> list[str]:
        readings: dict[str, object] = {
            "jobs": counts.by_state,
            "ended": dict(self._ended),
            "queues depths": {queue: dict(states) for queue, states in counts.by_queue.items()},
        }
        if self._read_count % _SLOWLY == 0:
            fire = self._fire
            readings["queues"] = [(one.name, one.is_paused, one.note) for one in fire.queues.list()]
            readings["servers"] = [
                (one.id, [(s.session.id, s.is_alive, s.renewal.state, s.renewal.busy) for s in one.sessions])
                for one in fire.servers.list()
            ]
            readings["operations"] = list(fire.operations.list(limit=20))
        if self._read_count % _SELDOM == 0:
            readings["recurring"] = self._fire.recurring.list(limit=_PAGE)
        moved = {
            name.partition(" ")[0]
            for name, reading in readings.items()
            if self._readings.get(name, reading) != reading
        }
        self._readings.update(readings)
        return [topic for topic in TOPICS if topic in moved]

    # ---- ended attempts -----------------------------------------------------------------------------------

    def _count_ended(self, now: float, at: float) -> None:
        if self._read_count % _SLOWLY:
            return
        minute = int(at * 1_000_000) // MINUTE * MINUTE
        found = {minute - MINUTE: 0, minute: 0}
        self._ended.clear()
        for rollup in self._fire.jobs.timeline(instant(minute - MINUTE), instant(minute + MINUTE)):
            self._ended[rollup.minute, rollup.outcome] += rollup.count
            if rollup.outcome in {"retried", "crashed"}:
                found[rollup.minute] = found.get(rollup.minute, 0) + rollup.count
        if self._retried_at is None:
            self._retried_rate = None
        else:
            grown = sum(count - self._retried.get(start, 0) for start, count in found.items())
            self._retried_rate = round(max(0, grown) / max(self._every, now - self._retried_at), 2)
        self._retried, self._retried_at = found, now
