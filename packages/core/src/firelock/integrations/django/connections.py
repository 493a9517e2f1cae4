"""Django's database connections in jobs: they are checked so that a closed connection does not fail a job.

Django closes old and broken connections when a request begins and ends, but a job is not a request. Therefore
this module closes them before and after each job. It does not close a connection that is in a transaction,
for example in a test that runs a job.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import connections

_Kind = type[BaseException] | None


def close_stale_connections() -> None:
    """Close the connections of this thread that are broken, or older than `CONN_MAX_AGE`."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


class FreshConnections(ThreadSensitiveContext):
    """A context in which a job, in a thread or as a coroutine, has no stale connections.

    A `def` task uses the connections of its thread. An `async def` task uses the database in a thread of
    asgiref, even if it calls `await Order.objects.aget(…)`. Each such job has its own thread, like each
    request under ASGI; the thread is created when it is first needed. Otherwise the jobs of a process would
    share one thread and one connection, wait for each other, and close each other's cursors.
    """

    def __enter__(self) -> None:
        """Close connections that have become stale since this thread's last job, and clear query logs."""
        for connection in connections.all(initialized_only=True):
            if not connection.force_debug_cursor:  # keep the log if a test is counting queries
                connection.queries_log.clear()  # with DEBUG, the log would grow to thousands of entries
        close_stale_connections()

    def __exit__(self, _kind: _Kind, _error: BaseException | None, _lines: TracebackType | None) -> None:
        """Close stale connections."""
        close_stale_connections()

    async def __aenter__(self) -> Self:
        """Give the job its own thread from this point on."""
        await super().__aenter__()  # type: ignore[no-untyped-call]
        return self

    async def __aexit__(self, kind: _Kind, error: BaseException | None, lines: TracebackType | None) -> None:
        """End the job's thread, if there was one, and close its connections."""
        if self in SyncToAsync.context_to_thread_executor:
            await sync_to_async(connections.close_all)()
        await super().__aexit__(kind, error, lines)  # type: ignore[no-untyped-call]
