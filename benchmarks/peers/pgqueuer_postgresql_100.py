"""PgQueuer with larger batches than its default."""

from __future__ import annotations

from benchmarks.peers.pgqueuer_postgresql import command, enqueue, enqueue_bulk, open_client, stamp

__all__ = ["COMMAND", "enqueue", "enqueue_bulk", "open_client", "stamp"]

COMMAND = command(100)
