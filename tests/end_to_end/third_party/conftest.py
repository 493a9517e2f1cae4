"""Pytest does not collect the distributions here; `test_strangers` runs their tests in their environment."""

from __future__ import annotations

collect_ignore_glob = ["firelock-*"]
