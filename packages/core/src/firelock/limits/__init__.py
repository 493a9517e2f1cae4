"""Limits and unique jobs: what a user writes, and the rules that a storage applies.

Users write a `limit` and a `unique` key, of which `keys` makes strings. Authors of storages need the rest,
which this package exports: `admission` (which jobs with limits start), by each limit's `settings`, and
`unique_rules` (which calls are stored).
"""

from __future__ import annotations

from firelock.limits import admission, settings, unique_rules
from firelock.limits.admission import (
    Head,
    HolderFacts,
    KeyedClaim,
    KeyedLanes,
    KeyRow,
    LaneCursor,
    LaneCursors,
    LaneLook,
    OpenKey,
    is_free,
    is_late,
    keyed_room,
    keys_of,
    lane_of,
    latest_start,
    shared_out,
)
from firelock.limits.settings import UNLIMITED, LimitNumbers, name_of, numbers_for, read_numbers, spent
from firelock.limits.unique_rules import (
    JobFacts,
    UniqueRow,
    debounced_due,
    refuse_duplicate,
    replaces,
    starts_of,
    taken_by,
    unique_is_taken,
)

__all__ = [
    "UNLIMITED",
    "Head",
    "HolderFacts",
    "JobFacts",
    "KeyRow",
    "KeyedClaim",
    "KeyedLanes",
    "LaneCursor",
    "LaneCursors",
    "LaneLook",
    "LimitNumbers",
    "OpenKey",
    "UniqueRow",
    "admission",
    "debounced_due",
    "is_free",
    "is_late",
    "keyed_room",
    "keys_of",
    "lane_of",
    "latest_start",
    "name_of",
    "numbers_for",
    "read_numbers",
    "refuse_duplicate",
    "replaces",
    "settings",
    "shared_out",
    "spent",
    "starts_of",
    "taken_by",
    "unique_is_taken",
    "unique_rules",
]  # fmt: skip
