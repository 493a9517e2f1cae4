"""The dashboard's plugin, which adds the command `firelock dashboard app:fire` and hooks to an app."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from firelock import Command, hookimpl
from firelock_dashboard import hookspecs


@hookimpl
def register_hookspecs() -> object:
    """Return the hooks through which other plugins extend the dashboard."""
    return hookspecs


@hookimpl
def register_commands() -> Sequence[Command]:
    """Return the command, which imports its dependencies when it runs."""
    return [Command("dashboard", "Show and change jobs in a browser.", _configure, _run)]


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target", metavar="MODULE:APP", nargs="?",
        help="the app, as for firelock server; or the word link, to print a one-time link",
    )  # fmt: skip
    parser.add_argument("of", metavar="MODULE:APP", nargs="?", help="after link: the app")
    parser.add_argument(
        "--at",
        metavar="URL",
        default="http://127.0.0.1:8787/",
        help="with link: the address of the dashboard (default: %(default)s)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=8787, help="the port (default: 8787); 0 for any free port"
    )
    parser.add_argument("--open", action="store_true", help="open the dashboard in the browser")
    parser.add_argument("--read-only", action="store_true", help="leave out all actions")
    parser.add_argument(
        "--title", default="Firelock", help="the title at the top of each page (default: Firelock)"
    )
    parser.add_argument("--environment", metavar="WORD", help="a word shown as a ribbon, such as production")
    parser.add_argument("--prefix", metavar="PATH", help="the path under which a proxy serves the dashboard")
    parser.add_argument(
        "--user",
        metavar="NAME",
        help="require this user name and the password in FIRELOCK_DASHBOARD_PASSWORD",
    )


def _run(options: argparse.Namespace) -> int:
    from firelock_dashboard.command import link, serve  # noqa: PLC0415 - other commands do not need it

    return link(options) if options.target == "link" else serve(options)
