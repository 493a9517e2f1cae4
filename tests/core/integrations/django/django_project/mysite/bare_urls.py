"""URLs of a project without a dashboard and an admin site."""

from __future__ import annotations

urlpatterns = []
