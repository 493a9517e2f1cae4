"""Firelock's jobs in one plain file."""

from __future__ import annotations

from firelock_files.storage import FileStorage

__all__ = ["FileStorage"]
