"""Django's connections during a job, on SQLite.

The tests in tests/sql/test_django.py use a server that drops them.
"""

from __future__ import annotations

# A job leaves a broken connection that Django considers open. Prints the outcomes of the following jobs with
# and without the plugin.
CUT_OFF = """
import json
from asgiref.sync import sync_to_async
from django.db import connection
from firelock import Firelock, JobFailed, Retry
from firelock.integrations.django import DjangoPlugin
from shop.models import Order

def break_connection():
    connection.ensure_connection()
    connection.connection.close()

def ends(*plugins):
    fire = Firelock("memory://", plugins=plugins)

    @fire.task(name="cut", retry=Retry.never())
    def cut() -> None:
        break_connection()

    @fire.task(name="acut", retry=Retry.never())
    async def acut() -> None:
        await sync_to_async(break_connection)()

    @fire.task(name="ask", retry=Retry.never())
    def ask() -> int:
        return Order.objects.count()

    @fire.task(name="aask", retry=Retry.never())
    async def aask() -> int:
        return await Order.objects.acount()

    found = []
    with fire.server(workers=1, async_workers=1):
        for broken, following in ((cut, ask), (acut, aask)):
            broken.enqueue().result(timeout=60)
            try:
                found.append(following.enqueue().result(timeout=60))
            except JobFailed:
                found.append("failed")
    fire.close()
    return found

print(json.dumps([ends(DjangoPlugin()), ends()]))
"""


def test_dead_connection_does_not_fail_the_next_job(django_project):
    """Worker threads and coroutines get a new connection.

    Without the plugin, both of the following jobs fail.
    """
    assert [[0, 0], ["failed", "failed"]] == django_project.shell(CUT_OFF)
