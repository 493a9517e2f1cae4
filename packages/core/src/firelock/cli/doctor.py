"""`firelock doctor`: what is wrong, and how to mend it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from firelock.cli.commands import add_command
from firelock.cli.problem import Exit
from firelock.cli.screen import Cell, Screen
from firelock.cli.source import has_source, open_app, project_table

if TYPE_CHECKING:
    from firelock.app import Firelock
    from firelock.cli.commands import Commands
    from firelock.storage import Finding

__all__ = ["Diagnosis", "add", "diagnose"]

_MICROS = 1_000_000
_WIDEST_SKEW = 2 * _MICROS


def add(commands: Commands) -> None:
    """The command exists."""
    add_command(
        commands, "doctor", "Find what is wrong, and how to mend it.", _examine,
        more=(
            "It looks at storage, clocks, servers, queues, tasks, recurring jobs and continuations. With\n"
            "--app it also compares waiting jobs with the app's tasks. Exit code 1 if anything is wrong."
        ),
        examples=(
            "firelock doctor --storage sqlite:///jobs.db",
            "firelock doctor --app shop.jobs:fire --json",
        ),
    )  # fmt: skip


@attrs.frozen
class Diagnosis:
    """What was looked at, and what was found."""

    about: Mapping[str, str]
    findings: Sequence[Finding]

    @property
    def has_errors(self) -> bool:
        """Tell whether anything does not work as it is."""
        return any(finding.is_error for finding in self.findings)


def _examine(options: argparse.Namespace, screen: Screen) -> int:
    is_imported = has_source(options) and bool(options.app or project_table().get("app"))
    app = open_app(options, is_imported=is_imported)
    try:
        diagnosis = diagnose(app, host_clock=lambda: time.time_ns() // 1000, knows_tasks=is_imported)
    finally:
        app.close()
    if screen.is_json:
        findings = [attrs.asdict(finding) for finding in diagnosis.findings]
        screen.json(
            {"is_well": not diagnosis.has_errors, "about": dict(diagnosis.about), "findings": findings}
        )
    else:
        _show(screen, diagnosis)
    return Exit.FAILED if diagnosis.has_errors else Exit.DONE


def _show(screen: Screen, diagnosis: Diagnosis) -> None:
    screen.facts(list(diagnosis.about.items()))
    for finding in sorted(diagnosis.findings, key=lambda finding: not finding.is_error):
        word = Cell("error    ", "bold red") if finding.is_error else Cell("warning  ", "yellow")
        screen.line()
        screen.line(word, Cell(finding.what, "bold"))
        screen.line("         ", finding.mend)
    screen.line()
    errors = sum(finding.is_error for finding in diagnosis.findings)
    warnings = len(diagnosis.findings) - errors
    if not diagnosis.findings:
        screen.line(Cell("All is well.", "green"))
    else:
        screen.line(f"{_count(errors, 'error')}, {_count(warnings, 'warning')}.")


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


# ---- looking ---------------------------------------------------------------------------------------------


def diagnose(app: Firelock, *, host_clock: Callable[[], int], knows_tasks: bool) -> Diagnosis:
    """Return what is found, as far as the storage answers.

    Args:
        app: what to look at.
        host_clock: this host's time in micros.
        knows_tasks: whether the app's tasks were imported, so that jobs can be compared with them.
    """
    from firelock.cli import checks  # noqa: PLC0415 - loaded with an app only
    from firelock.errors import StorageError  # noqa: PLC0415
    from firelock.storage import Finding  # noqa: PLC0415

    about: dict[str, str] = {"storage": app.storage.url}
    findings: list[Finding] = []
    try:
        schema = checks.check_schema(app.storage.schema())
        if schema is not None:
            return Diagnosis(about, [schema])
        findings += checks.check_clock(_skew(app, host_clock), _WIDEST_SKEW)
        about.update(app.storage.describe())
        findings += app.storage.diagnose()
        sight = checks.look(app, knows_tasks=knows_tasks)
        about.update(sight.about())
        findings += checks.check_all(sight)
    except StorageError as error:
        mend = "Start it, or mend its address; check name, port, password and the rights on a file."
        findings.append(Finding(True, str(error), mend))
    return Diagnosis(about, findings)


def _skew(app: Firelock, host_clock: Callable[[], int]) -> int:
    """Return by how much the storage's clock is ahead of this host's, the round trip taken out."""
    before = host_clock()
    there = app.storage.clock()
    return there - (before + host_clock()) // 2
