"""A Django project whose tables are created once per test run."""

from __future__ import annotations

import shutil

import pytest

from tests.core.integrations.django.projects import DjangoProject, sqlite_database


@pytest.fixture(scope="session")
def shop_file(tmp_path_factory):
    """Return an SQLite file with all tables of the project and of the jobs, which tests copy."""
    path = tmp_path_factory.mktemp("django") / "shop.db"
    DjangoProject({"default": sqlite_database(path)}, {"database": "default"})("migrate", "-v", "0")
    return path


@pytest.fixture
def django_project(shop_file, tmp_path):
    """Return the project with all data in one SQLite file that has the tables."""
    path = shutil.copy(shop_file, tmp_path / "shop.db")
    database = {**sqlite_database(path), "OPTIONS": {"transaction_mode": "IMMEDIATE"}}
    return DjangoProject({"default": database}, {"database": "default"})
