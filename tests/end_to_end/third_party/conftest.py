"""The distributions here are strangers: `test_strangers` runs their tests where they are installed."""

from __future__ import annotations

collect_ignore_glob = ["firelock-*"]
