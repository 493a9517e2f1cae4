"""Installed packages: `firelock plugins`, `firelock version`, and a placeholder for a missing dashboard."""

from __future__ import annotations

import argparse
import platform
from typing import TYPE_CHECKING, NoReturn

from firelock.cli.commands import Exit, Problem, describe
from firelock.cli.screen import Cell, Column, Piece, Screen
from firelock.cli.source import open_app

if TYPE_CHECKING:
    from firelock.plugins.loader import BrokenPlugin, Plugins

_DISTRIBUTIONS = ("firelock", "firelock-sql", "firelock-redis", "firelock-dashboard")


def configure_plugins(parser: argparse.ArgumentParser) -> None:
    """Configure the parser's command to list plugins."""
    describe(
        parser, _plugins,
        more=(
            "Plugins are listed in the order in which their hooks run; with --app also those of the app. An\n"
            "installed plugin that prevents apps from starting is listed as broken, and the exit code is 1.\n"
            "To disable a plugin, set FIRELOCK_PLUGINS=-NAME."
        ),
    )  # fmt: skip


def configure_version(parser: argparse.ArgumentParser) -> None:
    """Configure the parser's command to show versions."""
    describe(parser, _version)


def configure_dashboard(parser: argparse.ArgumentParser) -> None:
    """Configure the command to report that no plugin provides a dashboard, unless a plugin replaces it."""
    describe(parser, _no_dashboard)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _no_dashboard(_: argparse.Namespace, __: Screen) -> NoReturn:
    hint = "Install a dashboard, or use firelock jobs list and firelock doctor."
    raise Problem("No installed plugin offers a dashboard.", hint=hint)


def _plugins(options: argparse.Namespace, screen: Screen) -> int:
    plugins, broken = _loaded(options)
    infos = plugins.listing()
    code = Exit.FAILED if broken else Exit.DONE
    if screen.is_json:
        screen.json({
            "plugins": [
                {"name": info.name, "distribution": info.distribution, "version": info.version,
                 "hooks": list(info.hooks)}
                for info in infos
            ],
            "broken": [
                {"name": each.name, "distribution": each.distribution, "version": each.version,
                 "problem": each.problem}
                for each in broken
            ],
        })  # fmt: skip
        return code
    columns = (Column("PLUGIN", is_whole=True), Column("FROM"), Column("VERSION"), Column("HOOKS"))
    rows: list[list[Piece]] = [
        [info.name, info.distribution, info.version, ", ".join(info.hooks)] for info in infos
    ]
    rows += [[each.name, each.distribution, each.version, Cell("broken", "bold red")] for each in broken]
    screen.table(columns, rows)
    for each in broken:
        screen.line()
        screen.line(each.problem)
    return code


def _loaded(options: argparse.Namespace) -> tuple[Plugins, list[BrokenPlugin]]:
    """Return the working and the broken plugins; if any is broken, the app's own plugins may be missing."""
    from firelock.errors import ConfigurationError  # noqa: PLC0415 - loaded for this command only
    from firelock.plugins.loader import load_working  # noqa: PLC0415

    plugins, broken = load_working()
    if options.app:
        try:
            return open_app(options).plugins, broken
        except ConfigurationError:
            if not broken:
                raise
    return plugins, broken


def _version(_: argparse.Namespace, screen: Screen) -> int:
    from firelock.plugins.loader import installed_plugins  # noqa: PLC0415 - loaded for this command only

    versions = {**_installed(), "python": platform.python_version()}
    plugins = [(name, source, version) for name, _, source, version in installed_plugins()]
    if screen.is_json:
        listed = [
            {"name": name, "distribution": source, "version": version} for name, source, version in plugins
        ]
        screen.json({**versions, "plugins": listed})
    else:
        others = [
            (source, f"{version} (plugin {name})")
            for name, source, version in plugins
            if source not in _DISTRIBUTIONS
        ]
        screen.facts([*versions.items(), *others])
    return 0


def _installed() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - reads from disk

    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
