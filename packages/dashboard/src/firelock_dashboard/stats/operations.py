"""Runs tracked operations within the dashboard's process, each in a thread of its own while there is one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from firelock import ConfigurationError, FirelockError, StorageUnavailable
from firelock_dashboard.stats.job_search import shown_holds

if TYPE_CHECKING:
    from firelock import Firelock
    from firelock.storage import JobRecord
    from firelock_dashboard.web.payloads import PayloadReader

log = logging.getLogger(__name__)

AT_ONCE = 4
"""So many operations are done at once; the rest wait until one has ended."""

_PAUSE = 2.0  # seconds before a storage that went away is asked again


class OperationRunner:
    """The operations that one dashboard does; none twice at once, and none where it may change nothing."""

    def __init__(
        self,
        fire: Firelock,
        payloads: PayloadReader,
        *,
        is_allowed: bool = True,
        on_ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._fire = fire
        self._payloads = payloads
        self._on_ended = on_ended
        self._is_allowed = is_allowed
        self._threads: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._has_resumed = not is_allowed

    def resume(self) -> None:
        """What a process that ended left undone goes on: looked for at the first visit, one read."""
        if not self._has_resumed:
            self._has_resumed = True
            for operation in self._fire.operations.resumable():
                self.start(operation.id)

    def start(self, operation_id: str) -> None:
        """The operation is being done, or is as soon as one of those before it has ended."""
        if not self._is_allowed:
            return
        with self._lock:
            if self._ending.is_set() or operation_id in self._threads or len(self._threads) >= AT_ONCE:
                return
            thread = threading.Thread(
                target=self._run, args=(operation_id,), name=f"firelock-operation-{operation_id}", daemon=True
            )
            self._threads[operation_id] = thread
            thread.start()

    def _run(self, operation_id: str) -> None:
        try:
            self._finish(operation_id)
        finally:
            self._on_ended()
            with self._lock:
                del self._threads[operation_id]
        if not self._ending.is_set():
            self._next()

    def _is_meant(self, operation_id: str) -> Callable[[JobRecord], bool]:
        """Return what holds the wanted texts against what is shown: a number of jobs tells no secret."""
        operation = self._fire.operations.get(operation_id)
        contains = operation.contains if operation else {}
        return shown_holds(contains, self._payloads.arguments, self._payloads.redactor.text)

    def _finish(self, operation_id: str) -> None:
        while not self._ending.is_set():
            try:
                self._fire.operations.run(
                    operation_id, is_meant=self._is_meant(operation_id), should_stop=self._ending.is_set,
                    wait=self._ending.wait,
                )  # fmt: skip
            except StorageUnavailable as error:
                log.warning("Operation %s waits for the storage: %s", operation_id, error)
                self._ending.wait(_PAUSE)
            except ConfigurationError as error:  # it was pruned meanwhile
                log.info("Operation %s is not done: %s", operation_id, error)
                return
            except FirelockError:
                log.exception("Operation %s stopped", operation_id)
                return
            else:
                return

    def _next(self) -> None:
        """One that waited for a free place is begun; another process's stays with it: it holds the lock."""
        with self._lock:
            if len(self._threads) >= AT_ONCE:
                return
        try:
            for operation in self._fire.operations.resumable():
                if operation.total_seen == 0:
                    self.start(operation.id)
        except FirelockError as error:
            log.info("No further operation is looked for: %s", error)

    def join(self, timeout: float | None = None) -> None:
        """What is being done now has ended: for scripts and tests."""
        while threads := self._started():
            threads[0].join(timeout)
            if threads[0].is_alive():
                return

    def _started(self) -> list[threading.Thread]:
        with self._lock:  # a thread is listed shortly before it starts
            return list(self._threads.values())

    def close(self) -> None:
        """Nothing is being done any more; what is not at its end is gone on with by the next dashboard."""
        self._ending.set()
        self.join(5)
