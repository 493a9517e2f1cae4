"""Across modules: a Django project on real servers: lost connections, and jobs that join transactions."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy.engine import make_url

from tests.core.integrations.django.projects import (
    TIES,
    TIES_OUTPUT,
    TRANSACTIONS,
    TRANSACTIONS_OUTPUT,
    DjangoProject,
    sqlite_database,
)

# Three jobs of one kind. After each, the database ends every connection to it, including Firelock's own.
DROPS = """
import json, os, sys
import psycopg
from firelock import JobFailed
from {module} import fire
from shop import tasks

ends, task = [], fire.task_named(getattr(tasks, os.environ["KIND"]).name)
with fire.server(workers=1, async_workers=1):
    for _ in range(3):
        try:
            task.enqueue().result(timeout=60)
            ends.append("succeeded")
        except JobFailed:
            ends.append("failed")
        with psycopg.connect(os.environ["ADMIN"], autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
fire.close()
print(json.dumps(ends))
"""


def django_database(engine, url, **options):
    """Return an entry of DATABASES."""
    parts = make_url(url)
    return {
        "ENGINE": f"django.db.backends.{engine}", "NAME": parts.database, "USER": parts.username,
        "PASSWORD": parts.password, "HOST": parts.host, "PORT": parts.port, **options,
    }  # fmt: skip


@pytest.fixture
def ends_of(postgresql):
    """A function that returns how the jobs of a kind end."""

    def run(kind, module="firelock.integrations.django", **options):
        database = django_database("postgresql", postgresql.engine_url(), **options)
        project = DjangoProject({"default": database}, {"database": "default"})
        return project.shell(DROPS.format(module=module), KIND=kind, ADMIN=postgresql.socket_url())

    return run


KEPT = {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True}
KINDS = ["in_thread", "in_coroutine", "in_process"]


@pytest.mark.parametrize("options", [{}, KEPT], ids=["closed", "kept"])
@pytest.mark.parametrize("kind", KINDS)
def test_jobs_continue_after_the_database_has_dropped_every_connection(ends_of, kind, options):
    """Jobs succeed with every executor, whether or not Django keeps its connections open."""
    assert ["succeeded"] * 3 == ends_of(kind, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_jobs_fail_without_the_plugin_after_dropped_connections(ends_of, kind):
    """This shows that the tests really drop the connections, and that only the plugin replaces them."""
    assert ["succeeded", "failed", "failed"] == ends_of(kind, module="shop.bare")


def test_jobs_join_transactions_of_postgresql(postgresql, tmp_path):
    """The results are the same as those for SQLite in tests/core."""
    database = django_database("postgresql", postgresql.engine_url())

    printed = printed_by(database, tmp_path)

    assert TRANSACTIONS_OUTPUT == printed


def test_jobs_join_transactions_of_mysql(mariadb, tmp_path):
    """The results on MariaDB and MySQL are the same as those on SQLite."""
    database = django_database("mysql", mariadb.engine_url())

    printed = printed_by(database, tmp_path, SHOP_PYMYSQL="1")

    assert TRANSACTIONS_OUTPUT == printed


def test_related_jobs_join_transactions_of_postgresql(postgresql, tmp_path):
    """A Tester accepts and refuses the same calls as PostgreSQL."""
    database = django_database("postgresql", postgresql.engine_url())

    printed = printed_by(database, tmp_path, TIES)

    assert printed == TIES_OUTPUT


def test_related_jobs_join_transactions_of_mysql(mariadb, tmp_path):
    """A Tester accepts and refuses the same calls as MariaDB and MySQL."""
    database = django_database("mysql", mariadb.engine_url())

    printed = printed_by(database, tmp_path, TIES, SHOP_PYMYSQL="1")

    assert printed == TIES_OUTPUT


@pytest.mark.heavy("Django's own runner of tests")
@pytest.mark.parametrize("more", [(), ("--parallel", "2")])
def test_jobs_of_tests_are_in_the_test_database_of_postgresql(postgresql, more):
    """As with a SQLite file, this includes the jobs of processes that run parallel tests."""
    database = django_database("postgresql", postgresql.engine_url())
    with psycopg.connect(postgresql.socket_url(), autocommit=True) as admin:
        admin.execute(f"ALTER ROLE {database['USER']} CREATEDB")
    project = DjangoProject({"default": database}, {"database": "default", "test_storage": "database"})

    printed = project("test", "shop.rollbacks", "--noinput", *more)

    assert "Ran 8 tests" in printed
    assert "OK" in printed


def printed_by(database, tmp_path, program=TRANSACTIONS, **environment):
    """Return the output of a program whose jobs are in this database."""
    databases = {"default": database, "other": sqlite_database(tmp_path / "other.db")}
    project = DjangoProject(databases, {"database": "default"}, environment=environment)
    project("migrate", "-v", "0")
    return project.shell(program)
