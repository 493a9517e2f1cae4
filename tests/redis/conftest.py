"""The servers that these tests run on."""

from __future__ import annotations

from tests.redis.fixtures import cluster, group, member, program, server

__all__ = ["cluster", "group", "member", "program", "server"]
