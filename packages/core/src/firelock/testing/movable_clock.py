"""The clock of a storage or lock provider, which tests move instead of sleeping."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class MovableClock(Protocol):
    """What the kits require of a store in addition to its verbs."""

    clock_offset: int  # micros, added to the store's clock


def movable(store: object) -> MovableClock:
    """Return the store as one whose clock can be moved.

    Raises:
        TypeError: the store has no `clock_offset`.
    """
    if not isinstance(store, MovableClock):
        raise TypeError(
            f"{type(store).__name__} has no clock_offset: micros that are added to its clock, so that tests "
            "can move its time instead of sleeping."
        )
    return store
