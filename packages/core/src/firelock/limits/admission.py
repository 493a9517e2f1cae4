"""The choice of the jobs that may start under their limits.

The row of a limit's key lists the jobs that were claimed under it. Whether such a job still holds the key is
computed from the job itself. Therefore a job does not have to release its keys when it ends, and a key cannot
stay occupied by mistake.

The jobs of a queue that use the same keys wait in one lane, in their order. A claim can take a limited number
of jobs, which it chooses from the lanes of a queue (`KeyedClaim.take`). A claim works in four steps:

1. Find open lanes, in which all keys allow a start. The claim searches the lanes, beginning after the lane at
   which the previous search stopped. It plans one start in each open lane. It skips lanes with a key that
   another claim has locked.
2. Share the remaining starts. The open lanes receive more starts in turn; the lanes with the fewest starts
   come first.
3. Take the planned jobs. Read as many jobs of each lane as planned. If every job costs one unit of its keys
   and is not late, the plan is kept. Otherwise the plan is undone, and the real cost of each job is charged,
   one job after another. Jobs that a key blocks stay in their lane.
4. Repeat. If a lane has fewer jobs than planned, the other open lanes share its unused starts (2). If a job
   costs too much to start, the claim first searches the lanes that it has not checked yet (1).

A list of holders contains every job that holds the key, but it can also contain jobs that no longer hold it.
The jobs are therefore read only if the list would prevent a start, or if it has become long.

The module contains pure functions and the class `KeyedClaim`, which reads and writes only through the
`KeyedLanes` of a storage. Every storage in Python runs this code; the Redis storage implements the same rules
in Lua.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, zip_longest
from typing import Generic, Protocol, TypeVar

import attrs

from firelock.limits.settings import LimitSettings, settings_for
from firelock.model.limit import Admission, read_admission

__all__ = [
    "Head",
    "HolderFacts",
    "KeyRow",
    "KeyedClaim",
    "KeyedLanes",
    "LaneCursors",
    "LaneReading",
    "is_late",
    "is_past_holder",
    "keyed_room",
    "keys_of",
    "lane_of",
    "latest_start",
    "take_shares",
]  # fmt: skip

WINDOW = 256  # maximum number of lanes that one claim checks
_FEWEST_READ = 8  # minimum number of lanes that are read together
_RECHECK_ABOVE = 64  # the jobs are read if more holders are listed, and over twice as many as last counted
_COUNTED = 10_000  # maximum number of keys whose last number of holders is kept
_PATIENT_WALKS = 32  # number of searches that wait for locked keys after a search has found one in every lane
_IMPATIENT_WALKS = 100  # number of searches that do not wait for locked keys after one has waited in vain
_PASSES = 8  # maximum number of searches per claim; another search is needed if a job costs too much
_QUEUES = 1_000  # maximum number of queues whose search position is kept
# Maximum number of jobs with limits, and of jobs without limits, that a claim checks if it leaves out tasks.
EXAMINED = 1_000
_BETWEEN = "\n"
_STRICT = "!"

T = TypeVar("T")


# ---- keys, lanes -----------------------------------------------------------------------------------------


def keys_of(lane: str) -> list[str]:
    """Return the keys of a lane."""
    return lane.split(_BETWEEN)


def lane_of(admission: Admission | None) -> str | None:
    """Return the lane of a job, which consists of all its keys; None without limits.

    All jobs of a lane use the same keys, so unless their costs differ, either all of them may start or none.
    """
    if admission is None or not admission.limits:
        return None
    return _BETWEEN.join(use.key for use in admission.limits)


# ---- late jobs -------------------------------------------------------------------------------------------


def is_late(admission: Admission | None, *, enqueued_at: int, attempt: int, crashes: int, now: int) -> bool:
    """Return whether a job that has never been started is past its start deadline."""
    if admission is None or attempt or crashes:
        return False
    latest = latest_start(admission, enqueued_at)
    return latest is not None and now > latest


def latest_start(admission: Admission, enqueued_at: int) -> int | None:
    """Return the start deadline of a job that became enqueued at this time; None without a deadline."""
    before, within = admission.start_before, admission.start_within
    if within is None:
        return before
    return enqueued_at + within if before is None else min(before, enqueued_at + within)


# ---- the choice of a claim -------------------------------------------------------------------------------


@attrs.frozen
class KeyRow:
    """The stored row of a limit's key."""

    holders: tuple[str, ...] | None = None
    """The jobs claimed under the key, as the storage names them; None if they are not listed."""
    next_arrival_at: int = 0
    """The time up to which its rate is used, or the key is blocked: see `LimitSettings.opens_at`."""


@attrs.frozen
class HolderFacts:
    """The relevant fields of a job that was claimed under a key."""

    is_held: bool  # whether a session holds the job, running or as a tail
    is_final: bool
    ready_in: tuple[str, str] | None = None  # the queue and lane in which it waits to be claimed again


def is_past_holder(job: HolderFacts, *, is_strict: bool) -> bool:
    """Return whether a job that was claimed under a key no longer holds it."""
    return not job.is_held and (job.is_final or not is_strict)


@attrs.frozen
class LaneReading:
    """Lanes of a queue that have waiting jobs, with the settings and stored rows of their keys."""

    lanes: Sequence[str]
    settings: Mapping[str, LimitSettings]  # stored settings by key or name
    rows: Mapping[str, KeyRow]  # stored rows by key; only this claim may write them
    busy: Collection[str] = ()  # keys that others have locked


@attrs.define
class Head(Generic[T]):
    """A job at the head of its lane, as the storage returns it."""

    ref: str  # the job's name in lists of holders
    admission_json: str
    enqueued_at: int
    attempt: int
    crashes: int
    row: T  # the storage's own data, with which it claims the job
    is_late: bool = False


class KeyedLanes(Protocol[T]):
    """The reads and writes of a claim, within one transaction of its storage."""

    def read_lanes(self, queue: str, after: str, until: str, limit: int, *, is_patient: bool) -> LaneReading:
        """Return up to `limit` lanes after `after`, up to and including `until` ("": the last lane).

        The lanes are in a fixed order. Their keys must be locked, in order. Keys that other claims have
        locked are omitted, unless the call is patient and waits for them. The locks must last until the
        transaction ends. For a key that has settings but no row, a row must be created.
        """
        ...

    def read_named_lanes(self, queue: str, lanes: Sequence[str]) -> LaneReading:
        """Return those of these lanes that have waiting jobs, and lock their keys as `read_lanes` does."""
        ...

    def holder_facts(self, refs: Sequence[str]) -> Mapping[str, HolderFacts]:
        """Return the current fields of these jobs, including all commits before their key was locked."""
        ...

    def current_holders(self, key: str) -> Sequence[str]:
        """Return the jobs that a session holds and whose lane contains the key, including tails."""
        ...

    def heads(
        self, queue: str, wanted: Mapping[str, tuple[int, int]], leaving_out: LeavingOut | None = None
    ) -> Mapping[str, Sequence[Head[T]]]:
        """Return jobs of each lane in order.

        `wanted` contains, for each lane, the number of jobs to skip because this claim already has them, and
        the maximum number of jobs to return.
        """
        ...

    def head(self, ref: str, leaving_out: LeavingOut | None = None) -> Head[T] | None:
        """Return this job, which waits to be claimed; None if it was claimed or its task is left out."""
        ...

    def put_back(self, heads: Sequence[Head[T]]) -> None:
        """Put back jobs that were read but are not claimed; they stay at the head of their lane."""
        ...

    def store_rows(self, rows: Mapping[str, KeyRow]) -> None:
        """Store these rows."""
        ...


@attrs.define
class LeavingOut:
    """The tasks that a claim leaves out, and the number of a queue's candidates that it may still check."""

    tasks: Collection[str]
    remaining: int

    def depth(self, parts: int) -> int:
        """Return the number of candidates that the claim may check in each of this many equal parts."""
        return max(0, self.remaining // parts)

    def examine(self, task: str) -> bool:
        """Count one checked candidate, and return whether the claim may take a job of its task."""
        self.remaining -= 1
        return task not in self.tasks


def examined_share(queues: int) -> int:
    """Return how many candidates of each kind a claim from this many queues checks in each queue."""
    return max(1, EXAMINED // max(1, queues))


@attrs.define
class LaneCursor:
    """The position at which the search through a queue's lanes continues."""

    at: str = ""  # the lane after which the search continues
    empty_rounds: int = 0  # number of times that searches without a result have passed the last lane
    # The same number, counted since a claim that left out tasks last found a job.
    empty_rounds_leaving_out: int = 0


class LaneCursors:
    """The state that a storage handle keeps between claims: lane positions, and whether to wait for locks."""

    def __init__(self) -> None:
        self._of: dict[str, LaneCursor] = {}
        self.patient_walks = 0  # number of searches that wait for locked keys
        self._impatient_walks = 0  # number of searches that must not start to wait
        self.is_extra_plain = False  # whether the next extra job is one without limits: see `take_shares`
        self._holders_counted: dict[str, int] = {}  # number of holders by key, as last counted

    def of(self, queue: str) -> LaneCursor:
        """Return the cursor of the queue."""
        if len(self._of) > _QUEUES:
            self._of.clear()
        return self._of.setdefault(queue, LaneCursor())

    def note_walk(self, *, is_locked_out: bool) -> None:
        """Make the next searches wait for locks if this search found a locked key in every lane."""
        if is_locked_out and not self._impatient_walks:
            self.patient_walks = _PATIENT_WALKS + 1
        self.patient_walks = max(0, self.patient_walks - 1)
        self._impatient_walks = max(0, self._impatient_walks - 1)

    def stop_waiting(self) -> None:
        """Stop waiting for locks, because a patient call has waited in vain for a locked key."""
        self.patient_walks, self._impatient_walks = 0, _IMPATIENT_WALKS

    def recheck_above(self, key: str) -> int:
        """Return the number of holders that can be listed under the key before their jobs are read."""
        return max(_RECHECK_ABOVE, 2 * self._holders_counted.get(key, 0))

    def note_holders(self, key: str, holders: int) -> None:
        """Remember the number of jobs that hold the key, as just computed from the jobs."""
        if len(self._holders_counted) >= _COUNTED:
            self._holders_counted.clear()
        self._holders_counted[key] = holders


@attrs.define
class KeyUsage:
    """The use of a limited key during one claim, including the starts that the claim has planned."""

    key: str
    settings: LimitSettings
    listed: list[str]  # the holders that the key's row lists
    running: int  # the maximum number of jobs that hold the key, including planned starts
    next_arrival_at: float  # the time up to which the key's rate is used, including planned starts
    recheck_above: int  # if more holders are listed, the jobs are read, because the list is probably outdated
    returning: str | None = None  # the strict holder, if it waits to be claimed again
    returning_in: tuple[str, str] | None = None
    new_holders: list[str] = attrs.Factory(list)  # the jobs that this claim starts
    has_stored_list: bool = False  # whether its stored row lists holders
    is_changed: bool = False  # whether its row must be stored
    is_exact: bool = (
        False  # whether the jobs were read; otherwise some listed jobs may no longer hold the key
    )
    confirmed_running: int = 0  # like `running`, but without planned starts
    confirmed_next_arrival_at: float = 0.0
    has_strict: bool = False  # whether a strict job is listed

    def __attrs_post_init__(self) -> None:
        self.has_strict = _STRICT in "".join(self.listed)
        self.confirm_plan()

    def has_free_slot(self) -> bool:
        """Return whether the number of jobs that hold the key is below its concurrency."""
        return self.settings.concurrent is None or self.running < self.settings.concurrent

    def needs_recheck(self, room: int) -> bool:
        """Return whether the listed jobs must be read before this many starts."""
        if self.is_exact or not self.listed:
            return False
        limit = self.settings.concurrent
        is_short = limit is not None and self.running + room > limit
        return is_short or len(self.listed) > self.recheck_above or self.has_strict

    def count_possible_starts(self, now: int, limit: int) -> int:
        """Return the number of starts of cost 1 that the key allows now, at most `limit`."""
        settings = self.settings
        count = limit if settings.concurrent is None else min(limit, settings.concurrent - self.running)
        if settings.is_paused or settings.rate == 0 or settings.opens_at(self.next_arrival_at) > now:
            return 0
        if settings.interval:
            left = settings.burst_units * settings.interval - max(self.next_arrival_at - now, 0)
            count = min(count, int(left / settings.interval + 1e-9))
        return max(count, 0)

    def plan_starts(self, now: int, cost: int, number: int = 1, *, holds: bool = True) -> None:
        """Plan this number of starts, each with this cost.

        `holds` is False for a strict holder that returns, because it holds the key already.
        """
        self.running += number if holds else 0
        self.next_arrival_at = self.settings.arrival_after_start(self.next_arrival_at, cost * number, now)

    def confirm_plan(self) -> None:
        """Confirm the planned starts."""
        self.confirmed_running = self.running
        self.confirmed_next_arrival_at = self.next_arrival_at

    def undo_plan(self) -> None:
        """Undo the planned starts that are not confirmed."""
        self.running = self.confirmed_running
        self.next_arrival_at = self.confirmed_next_arrival_at


class KeyedClaim(Generic[T]):
    """One claim among the lanes of its queues, created for each claim within the storage's transaction.

    Args:
        lanes: the lanes of the storage.
        cursors: the cursors of the handle.
        now: the storage's time.
        ended: the jobs that ended in this transaction and no longer hold keys, by their names in lists of
            holders.
        freed: the lanes of these jobs, by queue.
        left_out: the tasks whose jobs are left out.
        share: the number of candidates that may be checked in each queue if tasks are left out.
    """

    def __init__(
        self,
        lanes: KeyedLanes[T],
        cursors: LaneCursors,
        now: int,
        *,
        ended: Collection[str] = (),
        freed: Mapping[str, Collection[str]] | None = None,
        left_out: Collection[str] = (),
        share: int = EXAMINED,
    ) -> None:
        self._lanes, self._cursors, self._now = lanes, cursors, now
        self._left_out, self._share = left_out, share
        self._leaving_out: dict[str, LeavingOut] = {}  # by queue
        self._ended, self._freed = frozenset(ended), freed or {}
        self._usages: dict[str, KeyUsage | None] = {}  # usages by key; None for a key without a limit
        self._usages_by_lane: dict[str, dict[str, KeyUsage]] = {}  # usages by lane and limited key
        self._has_timed_keys = False  # whether the passage of time alone can make a key allow a start
        self._had_free_slot: set[str] = set()  # keys that had a free slot before this transaction
        self._busy: set[str] = set()  # keys that other claims have locked
        self._settings: dict[str, LimitSettings] = {}
        self._taken: Counter[tuple[str, str]] = Counter()  # jobs taken by this claim, by queue and lane
        # Lanes (by queue and lane) that have no more jobs, or in which a key blocked a job.
        self._closed_lanes: set[tuple[str, str]] = set()
        self._refused = 0  # jobs that were not started as planned, because of their cost or deadline
        self._has_returning = False
        self._is_patient = cursors.patient_walks > 0
        self.next_claim_at: int | None = None

    # ---- interface for the storage -----------------------------------------------------------------------

    def take(self, queue: str, room: int) -> list[Head[T]]:
        """Return up to `room` jobs to claim, including late ones, which must be ended without a run."""
        heads: list[Head[T]] = []
        open_lanes: list[str] = []  # lanes that may have more jobs
        for _ in range(_PASSES):
            planned = self._find_open_lanes(queue, room - len(heads), set(open_lanes))
            refused = self._refused
            is_cut = len(planned) >= room - len(heads)  # the search might not have reached all lanes
            open_lanes += planned
            # If a job costs too much to start, its lane is closed, and the remaining lanes are checked before
            # another job of a checked lane starts.
            while open_lanes and len(heads) < room and self._refused == refused:
                self._share_room(queue, open_lanes, planned, room - len(heads) - sum(planned.values()))
                if not planned:
                    break
                got = self._take_planned(queue, planned)
                heads += _in_rounds(got.values())
                short = {lane for lane, number in planned.items() if len(got[lane]) < number}
                self._closed_lanes.update((queue, lane) for lane in short)
                open_lanes = [lane for lane in open_lanes if lane not in short]
                planned = {}
            self._note_openings(queue, open_lanes)
            if len(heads) >= room or not (is_cut or self._refused > refused):
                return heads
            if self._left_out and self._leaving_out_in(queue).remaining <= 0:
                break
        if self._left_out:
            cursor = self._cursors.of(queue)
            has_walked_in_vain = not heads and cursor.empty_rounds_leaving_out > 1
            if heads or has_walked_in_vain:
                cursor.empty_rounds_leaving_out = 0
            if has_walked_in_vain:
                return heads
        self._note_next_claim(self._now)
        return heads

    def _leaving_out_in(self, queue: str) -> LeavingOut:
        return self._leaving_out.setdefault(queue, LeavingOut(self._left_out, self._share))

    def finish(self) -> None:
        """Store the jobs that were claimed under each key, and their costs."""
        rows = {}
        for key, usage in self._usages.items():
            if usage is not None and usage.is_changed:
                holders = tuple(dict.fromkeys([*usage.listed, *usage.new_holders]))
                is_listed = usage.settings.concurrent is not None
                rows[key] = KeyRow(holders if is_listed else None, round(usage.next_arrival_at))
        if rows:
            self._lanes.store_rows(dict(sorted(rows.items())))

    def had_full_key(self, lane: str) -> bool:
        """Return whether a key of this lane was at its limit before, so another claim might have failed.

        Such a claim locked the key and found it at its limit. The next claim that ends a job of this key
        therefore also finds that the key was at its limit before.
        """
        return not self._had_free_slot.issuperset(keys_of(lane))

    # ---- 1. find open lanes ------------------------------------------------------------------------------

    def _find_open_lanes(self, queue: str, room: int, known: Collection[str]) -> dict[str, int]:
        """Return more open lanes, with one start planned in each, and move the cursor.

        The search passes through the lanes at most once. It ends when all lanes or `WINDOW` lanes were
        checked, or when enough starts are planned.
        """
        cursor = self._cursors.of(queue)
        start = at = cursor.at
        planned: dict[str, int] = {}
        seen, locked, until, is_all = 0, 0, "", False
        while seen < WINDOW and len(planned) < room:
            # Read one more lane to find out whether another lane exists.
            ask = min(WINDOW - seen, max(room - len(planned), _FEWEST_READ)) + 1
            reading = self._lanes.read_lanes(queue, at, until, ask, is_patient=self._is_patient)
            new, new_locked = self._plan_first_starts(queue, reading, planned, room, known)
            seen, locked = seen + new, locked + new_locked
            if new:
                at = reading.lanes[new - 1]
            if new < len(reading.lanes):
                break
            if len(reading.lanes) < ask:
                if until or not start:
                    is_all = True
                    break
                at, until = "", start
        cursor.at = "" if is_all else at
        if self._left_out:
            cursor.empty_rounds_leaving_out += bool(until) + 2 * is_all

        if locked:
            self._note_next_claim(self._now)
        self._cursors.note_walk(is_locked_out=0 < locked == seen)

        if is_all or len(planned) >= room:
            cursor.empty_rounds = 0
            return planned
        # Lanes in which this process has just ended jobs come last, because otherwise other lanes would
        # starve.
        freed = [lane for lane in dict.fromkeys(self._freed.get(queue, ())) if lane not in planned]
        if freed:
            self._plan_first_starts(queue, self._lanes.read_named_lanes(queue, freed), planned, room, known)
        # More lanes remain, so claim again now, unless searches have checked all lanes without a result.
        cursor.empty_rounds = 0 if planned else cursor.empty_rounds + bool(until)
        if cursor.empty_rounds > 1:
            cursor.empty_rounds = 0
        else:
            self._note_next_claim(self._now)
        return planned

    def _plan_first_starts(
        self, queue: str, reading: LaneReading, planned: dict[str, int], room: int, known: Collection[str]
    ) -> tuple[int, int]:
        """Plan one start in each lane that allows one; lanes with a common key share its remaining starts.

        Return the number of checked lanes, and how many of them need a key that another claim has locked.
        """
        self._add_usages(reading, room)
        locked = 0
        for seen, lane in enumerate(reading.lanes):
            if len(planned) >= room:
                return seen, locked
            if lane in planned or lane in known or (queue, lane) in self._closed_lanes:
                continue
            if not self._busy.isdisjoint(keys_of(lane)):
                locked += 1
            elif self._try_plan_start(queue, lane):
                planned[lane] = 1
        return len(reading.lanes), locked

    # ---- 2. share the remaining starts -------------------------------------------------------------------

    def _share_room(self, queue: str, lanes: Sequence[str], planned: dict[str, int], room: int) -> None:
        """Plan more starts in turn until the claim is full; lanes with the fewest starts come first."""
        if room <= 0:
            return
        hungry = [lane for lane in lanes if self._returning_holder(queue, lane) is None]
        self._drop_past_holders((usage for lane in hungry for usage in self._usages_in(lane).values()), room)
        total = {lane: self._taken[queue, lane] + planned.get(lane, 0) for lane in hungry}
        used = [key for lane in hungry for key in self._usages_in(lane)]
        is_apart = len(used) == len(set(used)) and len(set(total.values())) < 2  # noqa: PLR2004 - all alike
        if is_apart:  # the lanes have no common keys, so whole rounds can be planned together
            left = {
                lane: min(
                    (
                        usage.count_possible_starts(self._now, room)
                        for usage in self._usages_in(lane).values()
                    ),
                    default=room,
                )
                for lane in hungry
            }
            shares: Counter[str] = Counter()
            while room > 0 and (hungry := [lane for lane in hungry if left[lane] > 0]):
                each = max(1, room // len(hungry))
                for lane in hungry:
                    number = min(each, left[lane], room)
                    shares[lane] += number
                    left[lane] -= number
                    room -= number
            for lane, number in shares.items():
                if number:
                    self._plan_starts(queue, lane, number)
                    planned[lane] = planned.get(lane, 0) + number
            if room > 0:
                self._note_openings(queue, left)
            return
        while room > 0 and hungry:
            least = min(total[lane] for lane in hungry)
            for lane in [lane for lane in hungry if total[lane] == least]:
                if room > 0 and self._try_plan_start(queue, lane):
                    planned[lane] = planned.get(lane, 0) + 1
                    total[lane] += 1
                    room -= 1
                else:
                    hungry.remove(lane)

    # ---- 3. take the planned jobs ------------------------------------------------------------------------

    def _take_planned(self, queue: str, planned: Mapping[str, int]) -> dict[str, list[Head[T]]]:
        """Return the jobs that start, by lane and in order; charge their keys and list them as holders."""
        returning = {
            lane: ref for lane in planned if (ref := self._returning_holder(queue, lane)) is not None
        }
        asked = {lane: (self._taken[queue, lane], n) for lane, n in planned.items() if lane not in returning}
        leaving_out = self._leaving_out_in(queue) if self._left_out else None
        found = self._lanes.heads(queue, asked, leaving_out) if asked else {}
        got = {lane: list(heads) for lane, heads in found.items()}
        for lane, ref in returning.items():
            head = self._lanes.head(ref, leaving_out)
            got[lane] = [] if head is None else [head]

        is_as_planned = True
        for lane, number in planned.items():
            heads = got.setdefault(lane, [])
            is_as_planned &= len(heads) == number
            for head in heads:
                if _is_simple(head.admission_json):
                    continue
                admission = read_admission(head.admission_json)
                head.is_late = is_late(
                    admission, enqueued_at=head.enqueued_at, attempt=head.attempt, crashes=head.crashes,
                    now=self._now,
                )  # fmt: skip
                is_as_planned &= not head.is_late and all(use.cost == 1 for use in admission.limits)
        if not is_as_planned:
            got = self._charge_one_by_one(queue, got)

        for lane, heads in got.items():
            self._taken[queue, lane] += len(heads)
            heads = [head for head in heads if not head.is_late]  # noqa: PLW2901 - a late job does not hold keys
            for key, usage in self._usages_in(lane).items() if heads else ():
                # If the key no longer has a concurrency, its list must be removed, because the list would be
                # incomplete when a concurrency is set again.
                usage.is_changed = usage.settings.has_any or usage.has_stored_list
                usage.new_holders += [
                    head.ref + _STRICT if _is_strict(head.admission_json, key) else head.ref for head in heads
                ]
                if lane in returning and usage.returning == returning[lane]:
                    usage.returning = usage.returning_in = None
        for known in self._usages.values():
            if known is not None:
                known.confirm_plan()
        return got

    def _charge_one_by_one(self, queue: str, got: Mapping[str, list[Head[T]]]) -> dict[str, list[Head[T]]]:
        """Undo the plan, charge each job with its real cost, in rounds, and return the jobs that start.

        If a key blocks a job, the job's lane is closed.
        """
        for usage in self._usages.values():
            if usage is not None:
                usage.undo_plan()
        kept: dict[str, list[Head[T]]] = {lane: [] for lane in got}
        closed: set[str] = set()
        left: list[Head[T]] = []
        for lane, head in _in_rounds([(lane, head) for head in heads] for lane, heads in got.items()):
            costs = {use.key: use.cost for use in read_admission(head.admission_json).limits}
            if lane in closed:
                left.append(head)
            elif head.is_late:  # its unused start can go to a job in a lane that the plan had closed
                self._refused += 1
                kept[lane].append(head)
            elif self._try_plan_start(queue, lane, costs):
                kept[lane].append(head)
            else:
                closed.add(lane)
                self._refused += 1
                left.append(head)
        if left:
            self._lanes.put_back(left)
        return kept

    # ---- keys and lanes ----------------------------------------------------------------------------------

    def _add_usages(self, reading: LaneReading, room: int) -> None:
        """Add the keys of these lanes that are new to this claim; remove past holders from full keys."""
        self._settings.update(reading.settings)
        self._busy.update(reading.busy)
        new: list[KeyUsage] = []
        for key in dict.fromkeys(key for lane in reading.lanes for key in keys_of(lane)):
            if key in self._usages or key in self._busy:
                continue
            settings, row = settings_for(key, self._settings), reading.rows.get(key)
            if row is None and not settings.has_any and not settings.is_paused:
                self._usages[key] = None
                self._had_free_slot.add(key)
                continue
            row = row or KeyRow()
            listed: Sequence[str] = row.holders or ()
            if settings.concurrent is not None and row.holders is None:
                listed = self._lanes.current_holders(key)
            if settings.concurrent is None or (row.holders is not None and len(listed) < settings.concurrent):
                self._had_free_slot.add(key)
            listed = [ref for ref in listed if ref not in self._ended]
            recheck_above = self._cursors.recheck_above(key)
            usage = self._usages[key] = KeyUsage(
                key, settings, listed, len(listed), row.next_arrival_at, recheck_above
            )
            usage.has_stored_list = row.holders is not None
            self._has_timed_keys |= settings.rate is not None or row.next_arrival_at > 0
            new.append(usage)
        self._drop_past_holders(new, room)

    def _drop_past_holders(self, usages: Iterable[KeyUsage], room: int) -> None:
        """Read the jobs listed under keys that would prevent one of `room` starts; remove past holders."""
        to_recheck = [usage for usage in usages if usage.needs_recheck(room)]
        if not to_recheck:
            return
        refs = dict.fromkeys(ref.rstrip(_STRICT) for usage in to_recheck for ref in usage.listed)
        facts = self._lanes.holder_facts(list(refs)) if refs else {}
        for usage in to_recheck:
            alive = []
            for listed in usage.listed:
                one = facts.get(listed.rstrip(_STRICT))
                is_strict = listed.endswith(_STRICT)
                if one is None or is_past_holder(one, is_strict=is_strict):
                    continue
                alive.append(listed)
                if is_strict and one.ready_in is not None:
                    usage.returning, usage.returning_in = listed.rstrip(_STRICT), one.ready_in
                    self._has_returning = True
            gone = len(usage.listed) - len(alive)
            usage.listed, usage.is_exact = alive, True
            self._cursors.note_holders(usage.key, len(alive))
            usage.running -= gone
            usage.confirmed_running -= gone

    def _usages_in(self, lane: str) -> dict[str, KeyUsage]:
        """Return the usages of the lane's keys that have a limit, by key."""
        usages = self._usages_by_lane.get(lane)
        if usages is None:
            found = {key: self._usages[key] for key in keys_of(lane)}
            usages = {key: usage for key, usage in found.items() if usage is not None}
            self._usages_by_lane[lane] = usages
        return usages

    def _returning_holder(self, queue: str, lane: str) -> str | None:
        """Return the strict holder if it is the only job that may start in this lane; otherwise None."""
        if not self._has_returning:
            return None
        usages = self._usages_in(lane).values()
        found = (usage.returning for usage in usages if usage.returning_in == (queue, lane))
        return next(found, None)

    def _opens_at(self, queue: str, lane: str, costs: Mapping[str, int] | None = None) -> float | None:
        """Return when the keys' rates allow a start; None if a key is paused, closed or at its limit."""
        returning, opens_at = self._returning_holder(queue, lane), 0.0
        for key, usage in self._usages_in(lane).items():
            holds = returning is not None and usage.returning == returning
            if usage.settings.is_paused or usage.settings.rate == 0 or not (holds or usage.has_free_slot()):
                return None
            cost = (costs or {}).get(key, 1)
            opens_at = max(opens_at, usage.settings.opens_at(usage.next_arrival_at, cost))
        return opens_at

    def _try_plan_start(self, queue: str, lane: str, costs: Mapping[str, int] | None = None) -> bool:
        """Plan one start if the lane's keys allow it, and return whether they do.

        Past holders of the keys are removed first. If only a rate delays the start, record when the rate
        allows it.
        """
        self._drop_past_holders(self._usages_in(lane).values(), 1)
        opens_at = self._opens_at(queue, lane, costs)
        if opens_at is None:
            return False
        if opens_at > self._now:
            self._note_opening(opens_at)
            return False
        self._plan_starts(queue, lane, 1, costs)
        return True

    def _plan_starts(
        self, queue: str, lane: str, number: int, costs: Mapping[str, int] | None = None
    ) -> None:
        """Charge the keys of the lane for this number of planned starts, which `_take_planned` confirms."""
        returning = self._returning_holder(queue, lane)
        for key, usage in self._usages_in(lane).items():
            holds = returning is None or usage.returning != returning
            usage.plan_starts(self._now, (costs or {}).get(key, 1), number, holds=holds)

    def _note_openings(self, queue: str, lanes: Iterable[str]) -> None:
        """Record when the rates that block some of these lanes will allow starts again."""
        for lane in lanes if self._has_timed_keys else ():
            self._drop_past_holders(self._usages_in(lane).values(), 1)
            opens_at = self._opens_at(queue, lane)
            if opens_at is not None and opens_at > self._now:
                self._note_opening(opens_at)

    def _note_opening(self, opens_at: float) -> None:
        self._note_next_claim(round(opens_at + 0.5))

    def _note_next_claim(self, at: int) -> None:
        if self.next_claim_at is None or at < self.next_claim_at:
            self.next_claim_at = at


@lru_cache(maxsize=4_096)
def _is_simple(admission_json: str) -> bool:
    """Return whether the job costs one unit of each key, is not strict and has no start deadline."""
    admission = read_admission(admission_json)
    is_at_any_time = admission.start_before is None and admission.start_within is None
    return is_at_any_time and all(use.cost == 1 and not use.is_strict for use in admission.limits)


def _is_strict(admission_json: str, key: str) -> bool:
    if _is_simple(admission_json):
        return False
    return any(use.is_strict and use.key == key for use in read_admission(admission_json).limits)


def _in_rounds(lists: Iterable[Sequence[T]]) -> list[T]:
    """Return the first item of each list, then the second of each, and so on."""
    rounds = chain.from_iterable(zip_longest(*lists, fillvalue=_MISSING))
    return [one for one in rounds if one is not _MISSING]  # type: ignore[misc]  # _MISSING is filtered out


_MISSING = object()


def keyed_room(cursors: LaneCursors, room: int, plain: int) -> int:
    """Return how many jobs with limits a claim may take if `plain` jobs without limits could start.

    Each kind gets half. If the number is odd, the kinds take turns in getting the extra job.
    """
    half = room // 2
    if room % 2 and plain > half:
        cursors.is_extra_plain = not cursors.is_extra_plain
        half += cursors.is_extra_plain
    return room - min(plain, half)


def take_shares(queues: Sequence[str], room: int, take: Callable[[str, int], Sequence[T]]) -> list[T]:
    """Call `take` for each queue with an equal share, redistribute unused shares, and return all results."""
    taken: dict[str, list[T]] = {queue: [] for queue in queues}
    hungry = list(queues)
    while hungry and room > 0:
        share = max(1, room // len(hungry))
        for queue in list(hungry):
            wanted = min(share, room)
            if not wanted:
                break
            new = take(queue, wanted)
            taken[queue] += new
            room -= len(new)
            if len(new) < wanted:
                hungry.remove(queue)
    return _in_rounds(taken.values())
