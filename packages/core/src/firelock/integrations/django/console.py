"""The choice of the log handler for the console of a server's process: Firelock's or Django's, not both."""

from __future__ import annotations

import logging

from django.utils.log import RequireDebugTrue

from firelock.server.logs import has_server_log


def leave_console_to_server() -> None:
    """Remove Django's default console handler, so that each record is written once, in the server's format.

    With DEBUG, Django's default LOGGING gives the logger `django` a handler for the console and also passes
    its records on to the root logger, which has Firelock's handler in a server's process. Handlers that a
    project configures itself, and processes that are not a server's, are not changed.
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
