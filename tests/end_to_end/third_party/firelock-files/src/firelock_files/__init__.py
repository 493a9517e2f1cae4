"""Firelock's jobs in plain files of one folder."""

from __future__ import annotations

from firelock_files.storage import FileStorage

__all__ = ["FileStorage"]
