"""An app with its servers and a storage, which tests of a real server create in one line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import pytest

from firelock.app import Firelock
from firelock.jobs.job import Job
from firelock.model.job import JobRecord
from firelock.model.state import State
from firelock.retry import RetryPolicy
from firelock.server.embedded import EmbeddedServer
from firelock.settings import Settings
from firelock.storage import Storage
from firelock.task import TaskVerbs
from firelock.testing.conformance.kit import REPORTED, required_features
from firelock.testing.conformance.storage.subject import StorageFixtures, offers_or_skips
from firelock.testing.waiting import eventually

TURN_SECONDS = 10.0
"""Seconds that a test's task waits for its turn, so that a failed test ends."""

QUICK = Settings(session_timeout=30, heartbeat=0.25, sweep=0.1, poll=0.1, grace=TURN_SECONDS, claim_ahead=0)
"""Settings with short waits, but a machine that is slow for a moment does not lose a session."""


def pause(seconds: float = 0.01) -> None:
    """Wait for a moment; tasks that poll call this function."""
    threading.Event().wait(seconds)


class Stage:
    """One storage, its app, and every server that a test starts; all of them are closed after the test."""

    def __init__(self, open_handle: Callable[[], Storage]) -> None:
        self._open_handle = open_handle
        self._apps: list[Firelock] = []
        self._handles: list[Storage] = []
        self._servers: list[EmbeddedServer] = []
        self.app = self._open_app(open_handle(), QUICK)
        self.app.storage.clear()

    def _open_app(self, storage: Storage, settings: Settings) -> Firelock:
        app = Firelock(storage, settings=settings)
        self._apps.append(app)
        return app

    def open_handle(self) -> Storage:
        """Return another handle of the store."""
        handle = self._open_handle()
        self._handles.append(handle)
        return handle

    def another_app(self, storage: Storage | None = None, **settings: float) -> Firelock:
        """Return another app, on its own handle, with the tasks that the first app has so far."""
        app = self._open_app(storage or self._open_handle(), attrs.evolve(QUICK, **settings))  # type: ignore[arg-type]  # evolve checks
        for info in self.app.tasks():
            app.registry.register(info)
        return app

    def task(self, function: Callable[..., Any], *, retry: RetryPolicy | None = None) -> TaskVerbs[..., Any]:
        """Return the function as a task of the app."""
        task: TaskVerbs[..., Any] = self.app.task(name=f"kit.{function.__name__}", retry=retry)(function)
        return task

    def serve(
        self,
        app: Firelock | None = None,
        *,
        queues: Sequence[str] | str | None = None,
        workers: int = 4,
        name: str | None = None,
    ) -> EmbeddedServer:
        """Start a server for the app's jobs; return it."""
        server = (app or self.app).server(queues=queues, workers=workers, async_workers=10, name=name)
        self._servers.append(server)
        return server.start()

    def record(self, job: Job[Any] | str) -> JobRecord:
        """Return the stored job."""
        return self.app.jobs.get(job if isinstance(job, str) else job.id).record()

    def when(self, job: Job[Any] | str, is_so: Callable[[JobRecord], bool]) -> JobRecord:
        """Wait until the condition is true for the job; return the job."""
        return eventually(lambda: next(filter(is_so, [self.record(job)]), None))

    def ended(self, job: Job[Any] | str) -> JobRecord:
        """Wait until the job has ended; return it."""
        return self.when(job, lambda record: record.is_final)

    def states(self, job: Job[Any] | str) -> list[State]:
        """Return the states in the job's history, oldest first."""
        return [
            entry.state for entry in self.app.storage.history(job if isinstance(job, str) else job.id).entries
        ]

    def close(self) -> None:
        """Stop every server and close every handle."""
        for server in self._servers:
            server.stop(grace=0)
        for app in self._apps:
            app.close()
        for handle in self._handles:
            handle.close()


class ServerFixtures(StorageFixtures):
    """Fixtures for tests of a server; define the fixture `storage_url`, as for the storage kit."""

    @pytest.fixture
    def stage(self, open_handle: Callable[[], Storage], request: pytest.FixtureRequest) -> Iterator[Stage]:
        """Yield an app on the empty store."""
        stage = Stage(open_handle)
        try:
            name = stage.app.storage.url.partition(":")[0]
            request.node.user_properties.append((REPORTED, f"{name} server"))
            for feature in required_features(request.function):
                offers_or_skips(stage.app.storage, feature)
            yield stage
        finally:
            stage.close()
