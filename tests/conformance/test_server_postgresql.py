"""The server kit on PostgreSQL, directly and through PgBouncer."""

from __future__ import annotations

import pytest

from firelock.testing import ServerConformance


class TestPostgresqlServer(ServerConformance):
    @pytest.fixture
    def storage_url(self, postgresql):
        return postgresql.url()


class TestPgbouncerServer(ServerConformance):
    @pytest.fixture
    def storage_url(self, pgbouncer):
        # no process can listen through PgBouncer, which the kit cannot detect
        return pgbouncer.url("listen=off")
