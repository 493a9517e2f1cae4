"""Random steps that depend only on a seed; if a step breaks a rule, the last steps are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

from firelock.storage import Storage
from firelock.testing.conformance.scene import Handles, Scene

_T = TypeVar("_T")


class SeededSteps:
    """A run of random steps on one store, through this number of handles."""

    def __init__(self, open_handle: Callable[[], Storage], seed: int, handles: int = 2) -> None:
        self.random = Random(seed)  # noqa: S311 - must be reproducible
        self.handles = Handles(open_handle)
        self.scene = Scene(self.handles)
        others = [self.handles.open() for _ in range(handles - 1)]
        self.storages = [self.scene.storage, *(others or [self.scene.storage])]
        self.seed = seed
        self.told: list[str] = []

    def tell(self, step: str) -> None:
        """Record the step, so that it is shown if this or a later step breaks a rule."""
        self.told.append(step)

    def some(self, things: Sequence[_T]) -> _T | None:
        """Return one of the objects; None if there are none."""
        return self.random.choice(things) if things else None

    def close(self) -> None:
        """Close every handle."""
        self.handles.close()

    def run(self, steps: int) -> None:
        """Make this number of steps, each of which must keep the rules.

        Raises:
            AssertionError: If a step breaks a rule; the message has the seed and the last steps.
        """
        try:
            for _ in range(steps):
                self.step()
            self.end()
        except AssertionError as error:
            last = "\n  ".join(self.told[-12:])
            raise AssertionError(f"{error}\nseed {self.seed}, step {len(self.told)}:\n  {last}") from error

    def step(self) -> None:
        """Make one step."""
        raise NotImplementedError

    def end(self) -> None:
        """Check the rules that hold after the last step."""
