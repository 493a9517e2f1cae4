"""Several hosts in a URL: connections go to the host that accepts writes at the time."""

from __future__ import annotations

from contextlib import closing

import pytest

from firelock import Firelock, StorageUnavailable
from firelock_sql.postgresql.storage import open_url
from tests.ports import HOST
from tests.sql.servers.postgresql import Postgresql
from tests.sql.servers.processes import PASSWORD, USER


@pytest.fixture
def servers(postgresql_program):
    """Two servers with a database and the tables on each; the first one is a standby."""
    with Postgresql(postgresql_program) as standby, Postgresql(postgresql_program) as primary:
        for server in (standby, primary):
            server.create_database("jobs")
            with closing(open_url(server.url("jobs"))) as storage:
                storage.migrate()
        become_standby(standby)
        yield standby, primary


def become_standby(server):
    """Restart the server as a standby, which accepts no writes."""
    server.stop()
    (server.folder / "data" / "standby.signal").touch()
    server.start()


def become_primary(server):
    """Promote the server, so that it accepts writes."""
    with server.connect() as connection:
        connection.execute("SELECT pg_promote()")


def test_jobs_are_stored_on_the_writable_host(servers):
    """Jobs are stored before and after a failover.

    During the failover, enqueueing a job raises an error, which states that no host accepts writes.
    """
    standby, primary = servers
    hosts = "&".join(f"host={HOST}:{server.port}" for server in servers)
    fire = Firelock(f"postgresql://{USER}:{PASSWORD}@/jobs?{hosts}&target_session_attrs=read-write")

    @fire.task(name="task")
    def task() -> None: ...

    before = task.enqueue()
    primary.stop()
    with pytest.raises(StorageUnavailable) as caught:
        task.enqueue()
    become_primary(standby)
    after = task.enqueue()

    assert "enqueued" == after.refresh().state
    assert before.id not in {job.id for job in fire.jobs.find(limit=10)}
    assert "\n" not in str(caught.value)
    fire.close()
