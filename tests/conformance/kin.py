"""What the kit asks of a store's kin: another version, a pooler before it, a role, a watched group."""

from __future__ import annotations

import os

from firelock.testing import StorageConformance
from firelock.testing.conformance.storage.claim import ClaimDuty
from firelock.testing.conformance.storage.life import LifeDuty
from firelock.testing.conformance.storage.model import ModelDuty
from firelock.testing.conformance.storage.races import CrowdDuty, RaceDuty
from firelock.testing.conformance.storage.text import TextDuty


class _Chosen(ModelDuty, CrowdDuty, RaceDuty, ClaimDuty, TextDuty, LifeDuty):
    """Random steps, batches, waits, calls, claims send every statement; the rest is where kin may differ."""


def kin_conformance(variable: str) -> type[_Chosen]:
    """Return the duties to play on kin: all of the kit where the environment's variable says "all".

    The same statements have been through the whole kit on the store itself.
    """
    return StorageConformance if os.environ.get(variable) == "all" else _Chosen
