"""No URLs: each request of the tests brings its own."""

from __future__ import annotations

urlpatterns = []
