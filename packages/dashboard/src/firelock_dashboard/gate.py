"""The gate before everything: who may ask at all, and what every answer carries."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING

from firelock_dashboard.problems import Forbidden, RequestProblem

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["Gate"]


class Gate:
    """Refuses what must not reach a view."""

    def __init__(self, *, is_open: bool, trusts_proxy: bool, origins: Sequence[str]) -> None:
        self._is_open = is_open
        self._trusts_proxy = trusts_proxy
        self._origins = frozenset(origins)

    def refusal(self, request: Request, path: str) -> RequestProblem | None:
        """Return why this request is not answered; None where it may pass."""
        if request.method not in {"GET", "HEAD", "POST"}:
            return RequestProblem(f"{request.method} is not answered here.", status=405)
        if not self._is_open and not _is_local(request):
            return Forbidden("The dashboard answers local requests only until auth= is given.")
        return None

    def protect(self, response: Response) -> None:
        """The response carries the headers that keep a page of hostile data harmless."""


def _is_local(request: Request) -> bool:
    try:
        return request.client is None or ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
