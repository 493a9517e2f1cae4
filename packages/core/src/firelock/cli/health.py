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

_LONGEST = 64 * 1024  # bytes of a response
_EVERY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - for requests only
_OK, _UNWELL = 200, 503


def add_probe_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the address of probes."""
    parser.add_argument(
        "--probe-port", type=whole(65_535), metavar="PORT", help="of probes and metrics; none by default"
    )
    parser.add_argument("--probe-host", metavar="HOST", help="the address they listen at: 127.0.0.1")


def probe_place(options: argparse.Namespace) -> tuple[str, int]:
    """Return the host and port of the probes, from option, environment or project; port 0 if none is set."""
    from firelock.server.probes import LOOPBACK  # noqa: PLC0415 - only loaded for probes
    from firelock.settings import Settings  # noqa: PLC0415

    table = project_table()
    host = options.probe_host or os.environ.get("FIRELOCK_PROBE_HOST") or table.get("probe_host") or LOOPBACK
    return str(host), options.probe_port or Settings.from_environment(table).probe_port


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to the parser."""
    describe(
        parser, _ask,
        more=(
            "It asks the probe port of a server on this machine and shows the answer, one line a check.\n"
            "Exit codes: 0 all is well, 1 a check failed, 2 no port is named, 3 nobody answers there."
        ),
        examples=(
            "firelock health --probe-port 8081            does it claim jobs?",
            "firelock health --probe-port 8081 --live     does it work, or must it be started anew?",
            "FIRELOCK_PROBE_PORT=8081 firelock health     as in a container",
        ),
    )  # fmt: skip
    add_probe_options(parser)
    which = parser.add_mutually_exclusive_group()
    for flag, path, meaning in (
        ("--ready", "/readyz", "ask whether it claims jobs: the default"),
        ("--live", "/livez", "ask whether it works"),
        ("--started", "/startupz", "ask whether it has started"),
    ):
        which.add_argument(flag, action="store_const", dest="path", const=path, help=meaning)
    parser.add_argument(
        "--timeout", type=whole(3_600), default=5, metavar="SECONDS", help="to wait for the answer: 5"
    )


def _ask(options: argparse.Namespace, screen: Screen) -> int:
    host, port = probe_place(options)
    if not port:
        raise Problem(
            "No probe port is named, so there is nothing to ask.",
            hint="Start the server with --probe-port 8081 or FIRELOCK_PROBE_PORT=8081, and name it here too.",
        )
    status, lines = _answer(_EVERY_ADDRESS.get(host, host), port, options.path or "/readyz", options.timeout)
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


def _answer(host: str, port: int, path: str, timeout: float) -> tuple[int, list[str]]:
    """Return the status and the lines of a probe's page.

    Raises:
        Problem: nothing responds there, or the response does not come from Firelock.
    """
    from http.client import HTTPConnection, HTTPException  # noqa: PLC0415 - only loaded for a request

    connection = HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        lines = reply.read(_LONGEST).decode("utf-8", "replace").splitlines()
    except (OSError, HTTPException) as error:
        raise Problem(
            f"Nobody answers probes at {host}:{port}: {error}.",
            hint="Is the server running, and was it started with this --probe-port?",
            code=Exit.UNREACHABLE,
        ) from error
    finally:
        connection.close()
    if reply.status not in {_OK, _UNWELL}:
        raise Problem(
            f"What answers at {host}:{port} knows no {path}: {reply.status} {reply.reason}.",
            hint="Is this the probe port of a Firelock server?",
            code=Exit.UNREACHABLE,
        )
    return reply.status, lines
