"""A `FaultyStorage` without any failures behaves like the storage that it wraps."""

from __future__ import annotations

import pytest

from firelock.plugins.loader import open_storage
from firelock.testing import FaultyStorage, StorageConformance


class TestFaultless(StorageConformance):
    # a reduced number: the model runs all steps itself, and here only the forwarding of verbs matters
    model_runs = 10

    @pytest.fixture
    def open_handle(self):
        return lambda: FaultyStorage.around(open_storage("memory://faultless"))
