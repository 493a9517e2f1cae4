"""The kit on rows whose keys end at 511 bytes, as those of LMDB: `RowStorage` needs no code for that."""

from __future__ import annotations

import pytest

from firelock.testing import RowStorageConformance
from tests.conformance.plain_rows import PlainStorage, Store


class TestPlainRows(RowStorageConformance):
    @pytest.fixture
    def open_handle(self):
        store = Store()
        return lambda: PlainStorage(store)
