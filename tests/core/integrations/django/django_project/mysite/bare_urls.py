"""Addresses of a project without a dashboard and an admin."""

from __future__ import annotations

urlpatterns = []
