"""A Django project in a separate process, because a process can have only one project."""

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
    """The project in `django_project` with these databases and this FIRELOCK setting; runs its commands."""

    databases: dict
    block: object
    python: str = sys.executable
    environment: dict = attrs.Factory(dict)

    def __call__(self, *words, code=0, **environment):
        """Run `manage.py` with these arguments, check the exit code, and return stdout followed by stderr."""
        return self.run([str(FOLDER / "manage.py"), *words], code=code, **environment)

    def firelock(self, *words, code=0, **environment):
        """Run `firelock` with these arguments, with the project's settings in the environment."""
        set_up = {"DJANGO_SETTINGS_MODULE": "mysite.settings", **environment}
        return self.run(["-m", "firelock", *words], code=code, **set_up)

    def shell(self, program, **environment):
        """Run the program after `django.setup()`, and return its output parsed as JSON."""
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
    """Return an entry for DATABASES."""
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}


# Prints the outcome of jobs in Django transactions when they are stored in the database `default`.
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
output, count = {}, lambda: sum(fire.jobs.counts().values())

def refusal(within, expected):
    try:
        send_receipt.using(within=within).enqueue(1)
    except ConfigurationError as error:
        return str(error)[:len(expected)]

with transaction.atomic():
    order = Order.objects.create(buyer="ann")
    job = send_receipt.enqueue(order.pk)
    output["joined"] = [0]
    try:
        job.refresh()
    except JobNotCommitted:
        output["joined"] = [0]
    inside = count()
output["joined"] = [count(), inside]
try:
    with transaction.atomic():
        send_receipt.enqueue(order.pk)
        raise LookupError
except LookupError:
    output["rolled back"] = count()
with transaction.atomic():
    send_receipt.enqueue(order.pk)
    try:
        with transaction.atomic():
            send_receipt.enqueue(order.pk)
            raise LookupError
    except LookupError:
        pass
output["savepoint"] = count()
with transaction.atomic():
    send_receipt.using(within="default").enqueue(order.pk)
    send_receipt.using(within=connection).enqueue(order.pk)
output["named"] = count()
with transaction.atomic():
    send_receipt.enqueue_many([(1,), (2,)])
output["many"] = count()
asyncio.run(asend_receipt.aenqueue(order.pk))
output["async"] = count()

outside = "No transaction is open on database 'default' in this thread. Enqueue inside"
output["outside"] = refusal(connections["default"], outside)
unknown = "within='gone' is not in DATABASES; use one of default, other."
output["unknown"] = refusal("gone", unknown)
with transaction.atomic(), connection.cursor() as cursor:
    of_cursor = "within must be an alias or a connection of Django, got a cursor; use within='default'."
    output["cursor"] = refusal(cursor, of_cursor)
with transaction.atomic("other"):
    output["elsewhere"] = refusal("other", "within ")
try:
    with transaction.atomic():
        try:
            with transaction.atomic(savepoint=False):
                raise LookupError
        except LookupError:
            pass
        send_receipt.enqueue(1)
except TransactionManagementError as error:
    output["broken"] = type(error).__name__

with transaction.atomic():
    enqueue_on_commit(send_receipt, order.pk)
    before = count()
output["on commit"] = [before, count()]
try:
    with transaction.atomic():
        enqueue_on_commit(send_receipt, "one", "too many")
except SignatureMismatch as error:
    output["refused early"] = type(error).__name__

with transaction.atomic():
    send_receipt.enqueue(order.pk)
    output["notified"] = any("notify" in repr(each) for each in connection.run_on_commit)

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
    output["completed"] = []
    for fails in (True, False):
        paid = pay.enqueue(fails)
        try:
            paid.result(timeout=60)
        except JobFailed:
            pass
        output["completed"].append(Order.objects.filter(buyer="paid").exists())
        if fails:
            output["completed"].append(Order.objects.filter(buyer="left").get().buyer)
fire.close()
print(json.dumps(output))
"""

TRANSACTIONS_OUTPUT = {
    "joined": [1, 0], "rolled back": 1, "savepoint": 2, "named": 4, "many": 6, "async": 7,
    "outside": "No transaction is open on database 'default' in this thread. Enqueue inside",
    "cursor": "within must be an alias or a connection of Django, got a cursor; use within='default'.",
    "unknown": "within='gone' is not in DATABASES; use one of default, other.",
    "elsewhere": "within ",
    "broken": "TransactionManagementError",
    "on commit": [7, 8],
    "refused early": "SignatureMismatch",
    "notified": True,
    "completed": [False, "left", True],
}  # fmt: skip


# Prints the outcome of each method for a job of an open transaction, with the storage and with a Tester.
TIES = """
import asyncio, json, threading
from django.db import transaction
from firelock.integrations.django import fire
from firelock.testing import Tester
from shop.tasks import send_receipt as send

approval = fire.signal("approval", bool)
fire.storage.clear()

@fire.task(name="note")
def note(text: str) -> None:
    pass

def batch_after(job):
    with fire.batch("after", after=job) as batch:
        batch.add(send, 1)

def batch_then_inside(job):
    with fire.batch("b") as batch:
        batch.add(send, 1)
        batch.then(send.using(after=job), 1)

def batch_then(_):
    with fire.batch("b") as batch:
        batch.add(send, 1)
    batch.then(send, 1)

def batch_add(_):
    with fire.batch("b") as batch:
        batch.add(send, 1)
    batch.add(send, 1)

TIES = {
    "then": lambda job: job.then(send, 1),
    "then, named": lambda job: job.then(send.using(within="default"), 1),
    "after": lambda job: send.using(after=job).enqueue(1),
    "after, many": lambda job: send.using(after=job).enqueue_many([(1,), (2,)]),
    "output": lambda job: note.enqueue(job.output),
    "calls": lambda job: fire.enqueue_many([send.using(after=job).call(1), send.call(2)]),
    "batch after": batch_after,
    "batch.then inside": batch_then_inside,
    "signal": lambda job: approval.send(job, True),
}
OWN = {"batch.then": batch_then, "batch.add": batch_add}
READS = {
    "refresh": lambda job: job.refresh(),
    "requeue": lambda job: job.requeue(),
    "delete": lambda job: job.delete(),
    "restore": lambda job: job.restore(),
    "get": lambda job: fire.jobs.get(job.id),
    "copy": lambda job: fire.jobs.copy(job.id),
    "athen": lambda job: asyncio.run(job.athen(send, 1)),
    "aafter": lambda job: asyncio.run(send.using(after=job).aenqueue(1)),
    "asignal": lambda job: asyncio.run(approval.asend(job, True)),
}

def outcome(verb, *args):
    try:
        verb(*args)
    except Exception as error:
        return type(error).__name__
    return "accepted"

def elsewhere(verb, job):
    output = []
    thread = threading.Thread(target=lambda: output.append(outcome(verb, job)))
    thread.start()
    thread.join()
    return output[0]

def outcomes():
    output = {"inside": {}, "reads": {}, "elsewhere": {}, "next": {}, "after": {}}
    with transaction.atomic():
        for name, verb in (TIES | OWN).items():
            output["inside"][name] = outcome(verb, send.enqueue(1))
        job = send.enqueue(1)
        for name, verb in READS.items():
            output["reads"][name] = outcome(verb, job)
        for name, verb in (TIES | READS).items():
            if name != "then, named":
                output["elsewhere"][name] = elsewhere(verb, job)
        jobs = {name: send.enqueue(1) for name in TIES | OWN}
    with transaction.atomic():
        for name, verb in (TIES | OWN).items():
            output["next"][name] = outcome(verb, jobs[name])
    for name, verb in (TIES | OWN | READS).items():
        job = send.enqueue(1)
        if name != "then, named":
            output["after"][name] = outcome(verb, job)
    return output

storage = outcomes()
with Tester(fire):
    tester = outcomes()
fire.close()
print(json.dumps({f"{where} {name}": [output, tester[where][name]]
                  for where, outcomes in storage.items() for name, output in outcomes.items()}))
"""

_TIES = [
    "then", "then, named", "after", "after, many", "output", "calls", "batch after", "batch.then inside",
    "signal",
]  # fmt: skip
_READS = ["refresh", "requeue", "delete", "restore", "get", "copy", "athen", "aafter", "asignal"]
_BY_ID = {"get": "JobNotFound", "copy": "JobNotFound"}  # a lookup by id does not use the transaction
_ALL = {
    "inside": dict.fromkeys([*_TIES, "batch.then", "batch.add"], "accepted"),
    "reads": dict.fromkeys(_READS, "JobNotCommitted") | _BY_ID,
    "elsewhere": dict.fromkeys([*_TIES, *_READS], "JobNotCommitted") | _BY_ID,
    "next": dict.fromkeys([*_TIES, "batch.then", "batch.add"], "accepted"),
    "after": {
        **dict.fromkeys([*_TIES, *_READS, "batch.then", "batch.add"], "accepted"),
        "requeue": "JobConflict", "restore": "JobConflict",
    },
}  # fmt: skip
TIES_OUTPUT = {  # outcomes with the storage and with the Tester
    f"{where} {name}": [outcome] * 2
    for where, outcomes in _ALL.items()
    for name, outcome in outcomes.items()
    if where in {"inside", "next"} or name != "then, named"
}
