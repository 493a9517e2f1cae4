"""The model test: random operations must have the same results on any storage and on `MemoryStorage`.

`machine` draws the operations; `twin` applies each of them to both storages and compares the results.
"""

from __future__ import annotations

from firelock.testing.conformance.model.machine import StorageMachine, machine_for, run_machine

__all__ = ["StorageMachine", "machine_for", "run_machine"]
