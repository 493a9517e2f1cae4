"""A proxy that counts the traffic between clients and the storage's server.

A round trip is a request of a client followed by a response of the server. Everything that is sent before the
response begins counts as one round trip, as in a pipeline. Messages that the server sends by itself do not
count.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from benchmarks.entry import Figures
from benchmarks.storage_server import StorageServer

SIZE = 1 << 16


class Wire:
    """A proxy that counts the traffic from one port to another."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._sockets = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        self.trips = 0
        self.bytes = 0

    def meters(self) -> Mapping[str, int]:
        """Return the number of round trips and bytes so far."""
        with self._lock:
            return {"trips": self.trips, "bytes": self.bytes}

    def serve(self) -> None:
        """Accept connections until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += [client, server]
                turn = Turn()
                for source, sink, is_request in ((client, server, True), (server, client, False)):
                    threading.Thread(
                        target=self.pass_on, args=(source, sink, turn, is_request), daemon=True
                    ).start()

    def pass_on(self, source: socket.socket, sink: socket.socket, turn: Turn, is_request: bool) -> None:
        """Forward the data from one side until its connection ends."""
        with suppress(OSError):
            while data := source.recv(SIZE):
                with self._lock:
                    self.bytes += len(data)
                    if turn.is_requested and not is_request:
                        self.trips += 1
                    turn.is_requested = is_request
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close all connections."""
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Turn:
    """Whether the last data on a connection came from the client."""

    is_requested = False


@contextmanager
def counting(target: int) -> Iterator[Wire]:
    """Count the traffic of a port within the block."""
    wire = Wire(target)
    thread = threading.Thread(target=wire.serve, daemon=True)
    thread.start()
    try:
        yield wire
    finally:
        wire.close()
        thread.join()


Step = tuple[int, Callable[[], object]]
"""A number of jobs, and the action on them."""


def measure(steps: Mapping[str, Step], server: StorageServer, wire: Wire) -> Figures:
    """Return the cost per job of each step: round trips, bytes on the wire, and the server's own counts.

    The result also has the server's additional storage per job, after the last enqueuing step and after all
    steps. With the steps `one`, `bulk` and `process`, these are the sizes of a waiting and of a finished job.
    """
    figures: Figures = {}
    empty, stored = server.stored_bytes(), 0
    for name, (jobs, action) in steps.items():
        before = {**server.meters(), **wire.meters()}
        action()
        after = {**wire.meters(), **server.meters()}
        figures |= {f"{name}_{what}": (after[what] - before[what]) / jobs for what in before}
        if name == "process":
            figures["finished_bytes"] = (server.stored_bytes() - empty) / stored
        else:
            stored += jobs
            figures["waiting_bytes"] = (server.stored_bytes() - empty) / stored
    return figures
