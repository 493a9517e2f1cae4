"""A storage around which nothing fails yet is the storage that it is around."""

from __future__ import annotations

import pytest

from firelock.plugins.loader import open_storage
from firelock.testing import FaultyStorage, StorageConformance


class TestFaultless(StorageConformance):
    model_runs = 10  # of the model, which takes all of them; here each verb has to be passed on

    @pytest.fixture
    def open_handle(self):
        return lambda: FaultyStorage.around(open_storage("memory://faultless"))
