"""The clock of a storage or lock provider, which tests can move instead of sleeping."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class MovableClock(Protocol):
    """The attribute that the kits require of a store in addition to its verbs."""

    clock_offset: int  # the number of micros added to the store's clock


def movable(store: object) -> MovableClock:
    """Return the store if its clock can be moved.

    Raises:
        TypeError: If the store has no `clock_offset`.
    """
    if not isinstance(store, MovableClock):
        raise TypeError(
            f"{type(store).__name__} has no clock_offset; add this attribute, a number of micros that is "
            "added to its clock, so that tests can move its time instead of sleeping."
        )
    return store
