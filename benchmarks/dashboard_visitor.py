"""A client that sends requests to a dashboard's ASGI app in this process, without a network."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import unquote

import attrs

from firelock_dashboard import Dashboard
from firelock_dashboard.security.links import COOKIE

_LINKED = re.compile(rb'(?:src|href)="(/files/[^"]+)"')
_LIMIT_SECONDS = 120


class Refused(Exception):
    """A page did not return the expected response."""


@attrs.frozen
class Answer:
    """The response to a request."""

    sent: bytes
    coding: str  # empty if the body is not compressed

    @property
    def body(self) -> bytes:
        """The uncompressed body; bodies compressed with br are not supported."""
        return gzip.decompress(self.sent) if self.coding == "gzip" else self.sent

    @property
    def packed_bytes(self) -> int:
        """The compressed size, in bytes, as sent by the dashboard or by a compressing proxy."""
        return len(self.sent) if self.coding else len(gzip.compress(self.sent, 6))


class Visitor:
    """A client for a dashboard's addresses, which must be closed."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard
        token = dashboard.link("http://localhost").rpartition("#")[2]
        self._cookie = f"{COOKIE}_80={dashboard.links.exchange(token)}".encode()
        self._runner = asyncio.Runner()

    def get(self, target: str) -> Answer:
        """Return the response.

        Raises:
            Refused: If the status is not 200.
        """
        return self._runner.run(asyncio.wait_for(self._get(target), _LIMIT_SECONDS))

    def weigh(self, target: str) -> int:
        """Return the size on the wire of a page and the files that it loads, in bytes."""
        page = self.get(target)
        names = dict.fromkeys(name.decode() for name in _LINKED.findall(page.body))
        return page.packed_bytes + sum(self.get(name).packed_bytes for name in names)

    def close(self) -> None:
        """Release the resources of the client."""
        self._runner.close()

    async def _get(self, target: str) -> Answer:
        path, _, query = target.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": "GET", "scheme": "http", "path": unquote(path), "raw_path": path.encode(),
            "root_path": "", "query_string": query.encode(),
            "headers": [
                (b"host", b"localhost"), (b"accept-encoding", b"gzip, br"), (b"cookie", self._cookie),
            ],
            "client": ("127.0.0.1", 50_000), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        status, coding, chunks = 0, "", []
        is_over = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if not is_over.is_set():
                await asyncio.sleep(0)
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            nonlocal status, coding
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = dict(message["headers"])
                coding = headers.get(b"content-encoding", b"").decode()
            elif message["type"] == "http.response.body":
                chunks.append(bytes(message.get("body", b"")))

        await self._dashboard(scope, receive, send)
        answer = Answer(b"".join(chunks), coding)
        if status != 200:
            message = f"{target} returned status {status}: {answer.body[:300]!r}"
            raise Refused(message)
        return answer
