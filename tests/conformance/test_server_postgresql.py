"""Servers over PostgreSQL keep what servers promise: directly, and through PgBouncer."""

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
        return pgbouncer.url("listen=off")  # nobody listens through it, which the kit cannot know
