"""A stage for tests that look at one storage closely: jobs and sessions at hand, by its URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from firelock.storage import ClaimRequest, Storage
from firelock.testing import Handles, Scene
from firelock.testing.conformance.scene import opener


@contextmanager
def scene_at(url: str) -> Iterator[Scene]:
    """Yield the scene of an emptied store; every handle of it is closed afterwards."""
    with closing(Handles(opener(url))) as handles:
        yield Scene(handles)


def listening(storage: Storage, queues: list[str] | None = None) -> Storage:
    """Return the storage, once its connection that hears of work is there."""
    storage.claim(
        ClaimRequest(queues, 0, "nobody", 0)
    )  # whoever has looked for work hears of what it may have missed
    assert storage.wait(queues, 30), "the first connection counts as news"
    return storage
