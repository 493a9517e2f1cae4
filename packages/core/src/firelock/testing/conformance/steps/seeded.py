"""Random steps of which a seed is the whole story: the same ones each time, told where one was not just."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

from firelock.storage import Storage
from firelock.testing.conformance.scene import Handles, Scene

_T = TypeVar("_T")


class SeededSteps:
    """A run of random steps on one store, done by so many handles."""

    def __init__(self, open_handle: Callable[[], Storage], seed: int, handles: int = 2) -> None:
        self.random = Random(seed)  # noqa: S311 - the same each time
        self.handles = Handles(open_handle)
        self.scene = Scene(self.handles)
        others = [self.handles.open() for _ in range(handles - 1)]
        self.storages = [self.scene.storage, *(others or [self.scene.storage])]
        self.seed = seed
        self.told: list[str] = []

    def tell(self, step: str) -> None:
        """The step is told where one that follows is not just."""
        self.told.append(step)

    def some(self, things: Sequence[_T]) -> _T | None:
        """Return one of the things, None where there are none."""
        return self.random.choice(things) if things else None

    def close(self) -> None:
        """Every handle is closed."""
        self.handles.close()

    def run(self, steps: int) -> None:
        """So many steps are done, each of which was just.

        Raises:
            AssertionError: one was not; the message has the seed and the last steps.
        """
        try:
            for _ in range(steps):
                self.step()
            self.end()
        except AssertionError as error:
            last = "\n  ".join(self.told[-12:])
            raise AssertionError(f"{error}\nseed {self.seed}, step {len(self.told)}:\n  {last}") from error

    def step(self) -> None:
        """One step is done."""
        raise NotImplementedError

    def end(self) -> None:
        """What holds after the last step holds."""
