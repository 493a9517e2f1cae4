"""Django's connections round each job: one that the database has cut off costs no later job.

Django closes connections that are too old or broken when a request begins and ends, and a job is none. One in
a transaction is left alone: a test's own transaction goes on behind a job that the test runs.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import connections

_Kind = type[BaseException] | None


def close_stale_connections() -> None:
    """Connections of this thread that are broken, or older than `CONN_MAX_AGE`, are closed."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


class FreshConnections(ThreadSensitiveContext):
    """A job begins and ends without stale connections, in a thread or as a coroutine.

    A `def` task has the connections of its thread. An `async def` task reaches the database by asgiref's
    threads, also where it calls `await Order.objects.aget(…)`. Each such job has a thread of its own, as each
    request under ASGI has, made when it is first needed: else the jobs of a process would share one thread
    and one connection, wait for each other, and close each other's cursors.
    """

    def __enter__(self) -> None:
        """What went stale since the last job of this thread is closed, and its log of queries is empty."""
        for connection in connections.all(initialized_only=True):
            if not connection.force_debug_cursor:  # nobody counts queries at this moment, as tests do
                connection.queries_log.clear()  # with DEBUG it would hold thousands
        close_stale_connections()

    def __exit__(self, _kind: _Kind, _error: BaseException | None, _lines: TracebackType | None) -> None:
        """What must not be kept is closed."""
        close_stale_connections()

    async def __aenter__(self) -> Self:
        """The job's thread is its own from here on."""
        await super().__aenter__()  # type: ignore[no-untyped-call]
        return self

    async def __aexit__(self, kind: _Kind, error: BaseException | None, lines: TracebackType | None) -> None:
        """The thread has ended, if there was one, and its connections are closed."""
        if self in SyncToAsync.context_to_thread_executor:
            await sync_to_async(connections.close_all)()
        await super().__aexit__(kind, error, lines)  # type: ignore[no-untyped-call]
