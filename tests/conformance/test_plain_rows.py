"""The kit on rows with keys of at most 511 bytes, as in LMDB: `RowStorage` needs no code for that."""

from __future__ import annotations

import pytest

from firelock.testing import RowStorageConformance
from tests.conformance.plain_rows import PlainStorage, Store


class TestPlainRows(RowStorageConformance):
    @pytest.fixture
    def open_handle(self):
        store = Store()
        return lambda: PlainStorage(store)
