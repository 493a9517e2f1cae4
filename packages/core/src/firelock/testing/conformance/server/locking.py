"""Locks that running jobs hold."""

from __future__ import annotations

import threading

from firelock.retry import Retry
from firelock.testing.conformance.server.stage import PATIENCE, ServerFixtures, Stage
from firelock.testing.movable_clock import movable
from firelock.testing.waiting import eventually
from firelock.values import State

__all__ = ["LockingDuty"]

_LIFE = 1.5  # seconds of a lock without a renewal
_MICROS = 1_000_000
_HOUR = 3_600 * _MICROS


class LockingDuty(ServerFixtures):
    """A lock is renewed while it is held, and whoever lost it learns so."""

    def test_a_lock_is_renewed_while_it_is_held(self, stage: Stage) -> None:
        """A job may hold it for longer than it lives by itself."""
        held, gate = threading.Event(), threading.Event()

        def holds() -> bool:
            with stage.app.lock("kit", ttl=_LIFE) as lock:
                held.set()
                gate.wait(PATIENCE)
                return lock.lost

        job = stage.app.task(name="kit.holds", retry=Retry.never())(holds).enqueue()
        stage.serve()
        assert held.wait(PATIENCE)
        storage = stage.app.storage
        passed = storage.clock() + int(1.5 * _LIFE * _MICROS)
        eventually(lambda: storage.clock() > passed)

        stolen = storage.acquire_lock("kit", "another", _LIFE)
        gate.set()

        assert stolen is None
        assert job.result(timeout=PATIENCE) is False
        assert storage.acquire_lock("kit", "another", _LIFE) is not None

    def test_a_job_that_lost_its_lock_fails(self, stage: Stage) -> None:
        """It learns of it, and leaving the lock raises LockLost; the thief's token is larger."""
        held, fences = threading.Event(), list[int]()

        def holds() -> None:
            with stage.app.lock("kit", ttl=_LIFE) as lock:
                fences.append(lock.fence)
                held.set()
                eventually(lambda: lock.lost)

        job = stage.app.task(name="kit.holds", retry=Retry.never())(holds).enqueue()
        stage.serve()
        assert held.wait(PATIENCE)
        later = stage.open_handle()
        movable(later).clock_offset += _HOUR

        stolen = later.acquire_lock("kit", "another", _LIFE)

        record = stage.ended(job)
        assert (State.FAILED, "LockLost") == (
            record.state,
            record.error and record.error.type.rpartition(".")[2],
        )
        assert stolen is not None
        assert stolen > fences[0]
