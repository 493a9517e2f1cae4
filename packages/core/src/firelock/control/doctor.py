"""`fire.diagnose()` and `firelock doctor`: the findings, even if the storage is unreachable."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from firelock.control.findings import ERROR, NOTE, WARNING, host_clock, list_findings, take_readings
from firelock.errors import SchemaMismatch, StorageError, StorageUnavailable
from firelock.storage import Finding, SchemaState, Storage

if TYPE_CHECKING:
    from firelock.runtime import Runtime


@attrs.frozen
class Diagnosis:
    """A description of the checked storage, and the findings."""

    about: Mapping[str, str]
    findings: Sequence[Finding]

    @property
    def has_errors(self) -> bool:
        """Whether any of the findings is an error."""
        return any(finding.is_error for finding in self.findings)


def diagnose(runtime: Runtime, *, host_clock: Callable[[], int] = host_clock, knows_tasks: bool) -> Diagnosis:
    """Return the findings; an unreachable storage is one of them.

    Args:
        runtime: the app's parts to check.
        host_clock: returns this host's time in microseconds.
        knows_tasks: whether the app's tasks were imported, so that jobs can be compared with them.
    """
    about: dict[str, str] = {"storage": runtime.storage.url}
    findings: list[Finding] = []
    try:
        schema = check_schema(runtime.storage.schema())
        if schema is not None:
            return Diagnosis(about, [schema])
        about.update(runtime.storage.describe())
        findings += _check_writing(runtime.storage)
        readings = take_readings(runtime, knows_tasks=knows_tasks, host_clock=host_clock)
        about.update(readings.about())
        findings += list_findings(readings)
    except SchemaMismatch as error:
        advice = "Do this first; the other checks were skipped."
        findings.append(Finding(ERROR, "schema", str(error), advice))
    except StorageUnavailable as error:
        advice = "Start it, or correct its address. Check the user, password, port and permissions."
        findings.append(Finding(ERROR, "storage_unavailable", str(error), advice))
    except StorageError as error:
        advice = (
            "The storage refuses an operation that Firelock needs. Check the user's permissions, and check "
            "that its tables belong to this release: firelock migrate status"
        )
        findings.append(Finding(ERROR, "storage_refused", str(error), advice))
    return Diagnosis(about, findings)


def with_app_name(diagnosis: Diagnosis, name: str) -> Diagnosis:
    """Return the diagnosis with the name of the app in the commands of its advice."""
    named = [
        attrs.evolve(finding, advice=finding.advice.replace("app:fire", name))
        for finding in diagnosis.findings
    ]
    return attrs.evolve(diagnosis, findings=named)


_TEST_KIND = "doctor"
_TEST_KEYS = [f"write-{number}" for number in range(8)]
_TEST_BYTES = 1_000
"""Random bytes of a test record.

Together, the records need more than a page of any database, so that its file grows.
One long value would do as well, but MariaDB 11.8 aborts when it stores a long value on a full disk.
"""


def _check_writing(storage: Storage) -> Iterator[Finding]:
    """Write some small records and delete them. On a full disk, reads succeed but these writes fail."""
    try:
        try:
            for key in _TEST_KEYS:
                storage.put_record(_TEST_KIND, key, json.dumps(secrets.token_hex(_TEST_BYTES)))
        finally:
            for key in _TEST_KEYS:
                storage.delete_record(_TEST_KIND, key)
    except StorageUnavailable as error:
        yield Finding(
            ERROR, "not_writable", f"A test record could not be written: {error}",
            "Free space on its disk or in its memory, or allow writes. Until then, it cannot store jobs.",
        )  # fmt: skip
    except StorageError as error:
        yield Finding(
            NOTE, "write_unchecked",
            f"The write access of servers was not checked, because this user must not write: {error}",
            "Run firelock doctor as the user that runs the servers.",
        )  # fmt: skip


def check_schema(schema: SchemaState) -> Finding | None:
    """Return the schema's problem, which prevents reading other data; None if the schema is current."""
    if schema.found == schema.wanted:
        return None
    if schema.found == 0:
        what = "The storage has no schema yet; the first job or firelock migrate creates it."
        advice = "If you expected jobs here, check the address."
        return Finding(WARNING, "schema_missing", what, advice)
    if schema.found < schema.wanted:
        what = f"The storage has schema {schema.found}; this release needs {schema.wanted}."
        return Finding(ERROR, "schema_old", what, "Run firelock migrate.")
    what = f"The storage has schema {schema.found}; this release supports {schema.wanted}."
    return Finding(ERROR, "schema_new", what, "Upgrade Firelock here, or use the release that created it.")
