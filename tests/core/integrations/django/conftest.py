"""A Django project whose tables are made once a run."""

from __future__ import annotations

import shutil

import pytest

from tests.core.integrations.django.projects import DjangoProject, sqlite_database


@pytest.fixture(scope="session")
def shop_file(tmp_path_factory):
    """An SQLite file with all tables of the project and of the jobs; to be copied."""
    path = tmp_path_factory.mktemp("django") / "shop.db"
    DjangoProject({"default": sqlite_database(path)}, {"database": "default"})("migrate", "-v", "0")
    return path


@pytest.fixture
def django_project(shop_file, tmp_path):
    """The project with everything in one SQLite file, its tables made."""
    path = shutil.copy(shop_file, tmp_path / "shop.db")
    database = {**sqlite_database(path), "OPTIONS": {"transaction_mode": "IMMEDIATE"}}
    return DjangoProject({"default": database}, {"database": "default"})
