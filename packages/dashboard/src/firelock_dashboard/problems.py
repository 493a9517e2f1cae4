"""The exceptions for refused requests: each has an HTTP status and a message that describes the fix."""

from __future__ import annotations

from collections.abc import Mapping

from firelock import FirelockError


class RequestProblem(FirelockError):
    """An error that ends a request and is shown on a page or, under /api, as JSON."""

    status = 400

    def __init__(
        self, message: str, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.headers = dict(headers or {})
        if status is not None:
            self.status = status


class BadRequest(RequestProblem):
    """A value of the request is invalid; the message names the field."""


class Unauthorized(RequestProblem):
    """The request has no valid credentials; the header `WWW-Authenticate` names the accepted scheme."""

    status = 401


class Forbidden(RequestProblem):
    """The visitor does not have the permission."""

    status = 403


class NotLocal(Forbidden):
    """The dashboard has no `auth=`, and the request might come from another machine."""


class NoSession(RequestProblem):
    """The dashboard has no `auth=`, and the visitor on this machine has not opened a one-time link."""

    status = 401

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"WWW-Authenticate": 'Link realm="Firelock"'})


class NotHere(RequestProblem):
    """The requested object or page does not exist."""

    status = 404
