"""A session that claims and settles jobs in a storage without a server."""

from __future__ import annotations

import time
from itertools import count
from typing import Any

from firelock import Firelock
from firelock.model.job import ClaimedJob, ErrorInfo
from firelock.model.lifecycle import failed, succeeded
from firelock.model.session import ClaimHolder, ClaimRequest, NewSession

_sessions = count(1)


class Claimer:
    """A session that claims and settles jobs without running them."""

    def __init__(self, fire: Firelock) -> None:
        self.storage = fire.storage
        self.held: list[ClaimedJob] = []
        self._server = name = f"bench-{next(_sessions)}"
        self._session, now = self.storage.new_ids(1)[0], self.storage.clock()
        self.storage.begin_session(NewSession(self._session, name, name, "bench", 1, now, 3_600.0))

    def claim(self, limit: int, *, fails: bool = False) -> list[ClaimedJob]:
        """Settle the claimed jobs as succeeded or failed, and claim others."""
        now, holder = self.storage.clock(), ClaimHolder(self._session, self._server)
        times: dict[str, Any] = {"at": now, "started_at": now, "expires_at": now + 86_400_000_000}
        if fails:
            outcome: dict[str, Any] = {
                "reason": "it failed",
                "error": ErrorInfo("builtins.ValueError", "no", ""),
            }
            ends = [failed(job, holder, **times, **outcome) for job in self.held]
        else:
            outcome = {"result": None, "result_absent": None}
            ends = [succeeded(job, holder, **times, **outcome) for job in self.held]
        request = ClaimRequest(("default",), limit, self._session, now)
        self.held = self.storage.exchange(ends, request).claim.jobs
        return self.held

    def timed(self, limit: int) -> float:
        """Return the duration, in ms, of a claim that must return exactly `limit` jobs."""
        begun = time.perf_counter()
        got = self.claim(limit)
        taken = (time.perf_counter() - begun) * 1_000
        if len(got) != limit:
            message = f"{len(got)} of {limit} jobs were claimed"
            raise RuntimeError(message)
        return taken
