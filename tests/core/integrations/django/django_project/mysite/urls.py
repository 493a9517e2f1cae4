"""The URLs of the project."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from firelock_dashboard import dashboard_urls

urlpatterns = [
    path("admin/", admin.site.urls),
    path("firelock/", dashboard_urls()),
]
