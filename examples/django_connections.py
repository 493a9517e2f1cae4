"""Jobs that use Django's database, and go on when it has dropped every connection.

    python examples/django_connections.py

Django closes connections that are too old or broken at the end of a request, and a job is none. This plugin
does it before and after each job: a connection that a restart, a failover or an idle timeout has cut off
costs no later job. `def` tasks have their thread's connections. What an `async def` task calls by
`sync_to_async`, as Django's own async queries do, has those of asgiref's thread, so they are closed there.

With `CONN_MAX_AGE` above 0 set `CONN_HEALTH_CHECKS` too, so that a kept connection is tried before its use.
"""

from __future__ import annotations

from types import TracebackType

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import close_old_connections, connection

from firelock import Firelock, hookimpl


class FreshConnections:
    """Django's stale connections are closed on the way in and on the way out, for tasks of both kinds."""

    def __enter__(self) -> None:
        close_old_connections()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        close_old_connections()

    async def __aenter__(self) -> None:
        await sync_to_async(close_old_connections)()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await sync_to_async(close_old_connections)()


class DjangoJobs:
    """The plugin: `Firelock(…, plugins=[DjangoJobs])`."""

    @hookimpl
    def worker_process_started(self) -> None:
        """Models can be used in every process that runs jobs; it needs DJANGO_SETTINGS_MODULE."""
        django.setup()

    @hookimpl
    def job_context(self) -> FreshConnections:
        """Each job begins and ends without stale connections."""
        return FreshConnections()


if __name__ == "__main__":
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.db"}},
    )
    fire = Firelock("memory://", plugins=[DjangoJobs])

    @fire.task(name="count")
    def count_tables() -> int:
        """Count what the database holds."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM sqlite_master")
            return int(cursor.fetchone()[0])

    with fire.server(workers=1):
        print(count_tables.enqueue().result(timeout=10))  # 0
    fire.close()
