"""`firelock server` runs a server; `firelock servers` lists servers and ends worker processes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from firelock.cli.called import as_called
from firelock.cli.commands import Problem, add_command, add_group, describe, record_change, whole
from firelock.cli.health import add_probe_options, probe_place
from firelock.cli.json_output import server_json
from firelock.cli.screen import Cell, Column, Piece, Screen, discard_output, visible
from firelock.cli.source import app_spec, connected, project_table, table_in_environment
from firelock.model.text import age

if TYPE_CHECKING:
    from firelock.control.servers import ServerView


def configure_server(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to the parser."""
    describe(
        parser, _serve,
        more=(
            "A supervisor starts worker processes, which import the app and run its jobs. After SIGTERM or\n"
            "Ctrl-C, running jobs have the grace time to finish. A second signal ends the grace time; a\n"
            "third one kills all processes."
        ),
        examples=(
            "firelock server shop.jobs:fire",
            "firelock server shop.jobs:fire --queues critical,default --workers 20   strict order",
            "firelock server shop.jobs:fire --queues critical:3,default:1            by weight",
            "firelock server shop/jobs.py:fire --processes 4",
        ),
    )  # fmt: skip
    parser.add_argument("spec", metavar="MODULE:NAME", nargs="?", help="app, for example shop.jobs:fire")
    parser.add_argument("--queues", metavar="LIST", help="queues, in order or by weight (default: all)")
    parser.add_argument(
        "--workers", type=whole(10_000), metavar="N", help="threads in all (default: five per core)"
    )
    parser.add_argument("--async-workers", type=whole(), metavar="N", help="coroutines per worker process")
    parser.add_argument("--processes", type=whole(), default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--name", metavar="TEXT", help="name of the server (default: host:pid)")
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        dest="imports",
        metavar="MODULE",
        help="additional module with tasks (repeatable)",
    )
    _add_bounds(parser)
    add_probe_options(parser)
    _add_log_options(parser)


def _add_bounds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-jobs-per-process", type=whole(10**9), default=0, metavar="N",
        help="jobs after which a worker process is replaced",
    )  # fmt: skip
    parser.add_argument(
        "--max-memory-per-process", type=whole(10**6), default=0, metavar="MB",
        help="memory above which a worker process is replaced",
    )  # fmt: skip


def _add_log_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verbose", action="store_true", help="log debug messages")
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="text (default), or one JSON object per line",
    )
    parser.add_argument(
        "--log-meta", type=_names, default=(), metavar="NAMES",
        help="metadata of jobs to add to their log records: request_id,tenant",
    )  # fmt: skip


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _serve(options: argparse.Namespace, screen: Screen) -> int:
    import logging  # noqa: PLC0415 - only loaded for logging

    from firelock.server.logs import LogFormat, log_to_stderr  # noqa: PLC0415 - other commands run no server
    from firelock.server.queue_choice import parse_queues  # noqa: PLC0415
    from firelock.server.supervisor import ServerOptions, Supervisor  # noqa: PLC0415

    spec = options.spec or app_spec(options)
    if spec is None:
        raise Problem(
            "firelock server needs an app.",
            hint='Pass it, for example shop.jobs:fire, or set app = "shop.jobs:fire" in [tool.firelock].',
        )
    parse_queues(options.queues)  # reports an invalid list before any process starts
    probe_host, probe_port = probe_place(options)
    style = LogFormat(options.log_format)
    log_to_stderr(logging.DEBUG if options.verbose else logging.INFO, style, options.log_meta)
    server = ServerOptions(
        spec, queues=options.queues, workers=options.workers, async_workers=options.async_workers,
        processes=options.processes, name=options.name, imports=tuple(options.imports),
        storage=options.storage, is_verbose=options.verbose, log_format=style, log_meta=options.log_meta,
        max_jobs_per_process=options.max_jobs_per_process,
        max_memory_per_process=options.max_memory_per_process,
        probe_port=probe_port, probe_host=probe_host,
    )  # fmt: skip

    def say(line: str) -> None:
        if style is LogFormat.JSON:
            logging.getLogger("firelock.server").info("%s", line.strip())
            return
        try:
            screen.line(visible(line))
            screen.flush()
        except OSError as error:  # the reader of the pipe has closed it, or the disk is full
            discard_output()
            logging.getLogger("firelock.server").warning(
                "Cannot write to standard output: %s. The server continues.\n%s", error, line.rstrip()
            )

    with table_in_environment(project_table()):
        return Supervisor(server, say=say).run()


_COLUMNS = (
    Column("SERVER", is_whole=True),
    Column("STATE", is_whole=True),
    Column("HOST"),
    Column("QUEUES"),
    Column("WORKERS", is_number=True),
    Column("BUSY", is_number=True),
    Column("PROCESSES", is_number=True),
    Column("STARTED", is_whole=True),
)
_STYLES = {"running": "green", "ended": "bright_black", "silent": "bold red", "lost": "bold red"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the group's commands to the parser."""
    group = add_group(parser)
    add_command(group, "list", "List servers, including those that ended or were lost within a day.", _list)
    end = add_command(
        group, "end-process", "End the worker processes of jobs that do not stop.",
        _end_process,
        more=(
            "Delete the job first. Within a heartbeat, its server replaces the worker process. Other jobs\n"
            "of the old process have the grace time to finish; then they return to their queues. An\n"
            "embedded server does not end its process."
        ),
        examples=("firelock servers end-process 01a21072-9d46-7c87-a484-8087cf5d557e",),
    )  # fmt: skip
    end.add_argument("ids", metavar="JOB", nargs="+", help="a job that the worker process runs")


def _list(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:
        now = app.client.clock.now()
        servers = app.servers.list()
    screen.listing(
        "servers", (server_json(server, now) for server in servers),
        _COLUMNS, (_row(server, now) for server in servers),
        empty=as_called("No server has run within a day; start one: firelock server app:fire"),
    )  # fmt: skip


def _end_process(options: argparse.Namespace, screen: Screen) -> None:
    with connected(options) as app:

        def end(job_id: str) -> None:
            session = app.jobs.get(job_id).record().session
            if session is None:
                raise Problem(f"No worker process runs job {job_id}.")
            ended = app.servers.end_process(session).session
            record_change(app, "server.end_process", ended.server, session=session, pid=ended.pid)

        screen.each(options.ids, "worker process ends", end)


def _row(server: ServerView, now: int) -> list[Piece]:
    state = _state(server, now)
    alive = [record for record in server.sessions if record.is_alive]
    workers = max((record.session.workers for record in alive), default=0)
    return [
        server.name,
        Cell(state, _STYLES.get(state, "yellow")),
        server.host,
        server.queues,
        workers,
        server.busy,
        len(alive),
        age(min(record.session.started_at for record in server.sessions), now),
    ]


def _state(server: ServerView, now: int) -> str:
    """Return the `ServerState`, or one of two additional states.

    "silent" means that the server's sessions have expired, but no server has ended them yet. "closing" means
    that its sessions were ended, but other transactions still lock rows of its jobs.
    """
    if server.is_alive and not server.living(now):
        return "silent"
    if server.is_closing and not server.is_alive:
        return "closing"
    return str(server.state_at(now))
