"""A shop on Django in one file, with its dashboard at /jobs for staff.

FIRELOCK_STORAGE=sqlite:///shop.db python examples/dashboard_django.py runserver
"""

from __future__ import annotations

import os
import sys

from django.conf import settings

if not settings.configured:
    settings.configure(
        DEBUG=False,
        SECRET_KEY=os.environ.get("SECRET_KEY", "only for this example"),
        ALLOWED_HOSTS=["localhost", "127.0.0.1"],
        ROOT_URLCONF=__name__,
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
        MIDDLEWARE=[
            "django.middleware.common.CommonMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
    )
    import django

    django.setup()

from django.http import HttpRequest, JsonResponse
from django.urls import path

from firelock import Firelock
from firelock_dashboard import dashboard_urls

fire = Firelock(os.environ.get("FIRELOCK_STORAGE", "sqlite:///shop.db"))


@fire.task(queue="mail")
def send_receipt(order_id: int) -> str:
    """Send the receipt of an order to its buyer."""
    return f"receipt of order {order_id} sent"


def buy(_request: HttpRequest, order_id: int) -> JsonResponse:
    """Accept the order immediately, and send its receipt as a job."""
    return JsonResponse({"job": send_receipt.enqueue(order_id).id})


urlpatterns = [
    path("orders/<int:order_id>", buy),
    path("jobs/", dashboard_urls(fire)),  # staff may operate, superusers may do everything
]

if __name__ == "__main__":
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
