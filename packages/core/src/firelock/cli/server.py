"""`firelock server`: runs jobs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from firelock.cli.commands import describe, whole
from firelock.cli.problem import Exit, Problem
from firelock.cli.source import app_spec, project_table, table_in_environment
from firelock.cli.text import visible

if TYPE_CHECKING:
    from firelock.cli.screen import Screen

__all__ = ["configure"]


def configure(parser: argparse.ArgumentParser) -> None:
    """The parser takes what the command can be told."""
    describe(
        parser, _serve,
        more=(
            "A supervisor starts processes that import the app and run its jobs. SIGTERM or Ctrl-C stops in\n"
            "order: running jobs have the grace time to end. A second signal hurries, a third one kills."
        ),
        examples=(
            "firelock server shop.jobs:fire",
            "firelock server shop.jobs:fire --queues critical,default --workers 20   strict order",
            "firelock server shop.jobs:fire --queues critical:3,default:1            by weight",
            "firelock server shop/jobs.py:fire --processes 4",
        ),
    )  # fmt: skip
    parser.add_argument("spec", metavar="MODULE:NAME", nargs="?", help="the app, as shop.jobs:fire")
    parser.add_argument(
        "--queues", metavar="LIST", help="which queues, and which first; every one by default"
    )
    parser.add_argument(
        "--workers", type=whole(10_000), metavar="N", help="threads in all; five a core by default"
    )
    parser.add_argument("--async-workers", type=whole(), metavar="N", help="async jobs at once in a process")
    parser.add_argument("--processes", type=whole(), default=1, metavar="N", help="processes: 1")
    parser.add_argument("--name", metavar="TEXT", help="for people; host:pid by default")
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        dest="imports",
        metavar="MODULE",
        help="a module with more tasks",
    )
    parser.add_argument("--verbose", action="store_true", help="log everything")


def _serve(options: argparse.Namespace, screen: Screen) -> int:
    import logging  # noqa: PLC0415 - loaded where there is something to log

    from firelock.queue_choice import parse_queues  # noqa: PLC0415 - other commands run no server
    from firelock.server.process_state import log_to_stderr  # noqa: PLC0415
    from firelock.server.supervisor import ServerOptions, Supervisor  # noqa: PLC0415

    spec = options.spec or app_spec(options)
    if spec is None:
        message = "firelock server needs to know which app to run."
        hint = 'Name it, as shop.jobs:fire, or write app = "shop.jobs:fire" below [tool.firelock].'
        raise Problem(message, hint=hint, code=Exit.USAGE)
    parse_queues(options.queues)  # a wrong one is said here, before any process starts
    log_to_stderr(logging.DEBUG if options.verbose else logging.INFO)
    server = ServerOptions(
        spec,
        queues=options.queues,
        workers=options.workers,
        async_workers=options.async_workers,
        processes=options.processes,
        name=options.name,
        imports=tuple(options.imports),
        storage=options.storage,
        is_verbose=options.verbose,
    )

    def say(line: str) -> None:
        screen.line(visible(line))
        screen.flush()

    with table_in_environment(project_table()):
        return Supervisor(server, say=say).run()
