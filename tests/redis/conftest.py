"""The servers that these tests run on."""

from __future__ import annotations

from tests.redis.fixtures import cluster, group, program, server

__all__ = ["cluster", "group", "program", "server"]
