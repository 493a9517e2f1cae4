"""The kit on PostgreSQL: directly, and through PgBouncer, which lends a connection for a transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from firelock.plugins import open_storage
from firelock.storage import Storage
from firelock.testing import LockConformance, StorageConformance
from tests.ports import free_port
from tests.sql.databases import PostgresqlDatabase, newer_schema
from tests.sql.transactions import OpenTransaction, by_connection, by_driver, by_session

WAYS = [by_connection, by_session, by_driver]


class TestPostgresql(StorageConformance):
    model_runs = 20  # each step is several round trips

    @pytest.fixture
    def storage_url(self, postgresql: PostgresqlDatabase) -> str:
        return postgresql.url()

    @pytest.fixture
    def make_newer_schema(self, postgresql: PostgresqlDatabase) -> Iterator[Callable[[], None]]:
        yield from newer_schema(postgresql.engine_url())

    @pytest.fixture
    def open_unreachable(self, postgresql: PostgresqlDatabase) -> Callable[[], Storage]:
        return lambda: open_storage(postgresql.url(port=free_port()))

    @pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
    def open_transaction(
        self, request: pytest.FixtureRequest, postgresql: PostgresqlDatabase
    ) -> OpenTransaction:
        return request.param(postgresql)


class TestPostgresqlLocks(LockConformance):
    @pytest.fixture
    def lock_url(self, postgresql: PostgresqlDatabase) -> str:
        return postgresql.url()


class TestPgbouncer(StorageConformance):
    model_runs = 10  # each step is several round trips

    @pytest.fixture
    def storage_url(self, pgbouncer: PostgresqlDatabase) -> str:
        return pgbouncer.url("listen=off")  # nobody listens through it, which the kit cannot know

    @pytest.fixture
    def make_newer_schema(self, pgbouncer: PostgresqlDatabase) -> Iterator[Callable[[], None]]:
        yield from newer_schema(pgbouncer.engine_url())

    @pytest.fixture
    def open_unreachable(self, pgbouncer: PostgresqlDatabase) -> Callable[[], Storage]:
        return lambda: open_storage(pgbouncer.url(port=free_port()))

    @pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
    def open_transaction(
        self, request: pytest.FixtureRequest, pgbouncer: PostgresqlDatabase
    ) -> OpenTransaction:
        return request.param(pgbouncer)


class TestPgbouncerLocks(LockConformance):
    @pytest.fixture
    def lock_url(self, pgbouncer: PostgresqlDatabase) -> str:
        return pgbouncer.url()
