"""Oban with more concurrent jobs, and so larger batches, than in the examples of its documentation."""

from __future__ import annotations

from benchmarks.peers.oban_postgresql import command, enqueue, enqueue_bulk, open_client, stamp

__all__ = ["COMMAND", "enqueue", "enqueue_bulk", "open_client", "stamp"]

COMMAND = command(100)
