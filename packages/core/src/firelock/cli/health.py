"""`firelock health`: requests a probe from a running server, for systems whose probes run a command."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from firelock.cli.commands import Exit, Problem, describe, whole
from firelock.cli.screen import Cell, visible
from firelock.cli.source import project_table

if TYPE_CHECKING:
    from firelock.cli.screen import Screen

_LONGEST = 64 * 1024  # maximum number of bytes in a response
_EVERY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - for requests only
_OK, _UNAVAILABLE = 200, 503


def add_probe_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the address of probes."""
    parser.add_argument(
        "--probe-port", type=whole(65_535), metavar="PORT", help="port of probes and metrics (default: none)"
    )
    parser.add_argument("--probe-host", metavar="HOST", help="address of this port (default: 127.0.0.1)")


def probe_place(options: argparse.Namespace) -> tuple[str, int]:
    """Return the host and port of the probes from the options, environment or project; port 0 if unset."""
    from firelock.server.probes import LOOPBACK  # noqa: PLC0415 - only loaded for probes
    from firelock.settings import Settings  # noqa: PLC0415

    table = project_table()
    host = options.probe_host or os.environ.get("FIRELOCK_PROBE_HOST") or table.get("probe_host") or LOOPBACK
    return str(host), options.probe_port or Settings.from_environment(table).probe_port


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to the parser."""
    describe(
        parser, _check_health,
        more=(
            "Requests a probe from a server on this machine and prints the response, one line per check.\n"
            "Exit codes: 0 all checks passed, 1 a check failed, 2 no port is set, 3 no server responds."
        ),
        examples=(
            "firelock health --probe-port 8081            does it claim jobs?",
            "firelock health --probe-port 8081 --live     does it work, or must it be restarted?",
            "FIRELOCK_PROBE_PORT=8081 firelock health     in a container",
        ),
    )  # fmt: skip
    add_probe_options(parser)
    which = parser.add_mutually_exclusive_group()
    for flag, path, meaning in (
        ("--ready", "/readyz", "check whether it claims jobs (default)"),
        ("--live", "/livez", "check whether it works"),
        ("--started", "/startupz", "check whether it has started"),
    ):
        which.add_argument(flag, action="store_const", dest="path", const=path, help=meaning)
    parser.add_argument(
        "--timeout",
        type=whole(3_600),
        default=5,
        metavar="SECONDS",
        help="timeout of the request (default: 5)",
    )


def _check_health(options: argparse.Namespace, screen: Screen) -> int:
    host, port = probe_place(options)
    if not port:
        raise Problem(
            "No probe port is set.",
            hint="Start the server with --probe-port 8081 or FIRELOCK_PROBE_PORT=8081, and use it here too.",
        )
    status, lines = _request(_EVERY_ADDRESS.get(host, host), port, options.path or "/readyz", options.timeout)
    if screen.is_json:
        checks = [_check(line) for line in lines]
        screen.json({"is_ok": status == _OK, "checks": checks})
    else:
        for line in lines:
            word, _, rest = line.partition(" ")
            screen.line(Cell(word, "green" if word == "ok" else "bold red"), f" {visible(rest)}")
    return Exit.DONE if status == _OK else Exit.FAILED


def _check(line: str) -> dict[str, object]:
    word, _, rest = line.partition(" ")
    name, _, text = rest.partition(": ")
    return {"name": name, "is_ok": word == "ok", "text": text}


def _request(host: str, port: int, path: str, timeout: float) -> tuple[int, list[str]]:
    """Return the status and the lines of a probe's response.

    Raises:
        Problem: If nothing responds, or the response does not come from Firelock.
    """
    from http.client import HTTPConnection, HTTPException  # noqa: PLC0415 - only loaded for a request

    connection = HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        lines = reply.read(_LONGEST).decode("utf-8", "replace").splitlines()
    except (OSError, HTTPException) as error:
        raise Problem(
            f"No server responds to probes at {host}:{port}: {error}.",
            hint="Check that the server is running and was started with this --probe-port.",
            code=Exit.UNREACHABLE,
        ) from error
    finally:
        connection.close()
    if reply.status not in {_OK, _UNAVAILABLE}:
        raise Problem(
            f"The server at {host}:{port} does not have {path}: {reply.status} {reply.reason}.",
            hint="Check that this is the probe port of a Firelock server.",
            code=Exit.UNREACHABLE,
        )
    return reply.status, lines
