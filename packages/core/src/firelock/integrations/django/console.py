"""Whose handler writes to the console of a server's process: Firelock's or Django's, not both."""

from __future__ import annotations

import logging

from django.utils.log import RequireDebugTrue

from firelock.server.logs import has_server_log


def leave_console_to_server() -> None:
    """With DEBUG a line of a logger below `django` is written once, in the form of the server's log.

    Django's default LOGGING gives `django` a handler for the console and passes its records on to the root,
    where a server's process has Firelock's. What a project configures itself, and a process that is the
    project's, are left as they are.
    """
    if not has_server_log():
        return
    log = logging.getLogger("django")
    for handler in [*log.handlers]:
        if _is_default(handler):
            log.removeHandler(handler)


def _is_default(handler: logging.Handler) -> bool:
    is_for_debug = any(isinstance(each, RequireDebugTrue) for each in handler.filters)
    return type(handler) is logging.StreamHandler and is_for_debug and handler.formatter is None
