"""PostgreSQL's storage parameters of busy tables, which its defaults vacuum when a fifth of one is dead.

The jobs' own rows keep no room free on their pages: what changes of them is indexed, so that hardly an update
is heap-only.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["CHANGED_IN_PLACE", "VACUUMED_AT_ONCE", "VACUUMED_EARLY"]

VACUUMED_EARLY: Mapping[str, float] = {
    "autovacuum_vacuum_scale_factor": 0.02,
    "autovacuum_vacuum_threshold": 1_000,
    "autovacuum_analyze_scale_factor": 0.05,
}
VACUUMED_AT_ONCE: Mapping[str, float] = {
    "autovacuum_vacuum_scale_factor": 0,
    "autovacuum_vacuum_threshold": 1_000,
}
CHANGED_IN_PLACE: Mapping[str, float] = {"fillfactor": 50, **VACUUMED_AT_ONCE}
