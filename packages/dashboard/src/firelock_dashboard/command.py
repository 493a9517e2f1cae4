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
        ConfigurationError: the port is invalid, or --user is given without a password.
    """
    if not 0 <= options.port <= _LAST_PORT:
        raise ConfigurationError(f"--port {options.port} is no port; give 0 to {_LAST_PORT}.")
    auth = _auth(options.user)
    if options.of:
        raise ConfigurationError(
            f"There is no {options.of!r} beside {options.target!r}; leave it out, or begin with link."
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
            for order in (
                signal.SIGINT,
                signal.SIGTERM,
            ):  # uvicorn raises the signal again after it has stopped, when nothing is left to do
                signal.signal(order, lambda *_: None)
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        fire.close()
    return 0


def _auth(user: str | None) -> Auth | None:
    """Return the `auth` of the command: the user of --user, and the token of programs that may only read."""
    token = os.environ.get(_TOKEN)
    try:
        programs = [bearer_tokens({token: [Permission.READ]})] if token else []
    except ConfigurationError as error:
        raise ConfigurationError(f"{_TOKEN}: {error}") from None
    if user is None:
        return programs[0] if programs else None
    password = os.environ.get(_PASSWORD, "")
    if not password:
        raise ConfigurationError(f"--user {user} needs a password; set {_PASSWORD}.")
    people = basic_auth({user: password}, level="admin")
    return any_of(people, *programs) if programs else people


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # listen before the address is printed, so that a reader can connect immediately
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"Nothing can listen at {host}, port {port}: {error.strerror}. Give others."
        ) from error
    return listener


def link(options: argparse.Namespace) -> int:
    """Print a one-time link to a dashboard without `auth=`, and return the exit code.

    Raises:
        ConfigurationError: the storage belongs to one process, or the address is invalid.
    """
    _take_target(options, options.of)
    fire = options.open_app()
    try:
        if Feature.SHARED not in fire.storage.features:
            raise ConfigurationError(
                f"{fire.storage.url} belongs to one process, so this one cannot make a link for it. Print "
                "one where the dashboard is made: print(dashboard.link('http://127.0.0.1:8000/jobs'))."
            )
        made = Links(fire).make(options.at)
    finally:
        fire.close()
    sys.stdout.write(f"{json.dumps({'link': made}) if options.is_json else made}\n")
    if sys.stdout.isatty() and not options.is_json:
        sys.stdout.write(f"It lets one browser in, once, within {LINK_SECONDS // 60} minutes.\n")
    return 0


def _take_target(options: argparse.Namespace, app: str | None) -> None:
    if app:
        options.app = app


def _announce(options: argparse.Namespace, listener: socket.socket, dashboard: Dashboard) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else shown}:{port}/"  # noqa: S104 - only compared
    sys.stdout.write(f"Dashboard at {address} (Ctrl-C stops it)\n")
    if dashboard.auth is None:
        _announce_link(options, address, dashboard)
        if host not in {"127.0.0.1", "::1"}:
            sys.stdout.write(
                "Only requests from this machine are answered; others are told so. Give --user, or mount\n"
                "the dashboard in your application with auth=….\n"
            )
    sys.stdout.flush()
    if options.open:
        webbrowser.open(_opened(address, dashboard))


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
            sys.stdout.write(f"Come in by {dashboard.link(address)} (once, within ten minutes)\n")
        except StorageUnavailable as error:
            sys.stdout.write(f"No link could be made: {error}\nOnce the storage answers: {again}\n")
    elif options.open:
        return
    elif Feature.SHARED in dashboard.fire.storage.features:
        sys.stdout.write(f"Come in by a link, which another command prints: {again}\n")
    else:
        sys.stdout.write("A link is printed to a terminal only: run this in one, or give --user.\n")


def _opened(address: str, dashboard: Dashboard) -> str:
    """Return the URL for the browser: a link that opens by itself, because only this browser receives it."""
    if dashboard.auth is not None:
        return address
    try:
        return dashboard.links.make(address, opens=True)
    except StorageUnavailable:
        return address  # the page itself reports the problem, and how to open the dashboard later
