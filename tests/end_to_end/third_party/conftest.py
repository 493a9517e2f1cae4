"""Pytest does not collect the distributions here; `test_distributions` runs their tests."""

from __future__ import annotations

collect_ignore_glob = ["firelock-*"]
