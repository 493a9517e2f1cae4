"""Across modules: the dashboard and the admin site of a Django project, their permissions and links."""

from __future__ import annotations

import pytest

START = """
import json
from django.contrib.auth.models import Permission, User
from django.test import Client
from firelock.integrations.django import fire
from shop.models import Order
from shop.tasks import send_receipt

def client(name, *permissions, **flags):
    user = User.objects.create_user(name, password="x", **flags)
    for permission in permissions:
        user.user_permissions.add(Permission.objects.get(codename=permission))
    one = Client()
    one.force_login(user)
    return one

order = Order.objects.create(buyer="ann")
job = send_receipt.enqueue(order.pk)
"""
VISITORS = """
def seen(one):
    def pause(site):
        sent = {"content_type": "application/x-www-form-urlencoded", "HTTP_SEC_FETCH_SITE": site}
        return one.post("/firelock/queues/pause", "queue=mail", **sent).status_code

    run = "/firelock/tasks/run?name=shop.tasks.send_receipt"
    return [
        one.get("/firelock/jobs").status_code, pause("same-origin"), one.get(run).status_code,
        pause("cross-site"),
    ]

anonymous = Client().get("/firelock/jobs?state=failed")
print(json.dumps({
    "superuser": seen(client("root", is_superuser=True)),
    "administrator": seen(client("ada", "administer_jobs")),
    "operator": seen(client("bob", "operate_jobs")),
    "viewer": seen(client("cyd", "view_jobs")),
    "staff without any": seen(client("dan", is_staff=True)),
    "inactive": Client().get("/firelock/").status_code,
    "to login": [anonymous.status_code, anonymous["Location"]],
    "approval": Client().get("/firelock/approval/token", HTTP_SEC_FETCH_SITE="cross-site").status_code,
    "script": Client().get("/firelock/api/jobs", HTTP_ACCEPT="application/json").status_code,
}))
"""
ADMIN = """
place = "/admin/shop/order/%s/change/"
root = client("root", is_staff=True, is_superuser=True)
viewer = client("cyd", "view_jobs", is_staff=True)
editor = client("eve", "view_order", "change_order", is_staff=True)
board = root.get("/admin/firelock/jobboard/").content.decode()
page = root.get(place % order.pk).content.decode()
other = Order.objects.create(buyer="bob")
print(json.dumps({
    "index": "/admin/firelock/jobboard/" in root.get("/admin/").content.decode(),
    "board": [part in board for part in ("enqueued", "/firelock/jobs?state=failed", "/firelock/queues/mail")],
    "viewer": viewer.get("/admin/firelock/jobboard/").status_code,
    "others": editor.get("/admin/firelock/jobboard/").status_code,
    "post": root.post("/admin/firelock/jobboard/", {"action": "delete_selected"}).status_code,
    "add": root.get("/admin/firelock/jobboard/add/").status_code,
    "panel": [part in page for part in (f"/firelock/jobs/{job.id}", "tasks.send_receipt", "tag=order%3A1")],
    "no jobs": "No job has the tag <code>order:2</code>." in
        root.get(place % other.pk).content.decode(),
    "adding": "No job bears" in root.get("/admin/shop/order/add/").content.decode(),
    "editor's panel": job.id in editor.get(place % order.pk).content.decode(),
    "saved": editor.post(place % order.pk, {"buyer": "ann b", "receipts": 0}).status_code,
}))
"""


@pytest.fixture
def project(django_project):
    """Return the project with all data in one SQLite file that has the tables."""
    return django_project


def test_dashboard_access_requires_django_permissions(project):
    """The three permissions do not need a database model.

    A cross-site form is refused, and an anonymous visitor is redirected to the login page.
    """
    output = project.shell(START + VISITORS)

    assert {
        "superuser": [200, 303, 200, 403], "administrator": [200, 303, 200, 403],
        "operator": [200, 303, 403, 403], "viewer": [200, 403, 403, 403],
        "staff without any": [403, 403, 403, 403], "inactive": 302,
        "to login": [302, "/admin/login/?next=/firelock/jobs%3Fstate%3Dfailed"], "script": 403,
        "approval": 403,
    } == output  # fmt: skip


def test_admin_counts_jobs_and_shows_the_jobs_of_an_object(project):
    """The pages are read-only and link to the dashboard. They are visible to users who may view jobs."""
    output = project.shell(START + ADMIN)

    assert {
        "index": True, "board": [True] * 3, "viewer": 200, "others": 403, "post": 405, "add": 404,
        "panel": [True] * 3, "no jobs": True, "adding": False, "editor's panel": False, "saved": 302,
    } == output  # fmt: skip
