"""What is wrong with a storage and those who work on it, and how to mend it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from firelock import checks
from firelock.errors import SchemaMismatch, StorageError
from firelock.storage import Finding

if TYPE_CHECKING:
    from firelock.runtime import Runtime

__all__ = ["Diagnosis", "diagnose", "host_clock"]

_MICROS = 1_000_000
_WIDEST_SKEW = 2 * _MICROS


@attrs.frozen
class Diagnosis:
    """What was looked at, and what was found."""

    about: Mapping[str, str]
    findings: Sequence[Finding]

    @property
    def has_errors(self) -> bool:
        """Tell whether anything does not work as it is."""
        return any(finding.is_error for finding in self.findings)


def host_clock() -> int:
    """Return this host's time in micros."""
    return time.time_ns() // 1000


def diagnose(runtime: Runtime, *, host_clock: Callable[[], int], knows_tasks: bool) -> Diagnosis:
    """Return what is found, as far as the storage answers.

    Args:
        runtime: what to look at.
        host_clock: this host's time in micros.
        knows_tasks: whether the app's tasks were imported, so that jobs can be compared with them.
    """
    about: dict[str, str] = {"storage": runtime.storage.url}
    findings: list[Finding] = []
    try:
        schema = checks.check_schema(runtime.storage.schema())
        if schema is not None:
            return Diagnosis(about, [schema])
        findings += checks.check_clock(_skew(runtime, host_clock), _WIDEST_SKEW)
        about.update(runtime.storage.describe())
        findings += runtime.storage.diagnose()
        sight = checks.look(runtime, knows_tasks=knows_tasks)
        about.update(sight.about())
        findings += checks.check_all(sight)
    except SchemaMismatch as error:
        findings.append(Finding(True, str(error), "Do that first; nothing else is looked at before."))
    except StorageError as error:
        mend = "Start it, or mend its address; check name, port, password and the rights on a file."
        findings.append(Finding(True, str(error), mend))
    return Diagnosis(about, findings)


def _skew(runtime: Runtime, host_clock: Callable[[], int]) -> int:
    """Return by how much the storage's clock is ahead of this host's, the round trip taken out."""
    before = host_clock()
    there = runtime.storage.clock()
    return there - (before + host_clock()) // 2
