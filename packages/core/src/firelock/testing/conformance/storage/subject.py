"""The fixtures of the storage kit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import ClassVar

import pytest

from firelock.storage import Feature, Storage
from firelock.testing.conformance.flow_scene import FlowScene
from firelock.testing.conformance.kit import NOT_OFFERED, REPORTED, Conformance, required_features
from firelock.testing.conformance.locks import LockHandles
from firelock.testing.conformance.scene import Handles, Scene, opener


def offers_or_skips(storage: Storage, feature: Feature) -> None:
    """The test goes on only where the storage declares the feature."""
    if feature not in storage.features:
        pytest.skip(f"{NOT_OFFERED}{feature}")


class StorageFixtures(Conformance):
    """Give `storage_url`, an EMPTY store that the kit may wipe; or `open_handle`, where there is no URL."""

    patience: ClassVar[float] = 30.0
    """Seconds after which a thread that should have ended counts as hanging."""

    @pytest.fixture
    def storage_url(self) -> str:
        """Return the URL of an empty store; every test may get the same one."""
        raise NotImplementedError(
            f"{type(self).__name__} has to define storage_url: an EMPTY store that the kit may wipe."
        )

    @pytest.fixture
    def open_handle(self, storage_url: str) -> Callable[[], Storage]:
        """Return a function that opens one more handle of the store."""
        return opener(storage_url)

    @pytest.fixture
    def open_transaction(self) -> Callable[[bool], AbstractContextManager[object]]:
        """Return a function: told whether to commit, a context manager of a transaction as `within` takes it.

        Only for storages that join transactions. It ends by a commit or a rollback as it was told.
        """
        pytest.skip("transactions are offered; define the fixture open_transaction to prove it")

    @pytest.fixture
    def lock_job(self) -> Callable[[str], AbstractContextManager[object]]:
        """Return a function: given a job's id, a context manager in which somebody else has locked its row.

        Only for storages with locks of rows. It is another connection than any of the storage's, as the
        transaction of an application, or a person at the database's shell, would have one. Without it the
        tests of locked rows count as not offered.
        """
        pytest.skip(f"{NOT_OFFERED}locks of rows")

    @pytest.fixture
    def make_newer_schema(self) -> Callable[[], None]:
        """Return a function by which the store says that a later release laid it out, unknown to this code.

        Only for storages with a schema. What it wrote is gone when the test has ended.
        """
        pytest.skip("define the fixture make_newer_schema to prove that a newer schema is refused")

    @pytest.fixture
    def open_unreachable(self) -> Callable[[], Storage]:
        """Return a function that opens a handle of a store out of reach: a wrong port, a file in the way.

        Only for storages with a driver, a network or a file.
        """
        pytest.skip("define the fixture open_unreachable to prove that no driver's error leaks")

    @pytest.fixture
    def break_driver(self) -> Callable[[Storage], None]:
        """Return a function: given a handle that has been used, each later call of its driver raises.

        Only for storages with a driver. Closing the driver's connection without the handle's knowledge is the
        usual way; the handle must not be able to open another one.
        """
        pytest.skip(
            "define the fixture break_driver to prove that no driver's error leaks from a used handle"
        )

    @pytest.fixture
    def handles(
        self, open_handle: Callable[[], Storage], request: pytest.FixtureRequest
    ) -> Iterator[Handles]:
        """Yield the test's handles; the store is empty."""
        handles = Handles(open_handle)
        try:
            name = handles.first.url.partition(":")[0] or type(handles.first).__name__
            request.node.user_properties.append((REPORTED, name))
            for feature in required_features(request.function):
                offers_or_skips(handles.first, feature)
            yield handles
        finally:
            handles.close()

    @pytest.fixture
    def scene(self, handles: Handles) -> Scene:
        """Return the store with jobs and sessions at hand."""
        return Scene(handles)

    @pytest.fixture
    def flow(self, handles: Handles) -> FlowScene:
        """Return the store with batches and memos at hand."""
        return FlowScene(handles)

    @pytest.fixture
    def storage(self, handles: Handles) -> Storage:
        """Return the first handle."""
        return handles.first

    @pytest.fixture
    def locks(self, handles: Handles) -> LockHandles:
        """Return the store's handles as keepers of locks."""
        return handles
