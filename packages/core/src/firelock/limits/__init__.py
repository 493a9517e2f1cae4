"""Limits and unique jobs: the declarations of users, and the rules that a storage applies.

Users declare limits (`limit`) and unique keys (`unique`); `keys` builds the keys that are stored with a job.
The settings of a limit are not part of a job. Servers store the settings when they start, and operators can
change them (`control/limits.py`).

The other modules are for authors of storages, and this package exports their names: `admission` chooses the
jobs with limits that may start, `line` computes the order in which they wait, `settings` defines the settings
of a limit, and `unique_rules` decides which calls are stored.
"""

from __future__ import annotations

from firelock.limits.admission import (
    EXAMINED,
    Head,
    HolderFacts,
    KeyedClaim,
    KeyedLanes,
    KeyRow,
    KeyUsage,
    LaneCursor,
    LaneCursors,
    LaneReading,
    LeavingOut,
    examined_share,
    is_late,
    is_past_holder,
    keyed_room,
    keys_of,
    lane_of,
    latest_start,
    take_shares,
)
from firelock.limits.line import (
    LINE_LANES,
    LINE_LENGTH,
    Spot,
    in_turns,
    parts_of,
    place_of,
    spots,
)
from firelock.limits.settings import (
    UNLIMITED,
    LimitSettings,
    arrival_after_spend,
    name_of,
    read_settings,
    settings_for,
)
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
    "EXAMINED",
    "LINE_LANES",
    "LINE_LENGTH",
    "UNLIMITED",
    "Head",
    "HolderFacts",
    "JobFacts",
    "KeyRow",
    "KeyUsage",
    "KeyedClaim",
    "KeyedLanes",
    "LaneCursor",
    "LaneCursors",
    "LaneReading",
    "LeavingOut",
    "LimitSettings",
    "Spot",
    "UniqueRow",
    "arrival_after_spend",
    "debounced_due",
    "examined_share",
    "in_turns",
    "is_late",
    "is_past_holder",
    "keyed_room",
    "keys_of",
    "lane_of",
    "latest_start",
    "name_of",
    "parts_of",
    "place_of",
    "read_settings",
    "refuse_duplicate",
    "replaces",
    "settings_for",
    "spots",
    "starts_of",
    "take_shares",
    "taken_by",
    "unique_is_taken",
]  # fmt: skip
