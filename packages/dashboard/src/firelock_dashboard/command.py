"""`firelock dashboard`: the dashboard as a server of its own."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import webbrowser
from typing import TYPE_CHECKING

import uvicorn

from firelock import ConfigurationError
from firelock_dashboard.auth import basic_auth
from firelock_dashboard.dashboard import Dashboard

if TYPE_CHECKING:
    from firelock_dashboard.dashboard import Auth

__all__ = ["serve"]

_PASSWORD = "FIRELOCK_DASHBOARD_PASSWORD"  # noqa: S105 - the name of the variable
_LAST_PORT = 65_535


def serve(options: argparse.Namespace) -> int:
    """The dashboard answers until it is interrupted; return the exit code.

    Raises:
        ConfigurationError: a port is none, or a name was given and no password.
    """
    if not 0 <= options.port <= _LAST_PORT:
        message = f"--port {options.port} is no port; give 0 to {_LAST_PORT}."
        raise ConfigurationError(message)
    auth = _auth(options.user)
    if options.target:
        options.app = options.target
    fire = options.open_app()
    try:
        dashboard = Dashboard(
            fire, auth=auth, read_only=options.read_only, title=options.title, prefix=options.prefix,
            environment=options.environment, framework="command",
        )  # fmt: skip
        with _listening(options.host, options.port) as listener:
            _announce(options, listener, has_auth=auth is not None)
            config = uvicorn.Config(
                dashboard, log_level="warning", access_log=False, proxy_headers=False, server_header=False,
                timeout_graceful_shutdown=3,
            )  # fmt: skip
            for order in (
                signal.SIGINT,
                signal.SIGTERM,
            ):  # raised anew once it has stopped: nothing is left to do
                signal.signal(order, lambda *_: None)
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        fire.close()
    return 0


def _auth(user: str | None) -> Auth | None:
    if user is None:
        return None
    password = os.environ.get(_PASSWORD, "")
    if not password:
        message = f"--user {user} needs a password; set {_PASSWORD}."
        raise ConfigurationError(message)
    return basic_auth({user: password}, level="admin")


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # whoever reads the address may come at once
    except OSError as error:
        listener.close()
        message = f"Nothing can listen at {host}, port {port}: {error.strerror}. Give others."
        raise ConfigurationError(message) from error
    return listener


def _announce(options: argparse.Namespace, listener: socket.socket, *, has_auth: bool) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else shown}:{port}/"  # noqa: S104 - compared, not bound
    sys.stdout.write(f"Dashboard at {address} (Ctrl-C stops it)\n")
    if not has_auth and host not in {"127.0.0.1", "::1"}:
        sys.stdout.write(
            "Only requests from this machine are answered; others are told so. Give --user, or mount the\n"
            "dashboard in your application with auth=….\n"
        )
    sys.stdout.flush()
    if options.open:
        webbrowser.open(address)
