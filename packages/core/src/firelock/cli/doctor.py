"""`firelock doctor`: what is wrong, and how to mend it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import attrs

from firelock.cli.called import as_called
from firelock.cli.commands import Exit, describe
from firelock.cli.screen import Cell, Screen
from firelock.cli.source import has_source, open_app, project_table

if TYPE_CHECKING:
    from firelock.control.doctor import Diagnosis


def configure(parser: argparse.ArgumentParser) -> None:
    """The parser takes what the command can be told."""
    describe(
        parser, _examine,
        more=(
            "It looks at storage, clocks, servers, queues, tasks, recurring jobs, continuations, limits and\n"
            "unique keys. With --app it also compares waiting jobs with the app's tasks. Exit code 1 if\n"
            "anything is wrong."
        ),
        examples=(
            "firelock doctor --storage sqlite:///jobs.db",
            "firelock doctor --app shop.jobs:fire --json",
        ),
    )  # fmt: skip


def _examine(options: argparse.Namespace, screen: Screen) -> int:
    from firelock.control.doctor import diagnose, host_clock  # noqa: PLC0415 - loaded with an app only

    is_imported = has_source(options) and bool(options.app or project_table().get("app"))
    app = open_app(options, is_imported=is_imported)
    try:
        diagnosis = diagnose(app.runtime, host_clock=host_clock, knows_tasks=is_imported)
    finally:
        app.close()
    diagnosis = attrs.evolve(
        diagnosis, findings=[attrs.evolve(one, mend=as_called(one.mend)) for one in diagnosis.findings]
    )
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
