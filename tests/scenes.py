"""Scenes for tests that examine one storage closely: jobs and sessions, given the storage's URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from firelock.storage import ClaimRequest, Storage
from firelock.testing import Handles, Scene
from firelock.testing.conformance.scene import opener


@contextmanager
def scene_at(url: str) -> Iterator[Scene]:
    """Yield the scene of an emptied storage; all its handles are closed afterwards."""
    with closing(Handles(opener(url))) as handles:
        yield Scene(handles)


def listening(storage: Storage, queues: list[str] | None = None) -> Storage:
    """Return the storage after its connection for notifications of work is open."""
    storage.claim(
        ClaimRequest(queues, 0, "nobody", 0)
    )  # a claim makes the storage report work that it may have missed
    assert storage.wait(queues, 30), "the first connection counts as news"
    return storage
