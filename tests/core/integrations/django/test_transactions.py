"""Jobs in Django's transactions on SQLite; tests/sql/test_django.py tests the same on database servers."""

from __future__ import annotations

import pytest

from tests.core.integrations.django.projects import (
    TIES,
    TIES_OUTPUT,
    TRANSACTIONS,
    TRANSACTIONS_OUTPUT,
    DjangoProject,
    sqlite_database,
)


@pytest.fixture
def databases(django_project, tmp_path):
    """Return the settings of two SQLite files; the first has the tables of the models and jobs."""
    return {**django_project.databases, "other": sqlite_database(tmp_path / "other.db")}


def test_jobs_are_committed_or_rolled_back_with_the_transaction(databases):
    """Jobs join the transaction by default inside atomic(), or if an alias or a connection is passed.

    If a savepoint is rolled back, its own jobs are removed.
    """
    project = DjangoProject(databases, {"database": "default"})

    output = project.shell(TRANSACTIONS)

    assert TRANSACTIONS_OUTPUT == output


JOINED = """
import json
from django.db import transaction
from firelock.integrations.django import fire
{imports}

output = []
for commits in (False, True):
    try:
        with transaction.atomic():
            order = Order.objects.create(buyer="ann")
            {call}
            if not commits:
                raise LookupError
    except LookupError:
        pass
    output.append([Order.objects.count(), fire.jobs.counts().total])
print(json.dumps(output))
"""


def test_jobs_of_a_custom_app_join_transactions_via_the_plugin(django_project):
    """The app has `plugins=[DjangoPlugin(database="default")]` and is configured with the key `app`."""
    imports = "from shop.models import Order\nfrom shop.own_here import note"
    project = DjangoProject(
        django_project.databases, {"app": "shop.own_here:fire"}, environment={"OWN_DATABASE": "default"}
    )

    output = project.shell(JOINED.format(imports=imports, call="note.enqueue(order.buyer)"))

    assert [[0, 0], [1, 1]] == output


def test_jobs_of_a_celery_app_join_transactions_via_the_setting(django_project):
    """The `.delay()` of a shared task joins the transaction, no matter which broker is configured."""
    imports = "from shop.models import Order\nfrom celeried.tasks import buyer_of"
    project = DjangoProject(
        django_project.databases, {"app": "mysite.celery_app:app.fire", "database": "default"},
        environment={"SHOP_APPS": "celeried", "SHOP_CELERY": "redis://localhost:1/0"},
    )  # fmt: skip

    output = project.shell(JOINED.format(imports=imports, call="buyer_of.delay(order.pk)"))

    assert [[0, 0], [1, 1]] == output


def test_method_that_cannot_join_raises_inside_atomic(django_project):
    """On SQLite, the method must be called after the commit, as the error explains."""
    output = django_project.shell("""
import json
from django.db import transaction
from firelock import StorageUnavailable
from shop.models import Order
from shop.tasks import send_receipt

job = send_receipt.enqueue(1)
try:
    with transaction.atomic():
        Order.objects.create(buyer="ann")
        job.move(queue="vip")
except StorageUnavailable as error:
    print(json.dumps(str(error)))
""")

    assert 'within="default" in Django' in output
    assert "after the commit" in output


def test_jobs_in_another_storage_ignore_the_transaction(databases, tmp_path):
    """The job is stored immediately, even if the transaction is rolled back.

    However, `enqueue_on_commit` waits for the commit.
    """
    project = DjangoProject(databases, {"storage": f"sqlite:///{tmp_path}/jobs.db"})

    output = project.shell("""
import json
from django.db import transaction
from firelock.integrations.django import enqueue_on_commit, fire
from shop.tasks import send_receipt

output = []
try:
    with transaction.atomic():
        send_receipt.enqueue(1)
        enqueue_on_commit(send_receipt, 2)
        output.append(fire.jobs.counts().total)
        raise LookupError
except LookupError:
    output.append(fire.jobs.counts().total)
with transaction.atomic():
    enqueue_on_commit(send_receipt.using(queue="later"), 3)
    output.append(fire.jobs.counts().total)
output.append(fire.jobs.counts().total)
print(json.dumps(output))
""")

    assert [1, 1, 1, 2] == output


def test_dependent_jobs_join_transactions_as_in_a_tester(django_project):
    """A Tester accepts and refuses the same calls as the storage in, outside and after the transaction."""
    output = django_project.shell(TIES)

    assert output == TIES_OUTPUT


# Prints the outcome of batches, their members and callbacks in Django transactions.
BATCHES = """
import json
from django.db import transaction
from firelock import JobNotCommitted
from firelock.integrations.django import fire
from shop.models import Order
from shop.tasks import send_receipt

output = {}

def receipts(name, count=2):
    with fire.batch(name) as batch:
        batch.add_many([send_receipt.call(order.pk) for _ in range(count)])
        batch.then(send_receipt, order.pk)
    return batch

with transaction.atomic():
    order = Order.objects.create(buyer="ann")
    kept = receipts("kept")
    try:
        kept.refresh()
    except JobNotCommitted as error:
        output["inside"] = type(error).__name__
    try:
        with transaction.atomic():
            receipts("undone by a savepoint")
            raise LookupError
    except LookupError:
        pass
output["kept"] = kept.counts().total
try:
    with transaction.atomic():
        gone = [receipts("gone"), receipts("more than one chunk", 1_200)]
        raise LookupError
except LookupError:
    output["stored"] = [[batch.name for batch in fire.batches.list().batches], fire.jobs.counts().total]
output["gone"] = []
for batch in gone:
    try:
        batch.refresh()
    except JobNotCommitted as error:
        output["gone"].append(type(error).__name__)

with fire.server(workers=1, queues="mail"):
    output["ended"] = kept.result(timeout=60).succeeded
fire.close()
print(json.dumps(output))
"""


def test_batches_are_committed_or_rolled_back_with_the_transaction(django_project):
    """Members and callbacks join as well, even in a savepoint or if several operations store the batch."""
    output = django_project.shell(BATCHES)

    assert output == {
        "inside": "JobNotCommitted", "kept": 2, "stored": [["kept"], 4],
        "gone": ["JobNotCommitted", "JobNotCommitted"], "ended": 2,
    }  # fmt: skip
