"""The storage that lives in this process: the reference model, and what tests and demos open."""

from __future__ import annotations

from firelock.memory.storage import MemoryStorage

__all__ = ["MemoryStorage"]
