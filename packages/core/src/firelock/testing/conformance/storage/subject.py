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
    """Skip the test unless the storage declares the feature."""
    if feature not in storage.features:
        pytest.skip(f"{NOT_OFFERED}{feature}")


class StorageFixtures(Conformance):
    """The fixtures that a storage's test class inherits or defines.

    Define `storage_url`, the URL of an EMPTY store, which the kit clears, or `open_handle` if there is no
    URL.
    """

    hang_timeout: ClassVar[float] = 30.0
    """The time in seconds after which a thread that should have ended counts as hanging."""

    @pytest.fixture
    def storage_url(self) -> str:
        """Return the URL of an empty store; it may be the same for every test."""
        raise NotImplementedError(
            f"{type(self).__name__} must define storage_url, the URL of an EMPTY store, which the kit clears."
        )

    @pytest.fixture
    def open_handle(self, storage_url: str) -> Callable[[], Storage]:
        """Return a function that opens another handle of the store."""
        return opener(storage_url)

    @pytest.fixture
    def open_transaction(self) -> Callable[[bool], AbstractContextManager[object]]:
        """Return a function that opens a caller's transaction, as `within` accepts it.

        The function takes one argument, whether to commit, and returns a context manager for the transaction,
        which is committed or rolled back accordingly. Needed only for storages that join transactions.
        """
        pytest.skip("the storage declares transactions; define the fixture open_transaction to test them")

    @pytest.fixture
    def lock_job(self) -> Callable[[str], AbstractContextManager[object]]:
        """Return a function that locks the row of a job from another connection.

        The function takes the job's id and returns a context manager that keeps the row locked. The
        connection must not belong to the storage; it represents a transaction of an application, or a person
        in the database's shell. Needed only for storages with row locks. Without this fixture, the tests of
        locked rows count as not offered.
        """
        pytest.skip(f"{NOT_OFFERED}row locks")

    @pytest.fixture
    def make_newer_schema(self) -> Callable[[], None]:
        """Return a function that changes the store's schema to that of a later release, unknown to this code.

        Needed only for storages with a schema. The fixture must undo the change after the test.
        """
        pytest.skip("define the fixture make_newer_schema to test that a newer schema is refused")

    @pytest.fixture
    def open_unreachable(self) -> Callable[[], Storage]:
        """Return a function that opens a handle of an unreachable store.

        For example, the URL has a wrong port, or a file is where a folder must be. Needed only for storages
        with a driver, a network or a file.
        """
        pytest.skip("define the fixture open_unreachable to test that driver errors do not leak")

    @pytest.fixture
    def break_driver(self) -> Callable[[Storage], None]:
        """Return a function that makes each later call of a handle's driver raise an error.

        Its argument is a handle that has been used. Usually the function closes the driver's connection
        directly, not through the handle; the handle must not be able to open another one. Needed only for
        storages with a driver.
        """
        pytest.skip("define the fixture break_driver to test that driver errors of a used handle do not leak")

    @pytest.fixture
    def handles(
        self, open_handle: Callable[[], Storage], request: pytest.FixtureRequest
    ) -> Iterator[Handles]:
        """Yield the handles of the test, on an empty store."""
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
        """Return the helper that creates jobs and sessions in the store."""
        return Scene(handles)

    @pytest.fixture
    def flow(self, handles: Handles) -> FlowScene:
        """Return the helper that creates batches and memos in the store."""
        return FlowScene(handles)

    @pytest.fixture
    def storage(self, handles: Handles) -> Storage:
        """Return the first handle."""
        return handles.first

    @pytest.fixture
    def locks(self, handles: Handles) -> LockHandles:
        """Return the handles of the store as a lock provider."""
        return handles
