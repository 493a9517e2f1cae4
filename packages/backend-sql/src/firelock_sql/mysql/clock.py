"""The clock of MySQL and MariaDB."""

from __future__ import annotations

__all__ = ["CLOCK"]

CLOCK = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6))"
"""The instant at which the statement began, in micros, whatever the session's time zone is."""
