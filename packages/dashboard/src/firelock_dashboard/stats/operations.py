"""The runner that executes operations in the dashboard's process, each in its own thread."""

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
"""The maximum number of operations that run at the same time; other operations wait until one has ended."""

_PAUSE = 2.0  # seconds before a retry after the storage became unreachable


class OperationRunner:
    """The runner of one dashboard's operations; it runs none if the dashboard is read-only."""

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
        """Continue the operations that an ended process has not finished.

        Only the first call checks for such operations, which costs one read.
        """
        if not self._has_resumed:
            self._has_resumed = True
            for operation in self._fire.operations.resumable():
                self.start(operation.id)

    def start(self, operation_id: str) -> None:
        """Run the operation now, or as soon as an earlier one has ended."""
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
        """Return a test that searches for the operation's search strings in the masked data of a job.

        The test does not search the stored data, because then the number of matches could reveal a secret.
        """
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
                log.warning("Operation %s cannot reach the storage; trying again: %s", operation_id, error)
                self._ending.wait(_PAUSE)
            except ConfigurationError as error:  # the operation was pruned in the meantime
                log.info("Operation %s cannot be run; ending it: %s", operation_id, error)
                return
            except FirelockError:
                log.exception("Unexpected error in operation %s; ending it.", operation_id)
                return
            else:
                return

    def _next(self) -> None:
        """Start an operation that waits for a free thread.

        An operation that another process runs does not start, because that process holds the operation's
        lock.
        """
        with self._lock:
            if len(self._threads) >= AT_ONCE:
                return
        try:
            for operation in self._fire.operations.resumable():
                if operation.total_seen == 0:
                    self.start(operation.id)
        except FirelockError as error:
            log.info("Cannot read the waiting operations; they start after the next one ends: %s", error)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the running operations have ended; for scripts and tests."""
        while threads := self._started():
            threads[0].join(timeout)
            if threads[0].is_alive():
                return

    def _started(self) -> list[threading.Thread]:
        with self._lock:  # a thread is listed shortly before it starts
            return list(self._threads.values())

    def close(self) -> None:
        """Stop all operations; the next dashboard continues the unfinished ones."""
        self._ending.set()
        self.join(5)
