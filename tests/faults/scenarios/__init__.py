"""The scenarios by name. Each module of this package is a group of scenarios, which it registers."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from tests.faults.scenarios.base import SCENARIOS, NotHere, Scenario, Size

__all__ = ["SCENARIOS", "NotHere", "Scenario", "Size"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
