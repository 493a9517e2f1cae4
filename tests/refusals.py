"""How an app reports that its storage cannot be used: in one line, without a password."""

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
    """Return the message of the error, of exactly this class, that an app's first job raises on this URL.

    Neither the message nor the traceback contains `SECRET` or a password of the URL in the form of a URL.
    """
    with closing(Firelock(url)) as fire:

        @fire.task(name="task")
        def task() -> None: ...

        with pytest.raises(StorageError) as caught:
            task.enqueue()
    printed = "".join(traceback.format_exception(caught.value))
    assert kind is type(caught.value), printed
    assert SECRET not in printed, printed
    assert f":{urlsplit(url).password}@" not in printed, printed
    assert "\n" not in str(caught.value), printed
    return str(caught.value)


class _HttpHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(1_000)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@contextmanager
def http_server() -> Iterator[int]:
    """Yield the port of a server that is not a database."""
    with socketserver.ThreadingTCPServer((HOST, 0), _HttpHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
