"""The project's Celery app, with the imports changed to Firelock."""

from __future__ import annotations

import os

from firelock.compat.celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

app = Celery("mysite")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
