"""Jobs and Django's transactions, on SQLite; tests/sql/test_django.py does the same on servers."""

from __future__ import annotations

import pytest

from tests.core.integrations.projects import TRANSACTIONS, TRANSACTIONS_SAID, DjangoProject, sqlite_database


@pytest.fixture
def databases(django_project, tmp_path):
    """Two files, the first with the tables of the models and of the jobs."""
    return {**django_project.databases, "other": sqlite_database(tmp_path / "other.db")}


def test_jobs_come_and_go_with_the_transaction_of_their_database(databases):
    """By themselves inside atomic(), by an alias or by a connection; a savepoint undoes its own."""
    project = DjangoProject(databases, {"database": "default"})

    said = project.shell(TRANSACTIONS)

    assert TRANSACTIONS_SAID == said


def test_with_another_storage_nothing_happens_unless_asked(databases, tmp_path):
    """The job is there at once, whatever becomes of the transaction; `enqueue_on_commit` waits for it."""
    project = DjangoProject(databases, {"storage": f"sqlite:///{tmp_path}/jobs.db"})

    said = project.shell("""
import json
from django.db import transaction
from firelock.integrations.django import enqueue_on_commit, fire
from shop.tasks import send_receipt

said = []
try:
    with transaction.atomic():
        send_receipt.enqueue(1)
        enqueue_on_commit(send_receipt, 2)
        said.append(fire.jobs.counts().total)
        raise LookupError
except LookupError:
    said.append(fire.jobs.counts().total)
with transaction.atomic():
    enqueue_on_commit(send_receipt.using(queue="later"), 3)
    said.append(fire.jobs.counts().total)
said.append(fire.jobs.counts().total)
print(json.dumps(said))
""")

    assert [1, 1, 1, 2] == said
