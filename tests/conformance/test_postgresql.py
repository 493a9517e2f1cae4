"""The kit on PostgreSQL, and a part of it on newer versions and PgBouncer, which lends connections."""

from __future__ import annotations

import pytest

from firelock.plugins.loader import open_storage
from firelock.testing import LockConformance, StorageConformance
from tests.conformance.variants import variant_conformance
from tests.ports import free_port
from tests.sql.databases import newer_schema
from tests.sql.servers.programs import WANTED, newer_postgresqls
from tests.sql.transactions import WAYS, lock_jobs


class _OnPostgresql:
    model_runs = 10  # a reduced number, because each step takes several round trips

    @pytest.fixture
    def storage_url(self, postgresql):
        return postgresql.url()

    @pytest.fixture
    def make_newer_schema(self, postgresql):
        yield from newer_schema(postgresql.engine_url())

    @pytest.fixture
    def open_unreachable(self, postgresql):
        return lambda: open_storage(postgresql.url(port=free_port()))

    @pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
    def open_transaction(self, request, postgresql):
        return request.param(postgresql.engine_url())

    @pytest.fixture
    def lock_job(self, postgresql):
        with lock_jobs(postgresql.engine_url()) as lock:
            yield lock


class TestPostgresql(_OnPostgresql, StorageConformance):
    pass


@pytest.mark.parametrize("postgresql_program", newer_postgresqls(), indirect=True, scope="module")
class TestNewerPostgresql(_OnPostgresql, variant_conformance(WANTED)):
    pass


class TestPostgresqlLocks(LockConformance):
    @pytest.fixture
    def lock_url(self, postgresql):
        return postgresql.url()


class TestPgbouncer(variant_conformance(WANTED)):
    model_runs = 5  # a reduced number, because each step takes several round trips

    @pytest.fixture
    def storage_url(self, pgbouncer):
        # no process can listen through PgBouncer, which the kit cannot detect
        return pgbouncer.url("listen=off")

    @pytest.fixture
    def make_newer_schema(self, pgbouncer):
        yield from newer_schema(pgbouncer.engine_url())

    @pytest.fixture
    def open_unreachable(self, pgbouncer):
        return lambda: open_storage(pgbouncer.url(port=free_port()))

    @pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
    def open_transaction(self, request, pgbouncer):
        return request.param(pgbouncer.engine_url())


class TestPgbouncerLocks(LockConformance):
    @pytest.fixture
    def lock_url(self, pgbouncer):
        return pgbouncer.url()
