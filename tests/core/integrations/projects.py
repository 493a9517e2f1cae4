"""A Django project in a process of its own, since a process has one project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import attrs

FOLDER = Path(__file__).parent / "django_project"


@attrs.frozen
class DjangoProject:
    """Runs the commands of the project in `django_project`, with these databases and this block."""

    databases: dict
    block: object
    python: str = sys.executable
    environment: dict = attrs.Factory(dict)

    def __call__(self, *words, code=0, **environment):
        """`manage.py` has run the words and has ended so; return what it wrote, errors last."""
        return self.run([str(FOLDER / "manage.py"), *words], code=code, **environment)

    def firelock(self, *words, code=0, **environment):
        """`firelock` itself has run the words, with the project's settings in the environment."""
        set_up = {"DJANGO_SETTINGS_MODULE": "mysite.settings", **environment}
        return self.run(["-m", "firelock", *words], code=code, **set_up)

    def shell(self, program, **environment):
        """The program has run with Django set up; return what it printed, read as JSON."""
        start = "import django; django.setup()\n"
        set_up = {"DJANGO_SETTINGS_MODULE": "mysite.settings", **environment}
        return json.loads(self.done(["-c", start + program], **set_up).stdout)

    def run(self, words, code=0, **environment):
        done = self.done(words, code, **environment)
        return done.stdout + done.stderr

    def done(self, words, code=0, **environment):
        done = subprocess.run(
            [self.python, *words], cwd=FOLDER, env=self.all_environment(environment), capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        assert code == done.returncode, done.stdout + done.stderr
        return done

    def all_environment(self, more):
        return {
            **os.environ,
            "SHOP_DATABASES": json.dumps(self.databases),
            "SHOP_FIRELOCK": json.dumps(self.block),
            **self.environment,
            **more,
        }


def sqlite_database(path):
    """An entry of DATABASES."""
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}


# Prints what becomes of jobs in transactions of Django's, where they live in the database of `default`.
TRANSACTIONS = """
import asyncio, json
from django.db import connection, connections, transaction
from django.db.utils import DatabaseError
from django.db.transaction import TransactionManagementError
from firelock import ConfigurationError, JobContext, JobNotCommitted, Retry, SignatureMismatch
from firelock.integrations.django import enqueue_on_commit, fire
from shop.models import Order
from shop.tasks import asend_receipt, send_receipt

fire.storage.clear()
said, count = {}, lambda: sum(fire.jobs.counts().values())

def refusal(within, expected):
    try:
        send_receipt.using(within=within).enqueue(1)
    except ConfigurationError as error:
        return str(error)[:len(expected)]

with transaction.atomic():
    order = Order.objects.create(buyer="ann")
    job = send_receipt.enqueue(order.pk)
    said["joined"] = [0]
    try:
        job.refresh()
    except JobNotCommitted:
        said["joined"] = [0]
    inside = count()
said["joined"] = [count(), inside]
try:
    with transaction.atomic():
        send_receipt.enqueue(order.pk)
        raise LookupError
except LookupError:
    said["rolled back"] = count()
with transaction.atomic():
    send_receipt.enqueue(order.pk)
    try:
        with transaction.atomic():
            send_receipt.enqueue(order.pk)
            raise LookupError
    except LookupError:
        pass
said["savepoint"] = count()
with transaction.atomic():
    send_receipt.using(within="default").enqueue(order.pk)
    send_receipt.using(within=connection).enqueue(order.pk)
said["named"] = count()
with transaction.atomic():
    send_receipt.enqueue_many([(1,), (2,)])
said["many"] = count()
asyncio.run(asend_receipt.aenqueue(order.pk))
said["async"] = count()

outside = "within= names 'default', a database of Django's that is in no transaction in"
said["outside"] = refusal(connections["default"], outside)
unknown = "within='gone' names no database; DATABASES has default, other."
said["unknown"] = refusal("gone", unknown)
with transaction.atomic("other"):
    said["elsewhere"] = refusal("other", "within=")
try:
    with transaction.atomic():
        try:
            with transaction.atomic(savepoint=False):
                raise LookupError
        except LookupError:
            pass
        send_receipt.enqueue(1)
except TransactionManagementError as error:
    said["broken"] = type(error).__name__

with transaction.atomic():
    enqueue_on_commit(send_receipt, order.pk)
    before = count()
said["on commit"] = [before, count()]
try:
    with transaction.atomic():
        enqueue_on_commit(send_receipt, "one", "too many")
except SignatureMismatch as error:
    said["refused early"] = type(error).__name__

with transaction.atomic():
    send_receipt.enqueue(order.pk)
    said["told"] = any("tell" in repr(each) for each in connection.run_on_commit)

@fire.task(name="pay", retry=Retry.never(), queue="pay")
def pay(job: JobContext, fails: bool) -> None:
    try:
        with transaction.atomic():
            Order.objects.create(buyer="paid")
            job.complete_within("default")
            if fails:
                raise LookupError
    except LookupError:
        Order.objects.create(buyer="left")
        raise

from firelock import JobFailed
with fire.server(workers=1, queues="pay"):
    said["completed"] = []
    for fails in (True, False):
        paid = pay.enqueue(fails)
        try:
            paid.result(timeout=60)
        except JobFailed:
            pass
        said["completed"].append(Order.objects.filter(buyer="paid").exists())
        if fails:
            said["completed"].append(Order.objects.filter(buyer="left").get().buyer)
fire.close()
print(json.dumps(said))
"""

TRANSACTIONS_SAID = {
    "joined": [1, 0], "rolled back": 1, "savepoint": 2, "named": 4, "many": 6, "async": 7,
    "outside": "within= names 'default', a database of Django's that is in no transaction in",
    "unknown": "within='gone' names no database; DATABASES has default, other.",
    "elsewhere": "within=",
    "broken": "TransactionManagementError",
    "on commit": [7, 8],
    "refused early": "SignatureMismatch",
    "told": True,
    "completed": [False, "left", True],
}  # fmt: skip
