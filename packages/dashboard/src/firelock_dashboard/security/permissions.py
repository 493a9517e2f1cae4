"""The permissions of visitors, and the levels that combine them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from enum import StrEnum
from typing import TypeAlias

import attrs
from starlette.requests import Request

from firelock import ConfigurationError

Auth: TypeAlias = Callable[[Request], object | Awaitable[object]]

AUTH_RESULT = "firelock.access"  # in a WSGI environ: the result of `auth=` in the host's own thread


class Permission(StrEnum):
    """A kind of action that a visitor may be allowed to take."""

    READ = "read"  # see pages, with the error messages of jobs
    VIEW_ARGUMENTS = "view_args"  # see the arguments and results of jobs
    VIEW_LOGS = "view_logs"  # see the logs of jobs, and tracebacks
    REQUEUE = "requeue"  # requeue, run now, reschedule, move, copy
    DELETE = "delete"
    PAUSE_QUEUE = "pause_queue"
    CHANGE_LIMIT = "change_limit"  # change the settings of limits, pause and resume limits
    TRIGGER = "trigger"  # run a recurring job now, pause and resume it
    EDIT_RECURRING = "edit_recurring"  # create, edit, reset and remove recurring jobs
    STOP_SERVER = "stop_server"
    RUN_TASK = "run_task"  # create a job of any task with any arguments


Level: TypeAlias = str | Collection[Permission]

_READ = frozenset({Permission.READ, Permission.VIEW_ARGUMENTS, Permission.VIEW_LOGS})
_OPERATE = _READ | {
    Permission.REQUEUE,
    Permission.DELETE,
    Permission.PAUSE_QUEUE,
    Permission.CHANGE_LIMIT,
    Permission.TRIGGER,
}

LEVELS = {
    "none": frozenset[Permission](),
    "read": _READ,
    "operate": _OPERATE,
    "admin": frozenset(Permission),
}


@attrs.frozen
class Access:
    """A visitor's name and permissions."""

    permissions: frozenset[Permission] = frozenset()
    name: str = ""  # shown at the top of pages and stored in the audit
    has_token: bool = False  # browsers do not send a token automatically, so a POST needs no Origin

    def may(self, permission: Permission) -> bool:
        """Return whether the permission is granted."""
        return permission in self.permissions


def to_access(answer: object) -> Access:
    """Return the access for the return value of an `auth=` callable.

    The value can be a level ("none", "read", "operate" or "admin"), a collection of permissions, or an
    `Access`. A collection that is not empty always includes read; an empty one grants nothing. None and False
    also grant nothing. True is invalid, because it does not name a level.

    Raises:
        ConfigurationError: If the value is none of these.
    """
    if isinstance(answer, Access):
        return answer
    if answer is None or answer is False:
        return Access()
    if isinstance(answer, str) and answer in LEVELS:
        return Access(LEVELS[answer])
    if isinstance(answer, Collection) and not isinstance(answer, str | bytes):
        try:
            given = frozenset(Permission(one) for one in answer)
        except ValueError as error:
            raise ConfigurationError(
                f"auth= returned an unknown permission: {error}; use {', '.join(Permission)}."
            ) from error
        return Access(given | {Permission.READ} if given else given)
    # the message contains only the type, because it is logged and a user object returned as a level might
    # contain a password hash
    kind = str(answer) if isinstance(answer, bool) else f"a {type(answer).__name__!r}"
    raise ConfigurationError(
        f"auth= returned {kind}; return one of {', '.join(LEVELS)}, a set of permissions "
        f"({', '.join(Permission)}), or an Access."
    )
