"""The clock of a storage or lock provider, as tests move it instead of sleeping."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class MovableClock(Protocol):
    """What the kits ask of a store besides its verbs."""

    clock_offset: int  # micros that are added to its clock


def movable(store: object) -> MovableClock:
    """Return the store as one whose time can be moved.

    Raises:
        TypeError: it has no `clock_offset`.
    """
    if not isinstance(store, MovableClock):
        raise TypeError(
            f"{type(store).__name__} has no clock_offset: micros that are added to its clock, so that tests "
            "can move its time instead of sleeping."
        )
    return store
