"""The number of jobs that must fail to stop before their process is replaced."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from firelock import Firelock
from firelock.server.shared_memory import SharedMemory
from firelock.server.workers import DispatcherInbox, WorkerContext, Workers
from firelock.storage.memory import MemoryStorage
from tests.core.fakes import Worker


@pytest.fixture
def workers():
    """Three threads and four coroutines, none of them started."""
    with Firelock(MemoryStorage()) as fire:

        async def wait() -> None: ...

        fire.task(name="work")(lambda: None)
        fire.task(name="wait")(wait)
        worker, board = Worker(fire), SharedMemory.create(7)
        context = WorkerContext(worker.runner, worker.console, board, DispatcherInbox(), None)
        yield Workers(context, fire.registry, threads=3, coroutines=4)
        board.close()


@pytest.mark.parametrize(
    ("threads", "coroutines", "are_half"),
    [
        ([], [], False),
        ([True, False, False], [], False),
        ([True, True, False], [], True),
        ([True], [True], False),
        ([], [True, True], True),
        ([False] * 3, [False] * 4, False),
    ],
)
def test_process_is_replaced_if_half_of_the_workers_do_not_stop(workers, threads, coroutines, are_half):
    """Threads and coroutines are counted separately.

    A running job that reacts when it is stopped does not count.
    """
    for running, deaf in ((workers.threads.running, threads), (workers.coroutines.running, coroutines)):
        running.update((place, SimpleNamespace(ignores_cancellation=one)) for place, one in enumerate(deaf))

    assert workers.are_half_uncancellable() is are_half
