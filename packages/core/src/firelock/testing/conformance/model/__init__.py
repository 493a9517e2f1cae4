"""The model test: random steps, done to any storage and to `MemoryStorage`, have to give the same answers.

`machine` draws the steps; `twin` does each of them to both storages and compares.
"""

from __future__ import annotations

from firelock.testing.conformance.model.machine import StorageMachine, machine_for, run_machine

__all__ = ["StorageMachine", "machine_for", "run_machine"]
