"""How an app is told that its storage cannot be used: by one line, without a password."""

from __future__ import annotations

import socketserver
import threading
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import pytest

from firelock import Firelock, StorageError
from tests.ports import HOST

SECRET = "geheim-4711"


def refusal(url: str, kind: type[StorageError]) -> str:
    """Return the line with which an app's first job is refused on this URL, by exactly this class.

    Neither it nor what led to it shows `SECRET`, or the URL's own password where that stands in a URL.
    """
    with closing(Firelock(url)) as fire:

        @fire.task(name="task")
        def task() -> None: ...

        with pytest.raises(StorageError) as caught:
            task.enqueue()
    told = "".join(traceback.format_exception(caught.value))
    assert kind is type(caught.value), told
    assert SECRET not in told, told
    assert f":{urlsplit(url).password}@" not in told, told
    assert "\n" not in str(caught.value), told
    return str(caught.value)


class _Stranger(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(1_000)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@contextmanager
def stranger() -> Iterator[int]:
    """Yield a port at which somebody listens who is no database."""
    with socketserver.ThreadingTCPServer((HOST, 0), _Stranger) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
