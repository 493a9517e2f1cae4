"""Tools for testing an app, and the conformance kit for storages, lock providers and servers.

Names are loaded when they are first used, so that this module can be imported without pytest and hypothesis.
Read `tester` first, then `private` (its storage), `uncommitted` (the jobs that it hides), `manual_clock` (its
time), `manual_server` (its server) and `enqueued` (the enqueued jobs). `plugin` is the module that pytest
loads. `faults` contains a storage that fails on demand, and `waiting` contains a function that waits for a
condition. `conformance/` is the kit: `movable_clock` describes the clock that it requires of a storage, and
`test_storage`, `test_locks` and `test_server` run it without a test file.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firelock.resource import replaced
    from firelock.testing.conformance.kit import requires
    from firelock.testing.conformance.locks import LockConformance
    from firelock.testing.conformance.retries import RetryConformance
    from firelock.testing.conformance.scene import Handles, Scene
    from firelock.testing.conformance.serializers import SerializerConformance
    from firelock.testing.conformance.server import ServerConformance
    from firelock.testing.conformance.storage import RowStorageConformance, StorageConformance
    from firelock.testing.enqueued import Enqueued
    from firelock.testing.faults import FaultyStorage
    from firelock.testing.manual_clock import ManualClock
    from firelock.testing.manual_server import Drained
    from firelock.testing.movable_clock import MovableClock
    from firelock.testing.tester import Tester
    from firelock.testing.waiting import eventually

__all__ = [
    "Drained",
    "Enqueued",
    "FaultyStorage",
    "Handles",
    "LockConformance",
    "ManualClock",
    "MovableClock",
    "RetryConformance",
    "RowStorageConformance",
    "Scene",
    "SerializerConformance",
    "ServerConformance",
    "StorageConformance",
    "Tester",
    "eventually",
    "replaced",
    "requires",
]

_HOMES = {
    "Drained": "manual_server",
    "Enqueued": "enqueued",
    "FaultyStorage": "faults",
    "Handles": "conformance.scene",
    "LockConformance": "conformance.locks",
    "ManualClock": "manual_clock",
    "MovableClock": "movable_clock",
    "RetryConformance": "conformance.retries",
    "RowStorageConformance": "conformance.storage",
    "Scene": "conformance.scene",
    "SerializerConformance": "conformance.serializers",
    "ServerConformance": "conformance.server",
    "StorageConformance": "conformance.storage",
    "Tester": "tester",
    "eventually": "waiting",
    "replaced": ".resource",
    "requires": "conformance.kit",
}


def __getattr__(name: str) -> object:
    """Load the module of a name when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name.endswith("Conformance"):
        _explain_assertions()
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def _explain_assertions() -> None:
    """Make pytest show the values in the kit's failed assertions, as it does for a user's own tests."""
    import pytest

    parts = ("locks", "model", "operations", "retries", "scene", "serializers", "server", "storage")
    kit = (f"{__name__}.conformance.{part}" for part in parts)
    pytest.register_assert_rewrite(*(module for module in kit if module not in sys.modules))


def __dir__() -> list[str]:
    """Return the public names of this module."""
    return sorted(__all__)
