"""Claims of a storage, without servers: behind a full key, and while an old snapshot is held open."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import count
from typing import Any

from benchmarks import churn
from benchmarks.limits import places, tasks
from benchmarks.limits.pairs import Row, ratio
from benchmarks.limits.plan import Plan
from firelock import Firelock
from firelock.lifecycle import failed, succeeded
from firelock.values import ClaimedJob, ClaimRequest, ErrorInfo, Holder, NewSession

IN_FRONT = 200_000
LANE = 40_000
CLAIM = 10
LOOKS = 60
_sessions = count(1)


class Claimer:
    """A session that claims and ends jobs, which do not run."""

    def __init__(self, fire: Firelock) -> None:
        self.storage, self.tasks = fire.storage, tasks.declare(fire)
        self.held: list[ClaimedJob] = []
        self._server = name = f"bench-{next(_sessions)}"
        self._session, now = self.storage.new_ids(1)[0], self.storage.clock()
        self.storage.begin_session(NewSession(self._session, name, name, "bench", 1, now, 3_600.0))

    def store(self, name: str, jobs: int) -> None:
        """Store so many jobs of a task."""
        self.tasks[name].enqueue_many(tasks.calls(name, jobs))

    def claim(self, limit: int, *, fails: bool = False) -> list[ClaimedJob]:
        """End what is held, succeeded or failed, and hold more."""
        now, holder = self.storage.clock(), Holder(self._session, self._server)
        times: dict[str, Any] = {"at": now, "started_at": now, "expires_at": now + 86_400_000_000}
        if fails:
            told: dict[str, Any] = {
                "reason": "it failed",
                "error": ErrorInfo("builtins.ValueError", "no", ""),
            }
            ends = [failed(job, holder, **times, **told) for job in self.held]
        else:
            told = {"result": None, "result_absent": None}
            ends = [succeeded(job, holder, **times, **told) for job in self.held]
        request = ClaimRequest(("default",), limit, self._session, now)
        self.held = self.storage.exchange(ends, request).claim.jobs
        return self.held

    def timed(self, limit: int) -> float:
        """Return how many ms a claim takes that must yield what is asked for."""
        begun = time.perf_counter()
        got = self.claim(limit)
        taken = (time.perf_counter() - begun) * 1_000
        if len(got) != limit:
            message = f"{len(got)} of {limit} jobs were claimed"
            raise RuntimeError(message)
        return taken


def behind_full_key(plan: Plan) -> Iterator[Row]:
    """Yield what a claim of others costs behind many jobs of a full key, beside only the others stored."""
    looks = max(plan.pairs, LOOKS if plan.scale >= 1 else 5)
    for others in ("others", "keyless"):
        with (
            places.opened(plan.storage, plan.folder / f"behind-{others}") as crowded,
            places.opened(plan.storage, plan.folder / f"alone-{others}") as alone,
            places.client(crowded.url) as behind,
            places.client(alone.url) as free,
        ):
            for fire in (behind, free):
                tasks.declare(fire)
                fire.limits.set("full", concurrent=4)
                fire.limits.set("others", concurrent=1_000)
            full, one, other = Claimer(behind), Claimer(behind), Claimer(free)
            full.store("full", plan.scaled(IN_FRONT))
            if len(full.claim(CLAIM)) != 4:
                message = f"{len(full.held)} jobs hold a key of 4"
                raise RuntimeError(message)
            for claimer in (one, other):
                claimer.store(others, CLAIM * (looks + 10))
                for _ in range(5):
                    claimer.timed(CLAIM)
            taken: tuple[list[float], list[float]] = ([], [])
            for number in range(looks):
                for index, claimer in ((0, one), (1, other))[:: 1 if number % 2 else -1]:
                    taken[index].append(claimer.timed(CLAIM))
            what = f"a claim of {CLAIM} {others} behind {plan.scaled(IN_FRONT):,} of a full key, ms"
            yield ratio(what, *taken)


def beside_snapshot(plan: Plan) -> Iterator[Row]:
    """Yield what a lane's last claims cost beside the first while a snapshot is held open; PostgreSQL."""
    if plan.storage != "postgresql":
        return
    for name in ("others", "keyless"):
        for is_held in (True, False):
            with (
                places.opened(plan.storage, plan.folder / f"snapshot-{name}-{is_held}") as place,
                places.client(place.url) as fire,
                churn.old_state_kept(place.url) if is_held else nullcontext(),
            ):
                claimer = Claimer(fire)
                fire.limits.set("others", concurrent=1_000)
                claimer.store(name, plan.scaled(LANE) + 200)
                times = [claimer.timed(CLAIM) for _ in range(plan.scaled(LANE) // CLAIM)]
            yield _first_and_last(name, times, is_held=is_held)


def _first_and_last(name: str, times: Sequence[float], *, is_held: bool) -> Row:
    size = min(100, len(times) // 4)
    first, last = statistics.median(times[5 : 5 + size]), statistics.median(times[-size:])
    snapshot = "a snapshot held" if is_held else "no snapshot"
    what = (
        f"{snapshot}, {len(times) * CLAIM:,} {name} claimed by {CLAIM}: the last claims beside the first, ms"
    )
    return {"what": what, "ratio": last / first, "last": last, "first": first, "slowest": max(times)}
