"""The part of the kit for variants of a server: another version, a pooler, a role, a Sentinel group."""

from __future__ import annotations

import os

from firelock.testing import StorageConformance
from firelock.testing.conformance.storage.claim import ClaimTests
from firelock.testing.conformance.storage.life import LifeTests
from firelock.testing.conformance.storage.model import ModelTests
from firelock.testing.conformance.storage.races import CrowdTests, RaceTests
from firelock.testing.conformance.storage.text import TextTests


class _Chosen(ModelTests, CrowdTests, RaceTests, ClaimTests, TextTests, LifeTests):
    """Random operations, batches, waits, calls and claims, which together send every statement.

    The other parts are those in which variants might differ.
    """


def variant_conformance(variable: str) -> type[_Chosen]:
    """Return the parts for a variant: the whole kit if the environment variable is "all".

    By default, these are some of its parts, because the same statements have passed the whole kit on
    the server itself.
    """
    return StorageConformance if os.environ.get(variable) == "all" else _Chosen
