"""Who may import whom: the contracts of pyproject.toml, and what import-linter cannot say."""

from __future__ import annotations

import subprocess
import sys

from tests.core.fakes import unmeasured
from tests.repository.sources import ROOT, calls, imports, loads, package_sources

DOORS = (
    "firelock", "firelock.storage", "firelock.storage.batches", "firelock.limits", "firelock.testing",
    "firelock.integrations.django",
)  # fmt: skip

# Rules that stand once in the core and are words and links in the dashboard, of the same house: what is wrong
# with who runs jobs, what a link asks, what answers a signal, whose output an argument takes. No user has a
# use for them, so they stand in no door.
ROOMS = {
    "firelock_dashboard": (
        "firelock.arguments.references",
        "firelock.control.doctor",
        "firelock.control.limits",
        "firelock.control.servers",
        "firelock.flows.approval",
        "firelock.flows.signals",
        "firelock.jobs.blocked_by",
    )
}

# The contract of pyproject.toml says the same of what they import.
PURE = ("model", "limits", "retry", "schedules", "storage.rules", "storage.batches")
READS_THE_CLOCK = {"firelock.model.clock", "firelock.model.ids", "firelock.model.aio"}
CLOCK_READS = (".now", ".utcnow", ".today", ".fromtimestamp", "time.time", "time.monotonic")

# Each would be paid by everyone who imports firelock, for what only some of them use.
LOADED_WHEN_USED = {
    "asyncio",
    "cattrs",
    "croniter",
    "multiprocessing",
    "opentelemetry",
    "prometheus_client",
    "redis",
    "rich",
    "sentry_sdk",
    "sqlalchemy",
    "sqlite3",
}

# Annotations may name its Converter anywhere; these alone need the library when a program runs.
LOAD_CATTRS = {"firelock.arguments.conversion", "firelock.storage.row_storage"}


def is_pure(module):
    return module not in READS_THE_CLOCK and any(
        module == f"firelock.{name}" or module.startswith(f"firelock.{name}.") for name in PURE
    )


def test_the_import_contracts_hold():
    """Every contract of [tool.importlinter] is kept; asked elsewhere, since asking silences loggers."""
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"

    asked = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (0, "") == (asked.returncode, asked.stderr), asked.stdout


def test_backends_and_dashboard_enter_by_the_doors():
    """Outside the core, firelock is imported by its doors only: a third party can do all that we do."""
    outside = [source for source in package_sources() if not source.name.startswith("packages/core/")]

    other_ways_in = [
        f"{source.name}:{line} imports {name}"
        for source in outside
        for doors in ((*DOORS, *ROOMS.get(source.module.partition(".")[0], ())),)
        for line, name in imports(source.tree)
        if name.split(".")[0] == "firelock" and name not in doors and name.rpartition(".")[0] not in doors
    ]

    assert other_ways_in == []


def test_what_decides_reads_no_clock():
    """The modules that decide are told the instant: they never ask for it, and they open nothing."""
    pure = [source for source in package_sources() if is_pure(source.module)]

    reads = [
        f"{source.name}:{call.lineno} calls {name}"
        for source in pure
        for call, name in calls(source.tree)
        if name.endswith(CLOCK_READS) or name == "open"
    ]

    assert pure != []
    assert reads == []


def test_only_arguments_and_rows_load_cattrs():
    """What else knows of converters is passed one."""
    importers = {
        source.module
        for source in package_sources()
        for _, name in loads(source.tree)
        if name.split(".")[0] == "cattrs"
    }

    assert importers == LOAD_CATTRS


def test_importing_firelock_stays_cheap():
    """`import firelock` loads no driver and nothing that only some programs use."""
    program = "import sys, firelock; print(*sorted(sys.modules))"

    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=unmeasured()
    ).stdout

    assert set(loaded.split()) & LOADED_WHEN_USED == set()
