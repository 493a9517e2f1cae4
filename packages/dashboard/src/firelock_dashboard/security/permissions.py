"""What a visitor may do: permissions, and the levels that bundle them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from enum import StrEnum
from typing import TypeAlias

import attrs
from starlette.requests import Request

from firelock import ConfigurationError

Auth: TypeAlias = Callable[[Request], object | Awaitable[object]]

ASKED = "firelock.access"  # in a WSGI environ: what the host's own thread found out about the visitor


class Permission(StrEnum):
    """One thing that a visitor may do."""

    READ = "read"  # see pages, with the error messages of jobs
    VIEW_ARGUMENTS = "view_args"  # see what jobs were called with, and their results
    VIEW_LOGS = "view_logs"  # see what jobs logged, and tracebacks
    REQUEUE = "requeue"  # requeue, run now, reschedule, move, copy
    DELETE = "delete"
    PAUSE_QUEUE = "pause_queue"
    CHANGE_LIMIT = "change_limit"  # numbers of limits, and their pauses
    TRIGGER = "trigger"  # run a recurring job now, pause and resume it
    EDIT_RECURRING = "edit_recurring"  # create, edit, reset and remove recurring jobs
    STOP_SERVER = "stop_server"
    RUN_TASK = "run_task"  # make a job of any task with arguments of one's own


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
    """Who somebody is and what they may do."""

    permissions: frozenset[Permission] = frozenset()
    name: str = ""  # shown at the top and written into the audit
    has_token: bool = False  # shown by what no browser sends unasked: then an unsafe request needs no Origin

    def may(self, permission: Permission) -> bool:
        """Tell whether this is allowed."""
        return permission in self.permissions


def to_access(answer: object) -> Access:
    """Return what an `auth=` callable's answer gives.

    A level (`"none"`, `"read"`, `"operate"`, `"admin"`), a collection of permissions (any of them goes with
    read, none of them is nothing), an `Access`, or None and False for nothing. True is refused: it would not
    say what is allowed.

    Raises:
        ConfigurationError: it is none of these.
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
                f"auth= answered {error}; permissions are {', '.join(Permission)}."
            ) from error
        return Access(given | {Permission.READ} if given else given)
    # By its type alone: a user that was answered for a level may hold a hash, and this goes into the log.
    said = str(answer) if isinstance(answer, bool) else f"a {type(answer).__name__!r}"
    raise ConfigurationError(
        f"auth= answered {said}; answer one of {', '.join(LEVELS)}, a set of permissions "
        f"({', '.join(Permission)}), or an Access."
    )
