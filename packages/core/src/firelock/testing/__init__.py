"""The testers' door: the kit that proves a storage, a lock provider, a serializer or a retry policy.

Names are loaded when first used, so that the door opens without pytest and hypothesis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firelock.testing.conformance import requires
    from firelock.testing.handles import Handles
    from firelock.testing.locks import LockConformance
    from firelock.testing.retries import RetryConformance
    from firelock.testing.scene import Scene
    from firelock.testing.serializers import SerializerConformance
    from firelock.testing.storage import StorageConformance

__all__ = [
    "Handles",
    "LockConformance",
    "RetryConformance",
    "Scene",
    "SerializerConformance",
    "StorageConformance",
    "requires",
]

# Where each name lives, and whether pytest is to explain the assertions there.
_HOMES = {
    "Handles": "handles",
    "LockConformance": "locks",
    "RetryConformance": "retries",
    "Scene": "scene",
    "SerializerConformance": "serializers",
    "StorageConformance": "storage",
    "requires": "conformance",
}


def __getattr__(name: str) -> object:
    """Load the module of a name when the name is first used."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    if name.endswith("Conformance"):
        import pytest

        pytest.register_assert_rewrite(f"{__name__}.{_HOMES[name]}", f"{__name__}.scene")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return the names behind the door."""
    return sorted(__all__)
