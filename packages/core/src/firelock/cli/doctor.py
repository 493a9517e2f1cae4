"""`firelock doctor`: finds problems and shows how to fix them."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

import attrs

from firelock.cli.called import as_called
from firelock.cli.commands import Exit, describe
from firelock.cli.screen import Cell, Screen
from firelock.cli.source import has_source, open_app, project_table
from firelock.model.report import Severity
from firelock.model.text import number_of

if TYPE_CHECKING:
    from firelock.app import Firelock
    from firelock.control.doctor import Diagnosis


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to the parser."""
    describe(
        parser, _examine,
        more=(
            "Checks the storage, clocks, servers, queues, tasks, recurring jobs, continuations, limits and\n"
            "unique keys. With --app, it also compares waiting jobs with the app's tasks. The exit code is\n"
            "1 if it finds an error."
        ),
        examples=(
            "firelock doctor --storage sqlite:///jobs.db",
            "firelock doctor --app shop.jobs:fire --json",
        ),
    )  # fmt: skip


def _examine(options: argparse.Namespace, screen: Screen) -> int:
    from firelock.control.doctor import diagnose  # noqa: PLC0415 - only loaded with an app

    is_imported = has_source(options) and bool(options.app or project_table().get("app"))
    app = open_app(options, is_imported=is_imported)
    try:
        diagnosis = diagnose(app.runtime, knows_tasks=is_imported)
        diagnosis = attrs.evolve(diagnosis, about={**diagnosis.about, "plugins": _plugins(app)})
    finally:
        app.close()
    diagnosis = attrs.evolve(
        diagnosis, findings=[attrs.evolve(one, advice=as_called(one.advice)) for one in diagnosis.findings]
    )
    if screen.is_json:
        findings = [finding.answer() for finding in diagnosis.findings]
        screen.json(
            {"is_well": not diagnosis.has_errors, "about": dict(diagnosis.about), "findings": findings}
        )
    else:
        _show(screen, diagnosis)
    return Exit.FAILED if diagnosis.has_errors else Exit.DONE


def _plugins(app: Firelock) -> str:
    """Return the app's plugins, without the core's own: "tenants (acme-tenants 1.2), Pager#0 (app)"."""
    return ", ".join(str(info) for info in app.plugins.listing() if info.name != "core")


def _show(screen: Screen, diagnosis: Diagnosis) -> None:
    screen.facts(list(diagnosis.about.items()))
    for finding in sorted(diagnosis.findings, key=lambda finding: [*Severity].index(finding.severity)):
        screen.line()
        screen.line(
            Cell(f"{finding.severity:<9}", _COLOURS[finding.severity]), Cell(finding.what, "bold"),
            Cell(f"  {finding.code}", "bright_black"),
        )  # fmt: skip
        screen.line("         ", finding.advice)
    screen.line()
    if not diagnosis.findings:
        screen.line(Cell("No problems found.", "green"))
        return
    counts = Counter(finding.severity for finding in diagnosis.findings)
    screen.line(", ".join(number_of(counts[severity], severity) for severity in Severity) + ".")


_COLOURS = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "bright_black"}
