"""A URLconf without URLs, because each test request sets its own URLconf."""

from __future__ import annotations

urlpatterns = []
