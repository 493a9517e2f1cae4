"""The permitted imports: the contracts of pyproject.toml, and rules that import-linter cannot express."""

from __future__ import annotations

import subprocess
import sys

from tests.core.fakes import unmeasured
from tests.repository.public_api import FILE as PUBLIC_API
from tests.repository.sources import ROOT, calls, imports, loads, package_sources, sources_of_tests

# The public import paths that the other packages use.
PUBLIC_PATHS = (
    "firelock",
    "firelock.integrations.django",
    "firelock.limits",
    "firelock.storage",
    "firelock.storage.batches",
)

# The dashboard shows the results of these rules as text and links: problems of servers and queues, the
# questions of approval links, the answers of signals, the sources of arguments, and the module of an app.
# Users do not need them, so they are not public.
LISTED_EXCEPTIONS = {
    "firelock_dashboard": (
        "firelock.arguments.references",
        "firelock.control.findings",
        "firelock.control.limits",
        "firelock.control.servers",
        "firelock.flows.approval",
        "firelock.flows.signals",
        "firelock.jobs.blocked_by",
        "firelock.server.embedded",
    )
}

THIRD_PARTIES = (
    "tests/end_to_end/third_party/firelock-files/",
    "tests/end_to_end/third_party/firelock-extras/",
)

# The contract in pyproject.toml has the same rule for their imports.
PURE = ("model", "limits", "retry", "schedules", "storage.rules", "storage.batches")
READS_THE_CLOCK = {"firelock.model.clock", "firelock.model.ids", "firelock.model.aio"}
CLOCK_READS = (".now", ".utcnow", ".today", ".fromtimestamp", "time.time", "time.monotonic")

# Each of these would slow down every import of firelock, but only some programs use them.
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

# Annotations may name its Converter anywhere, but only these modules need the library at run time.
LOAD_CATTRS = {"firelock.arguments.conversion", "firelock.storage.row_storage"}


def listed_paths():
    """Return the import paths in the list of the public API."""
    lines = PUBLIC_API.read_text(encoding="utf-8").splitlines()
    return {line.removesuffix(": module") for line in lines if line.endswith(": module")}


def is_pure(module):
    return module not in READS_THE_CLOCK and any(
        module == f"firelock.{name}" or module.startswith(f"firelock.{name}.") for name in PURE
    )


def test_import_contracts_are_kept():
    """The contracts are in [tool.importlinter].

    The check runs in a subprocess, because it silences loggers.
    """
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"

    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (0, "") == (run.returncode, run.stderr), run.stdout


def test_other_packages_import_public_paths():
    """The other packages use only what a third party can use.

    Each listed path and each exception is in use.
    """
    used, others = set(), []
    for source in package_sources():
        package = source.module.partition(".")[0]
        paths = {*PUBLIC_PATHS, *LISTED_EXCEPTIONS.get(package, ())}
        for line, name in imports(source.tree) if package != "firelock" else ():
            if name.split(".")[0] == "firelock":
                found = {name, name.rpartition(".")[0]} & paths
                used |= {(package, path) for path in found if path not in PUBLIC_PATHS}
                used |= {path for path in found if path in PUBLIC_PATHS}
                others += [] if found else [f"{source.name}:{line} imports {name}"]

    assert others == []
    assert used == {
        *PUBLIC_PATHS,
        *((package, path) for package, paths in LISTED_EXCEPTIONS.items() for path in paths),
    }


def test_paths_of_other_packages_are_public():
    """The list of the public API contains each of these paths."""
    assert set(PUBLIC_PATHS) <= listed_paths()


def test_distributions_of_third_parties_import_public_paths():
    """The example storages and plugins of third parties need only public paths."""
    sources = [source for source in sources_of_tests() if source.name.startswith(THIRD_PARTIES)]
    used = {
        name.rpartition(".")[0] or name
        for source in sources
        for _, name in imports(source.tree)
        if name.split(".")[0] == "firelock"
    }

    assert {"firelock", "firelock.storage", "firelock.testing"} <= used <= listed_paths()


def test_decision_modules_read_no_clock():
    """The modules that make decisions get the time as an argument.

    They never read the clock or open files.
    """
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
    """Other modules that use a converter get it as an argument."""
    importers = {
        source.module
        for source in package_sources()
        for _, name in loads(source.tree)
        if name.split(".")[0] == "cattrs"
    }

    assert importers == LOAD_CATTRS


def test_import_of_firelock_loads_few_modules():
    """`import firelock` does not load a driver or a module that only some programs use."""
    program = "import sys, firelock; print(*sorted(sys.modules))"

    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=unmeasured()
    ).stdout

    assert set(loaded.split()) & LOADED_WHEN_USED == set()
