"""What is installed: `firelock plugins`, `firelock version`, and a dashboard that is not."""

from __future__ import annotations

import argparse
import platform
from typing import TYPE_CHECKING, NoReturn

from firelock.cli.commands import Problem, describe
from firelock.cli.screen import Column, Screen
from firelock.cli.source import open_app

if TYPE_CHECKING:
    from firelock.plugins.loader import Plugins

_DISTRIBUTIONS = ("firelock", "firelock-sql", "firelock-redis", "firelock-dashboard")


def configure_plugins(parser: argparse.ArgumentParser) -> None:
    """The parser's command lists plugins."""
    describe(
        parser, _plugins,
        more=(
            "They stand in the order in which their hooks run; with --app also those that the app names.\n"
            "FIRELOCK_PLUGINS=-NAME leaves one out."
        ),
    )  # fmt: skip


def configure_version(parser: argparse.ArgumentParser) -> None:
    """The parser's command says versions."""
    describe(parser, _version)


def configure_dashboard(parser: argparse.ArgumentParser) -> None:
    """The parser's command says that no plugin offers a dashboard; one that does takes its place."""
    describe(parser, _no_dashboard)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _no_dashboard(_: argparse.Namespace, __: Screen) -> NoReturn:
    hint = "firelock jobs list and firelock doctor show what is there."
    raise Problem("No installed plugin offers a dashboard.", hint=hint)


def _plugins(options: argparse.Namespace, screen: Screen) -> int:
    infos = _loaded(options).listing()
    if screen.is_json:
        screen.json({
            "plugins": [
                {"name": info.name, "distribution": info.distribution, "version": info.version,
                 "hooks": list(info.hooks)}
                for info in infos
            ]
        })  # fmt: skip
        return 0
    columns = (Column("PLUGIN", is_whole=True), Column("FROM"), Column("VERSION"), Column("HOOKS"))
    screen.table(
        columns, [[info.name, info.distribution, info.version, ", ".join(info.hooks)] for info in infos]
    )
    return 0


def _loaded(options: argparse.Namespace) -> Plugins:
    if options.app:
        return open_app(options).plugins
    from firelock.plugins.loader import Plugins  # noqa: PLC0415 - loaded for this command only

    return Plugins()


def _version(_: argparse.Namespace, screen: Screen) -> int:
    versions = {**_installed(), "python": platform.python_version()}
    if screen.is_json:
        screen.json(versions)
    else:
        screen.facts(list(versions.items()))
    return 0


def _installed() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - a look at the disk

    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
