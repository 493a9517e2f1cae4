"""Random operations that depend only on a seed; if one breaks a rule, the last operations are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

from firelock.storage import Storage
from firelock.testing.conformance.scene import Handles, Scene

_T = TypeVar("_T")


class SeededOperations:
    """A run of random operations on one store, using this number of handles."""

    def __init__(self, open_handle: Callable[[], Storage], seed: int, handles: int = 2) -> None:
        self.random = Random(seed)  # noqa: S311 - must be reproducible
        self.handles = Handles(open_handle)
        self.scene = Scene(self.handles)
        others = [self.handles.open() for _ in range(handles - 1)]
        self.storages = [self.scene.storage, *(others or [self.scene.storage])]
        self.seed = seed
        self.recorded: list[str] = []

    def record(self, operation: str) -> None:
        """Record the operation, so that it is shown if this or a later operation breaks a rule."""
        self.recorded.append(operation)

    def some(self, things: Sequence[_T]) -> _T | None:
        """Return one of the objects; None if there are none."""
        return self.random.choice(things) if things else None

    def close(self) -> None:
        """Close every handle."""
        self.handles.close()

    def run(self, operations: int) -> None:
        """Perform this number of operations, none of which may break a rule.

        Raises:
            AssertionError: If an operation breaks a rule; the message contains the seed and the last
                operations.
        """
        try:
            for _ in range(operations):
                self.perform()
            self.end()
        except AssertionError as error:
            last, number = "\n  ".join(self.recorded[-12:]), len(self.recorded)
            raise AssertionError(f"{error}\nseed {self.seed}, operation {number}:\n  {last}") from error

    def perform(self) -> None:
        """Perform one operation."""
        raise NotImplementedError

    def end(self) -> None:
        """Check the rules that hold after the last operation."""
