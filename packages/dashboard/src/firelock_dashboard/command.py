"""The command `firelock dashboard`, which runs the dashboard in its own HTTP server."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import sys
import webbrowser
from typing import TYPE_CHECKING

import uvicorn

from firelock import ConfigurationError, StorageUnavailable
from firelock.storage import Feature, shown_url
from firelock_dashboard.app import MOST_STREAMS, Dashboard
from firelock_dashboard.security.auth import any_of
from firelock_dashboard.security.links import LINK_SECONDS, Links
from firelock_dashboard.security.passwords import basic_auth, bearer_tokens
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.connections import ConnectionGuard

if TYPE_CHECKING:
    from firelock_dashboard.security.permissions import Auth

_PASSWORD = "FIRELOCK_DASHBOARD_PASSWORD"  # noqa: S105 - the name of an environment variable
_TOKEN = "FIRELOCK_DASHBOARD_TOKEN"  # noqa: S105 - the name of an environment variable
_LAST_PORT = 65_535


def serve(options: argparse.Namespace) -> int:
    """Serve the dashboard until the process is interrupted, and return the exit code.

    Raises:
        ConfigurationError: If the port is invalid, or if --user is given without a password.
    """
    if not 0 <= options.port <= _LAST_PORT:
        raise ConfigurationError(f"--port must be an integer from 0 to {_LAST_PORT}, got {options.port}.")
    auth = _auth(options.user)
    if options.of:
        raise ConfigurationError(
            f"Unexpected argument {options.of!r} after {options.target!r}; remove it, or start with link."
        )
    _take_target(options, options.target)
    fire = options.open_app()
    guard = ConnectionGuard.of_process()
    try:
        dashboard = Dashboard(
            fire, auth=auth, read_only=options.read_only, title=options.title, prefix=options.prefix,
            environment=options.environment, max_streams=min(MOST_STREAMS, guard.most // 2),
            framework="command",
        )  # fmt: skip
        with _listening(options.host, options.port) as listener:
            _announce(options, listener, dashboard)
            config = uvicorn.Config(
                dashboard, log_level="warning", access_log=False, proxy_headers=False, server_header=False,
                timeout_graceful_shutdown=3, http=guard.protocol, ws="none", backlog=guard.backlog,
            )  # fmt: skip
            # after it has stopped, uvicorn raises the signal again, which must not end the process early
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: None)
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        fire.close()
    return 0


def _auth(user: str | None) -> Auth | None:
    """Return the `auth` of the command: the user of --user, and the token of read-only programs."""
    token = os.environ.get(_TOKEN)
    try:
        programs = [bearer_tokens({token: [Permission.READ]})] if token else []
    except ConfigurationError as error:
        raise ConfigurationError(f"{_TOKEN}: {error}") from None
    if user is None:
        return programs[0] if programs else None
    password = os.environ.get(_PASSWORD, "")
    if not password:
        raise ConfigurationError(f"--user {user} requires a password; set {_PASSWORD}.")
    people = basic_auth({user: password}, level="admin")
    return any_of(people, *programs) if programs else people


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # listen before the address is printed, so that a user can connect immediately
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"Cannot listen on {host}, port {port}: {error.strerror}; set another --host or --port."
        ) from error
    return listener


def link(options: argparse.Namespace) -> int:
    """Print a one-time link to a dashboard without `auth=`, and return the exit code.

    Raises:
        ConfigurationError: If the storage belongs to one process, or if the address is invalid.
    """
    _take_target(options, options.of)
    fire = options.open_app()
    try:
        if Feature.SHARED not in fire.storage.features:
            raise ConfigurationError(
                f"Storage {fire.storage.url} belongs to one process, so this command cannot create a link "
                "for it. Run print(dashboard.link('http://127.0.0.1:8000/jobs')) in the dashboard's process."
            )
        url = Links(fire).make(options.at)
    finally:
        fire.close()
    sys.stdout.write(f"{json.dumps({'link': url}) if options.is_json else url}\n")
    if sys.stdout.isatty() and not options.is_json:
        sys.stdout.write(f"This link works once, within {LINK_SECONDS // 60} minutes.\n")
    return 0


def _take_target(options: argparse.Namespace, app: str | None) -> None:
    if app:
        options.app = app


def _announce(options: argparse.Namespace, listener: socket.socket, dashboard: Dashboard) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else shown}:{port}/"  # noqa: S104 - only compared
    sys.stdout.write(f"Dashboard at {address} (press Ctrl-C to stop)\n")
    is_read_by_person = sys.stdout.isatty()
    if dashboard.auth is None:
        if is_read_by_person or not options.open:
            _announce_link(options, address, dashboard)
        if host not in {"127.0.0.1", "::1"}:
            sys.stdout.write(
                "The dashboard refuses requests from other machines. To allow them, pass --user, or mount\n"
                "the dashboard in your application with auth=….\n"
            )
    sys.stdout.flush()
    if options.open and not webbrowser.open(_opened(address, dashboard)):
        sys.stdout.write("No browser could be opened.\n")
        if dashboard.auth is None and not is_read_by_person:
            _announce_link(options, address, dashboard)
        sys.stdout.flush()


def _announce_link(options: argparse.Namespace, address: str, dashboard: Dashboard) -> None:
    """Print how to open the dashboard.

    A link is printed only to a terminal, never to a file or a service's log.
    """
    named = f" {options.app}" if options.app else ""
    if options.storage:  # do not print a storage URL that contains a password
        is_open = shown_url(options.storage) == options.storage
        named += f" --storage {shlex.quote(options.storage) if is_open else 'URL'}"
    again = options.as_called(f"firelock dashboard link{named} --at {address}")
    if sys.stdout.isatty():
        try:
            sys.stdout.write(f"To sign in, open {dashboard.link(address)} (works once, within ten minutes)\n")
        except StorageUnavailable as error:
            sys.stdout.write(
                f"Could not create a link: {error}\nWhen the storage is reachable again, run: {again}\n"
            )
    elif Feature.SHARED in dashboard.fire.storage.features:
        sys.stdout.write(f"To sign in, open the link that this command prints: {again}\n")
    else:
        sys.stdout.write(
            "Links are printed only to a terminal; run this command in a terminal, or pass --user.\n"
        )


def _opened(address: str, dashboard: Dashboard) -> str:
    """Return the URL for the browser: a link that it uses automatically, because no other program gets it."""
    if dashboard.auth is not None:
        return address
    try:
        return dashboard.links.make(address, opens=True)
    except StorageUnavailable:
        return address  # the page shows the problem, and how to open the dashboard later
