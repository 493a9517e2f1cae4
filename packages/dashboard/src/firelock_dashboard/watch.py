"""One look at everything, for all who ask within two seconds: the overview, its parts, its banners."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from firelock import FirelockError
from firelock.storage import State
from firelock_dashboard.health import Snapshot, Trouble, troubles

if TYPE_CHECKING:
    from firelock import QueueView
    from firelock.storage import FailureGroup, Finding
    from firelock_dashboard.dashboard import Dashboard

__all__ = ["Watch"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_AGE = 2.0  # seconds
_GROUPS_AGE = 10.0
_KNOWN_AGE = 15.0
_FINDINGS_AGE = 30.0
_QUEUES = 50  # whose first job is looked at
_FIRST_JOBS = 100  # whose tasks are looked at
_RECURRING = 500


class Watch:
    """Snapshots of a dashboard's app, shared by whoever asks at about the same time."""

    def __init__(self, dashboard: Dashboard, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._dashboard = dashboard
        self._monotonic = monotonic
        self._lock = threading.RLock()  # what is kept may be made of what is kept
        self._kept: dict[str, tuple[float, object]] = {}
        self._diagnosing = threading.Lock()
        self._findings: Sequence[Finding] = ()
        self._diagnosed_at = float("-inf")

    def troubles(self) -> list[Trouble]:
        """Return what is wrong, worst first."""
        return troubles(self.snapshot())

    def snapshot(self) -> Snapshot:
        """Return what there is to see, at most two seconds old; about a dozen reads, one a queue."""
        return self._keep("snapshot", _AGE, self._look)

    def failure_groups(self, limit: int = 5) -> list[FailureGroup]:
        """Return the largest groups of failed jobs, at most ten seconds old."""
        return self._keep(
            f"groups {limit}", _GROUPS_AGE, lambda: self._dashboard.fire.jobs.failure_groups(limit)
        )

    def _keep(self, name: str, age: float, read: Callable[[], T]) -> T:
        with self._lock:
            kept = self._kept.get(name)
            if kept is None or self._monotonic() - kept[0] > age:
                kept = self._kept[name] = (self._monotonic(), read())
        return kept[1]  # type: ignore[return-value]  # the name says which

    # ---- looking -------------------------------------------------------------------------------------------

    def _look(self) -> Snapshot:
        fire, history = self._dashboard.fire, self._dashboard.history
        now = fire.client.clock.now() / 1_000_000
        skew = now - time.time()
        queues = fire.queues.list()
        return Snapshot(
            datetime.fromtimestamp(now, UTC), queues, fire.servers.list(),
            fire.recurring.list(limit=_RECURRING), self._oldest(queues), self._unknown_tasks(queues),
            history.lately(), history.tasks(), self._diagnosed(), skew,
        )  # fmt: skip

    def _oldest(self, queues: Sequence[QueueView]) -> dict[str, datetime]:
        """Return since when the first job of each queue has been there; of fifty queues at most."""
        found = {}
        for queue in islice((queue for queue in queues if queue.enqueued), _QUEUES):
            page = self._dashboard.fire.jobs.find(
                state=State.ENQUEUED, queue=queue.name, limit=1, oldest_first=True
            )
            for job in page:
                found[queue.name] = datetime.fromtimestamp(job.record().changed_at / 1_000_000, UTC)
        return found

    def _unknown_tasks(self, queues: Sequence[QueueView]) -> dict[str, int]:
        """Return the tasks that no server knows, among the hundred jobs that have waited longest."""
        fire = self._dashboard.fire
        known = self._keep("known tasks", _KNOWN_AGE, self._known_tasks)
        if not known or not any(queue.enqueued for queue in queues):
            return {}
        waiting = fire.jobs.find(state=State.ENQUEUED, limit=_FIRST_JOBS, oldest_first=True)
        return Counter(job.task for job in waiting if job.task not in known)

    def _known_tasks(self) -> frozenset[str]:
        """Return the names that servers told of within 30 days; none where none ever told."""
        told = (entry for entry in self._dashboard.fire.catalogue.list() if entry.seen_at is not None)
        return frozenset(name for entry in told for name in (entry.name, *entry.aliases))

    # ---- what the storage finds of itself ------------------------------------------------------------------

    def _diagnosed(self) -> Sequence[Finding]:
        """Return what the last diagnosis found; where it is old, another is made meanwhile."""
        if self._monotonic() - self._diagnosed_at > _FINDINGS_AGE and self._diagnosing.acquire(
            blocking=False
        ):
            self._diagnosed_at = self._monotonic()
            threading.Thread(target=self._diagnose, name="firelock-diagnosis", daemon=True).start()
        return self._findings

    def _diagnose(self) -> None:
        try:
            self._findings = self._dashboard.fire.storage.diagnose()
        except FirelockError as error:
            log.info("The storage could not be diagnosed: %s", error)
        finally:
            self._diagnosing.release()
