"""A stage for tests that look at one storage closely: jobs and sessions at hand, by its URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from firelock.testing import Handles, Scene
from firelock.testing.handles import opener

__all__ = ["scene_at"]


@contextmanager
def scene_at(url: str) -> Iterator[Scene]:
    """Yield the scene of an emptied store; every handle of it is closed afterwards."""
    with closing(Handles(opener(url))) as handles:
        yield Scene(handles)
