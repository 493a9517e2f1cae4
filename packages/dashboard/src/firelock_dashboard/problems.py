"""What can be wrong with a request: each has its status and says what to do."""

from __future__ import annotations

from collections.abc import Mapping

from firelock import FirelockError


class RequestProblem(FirelockError):
    """A request that is not answered as it was meant; shown on a page, or as JSON under /api."""

    status = 400

    def __init__(
        self, message: str, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.headers = dict(headers or {})
        if status is not None:
            self.status = status


class BadRequest(RequestProblem):
    """A value of the request is wrong; the message names the field."""


class Unauthorized(RequestProblem):
    """The visitor has not said who they are, or nobody who is known; `WWW-Authenticate` says how to."""

    status = 401


class Forbidden(RequestProblem):
    """The visitor may not do this."""

    status = 403


class NotLocal(Forbidden):
    """There is no `auth=`, and the request does not come from this machine."""


class NoSession(RequestProblem):
    """There is no `auth=`, and the visitor of this machine has not come in by a link."""

    status = 401

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"WWW-Authenticate": 'Link realm="Firelock"'})


class NotHere(RequestProblem):
    """There is no such thing."""

    status = 404
