"""URLs whose module imports the app and a task, as the views of a project do."""

from __future__ import annotations

from django.urls import path
from shop.tasks import send_receipt

from firelock.integrations.django import fire
from firelock_dashboard import dashboard_urls

urlpatterns = [path("firelock/", dashboard_urls())]
used = (fire, send_receipt)
