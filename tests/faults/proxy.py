"""A proxy between client and server that loses, holds, slows and counts traffic, as a test requests.

It handles bytes and turns, not a protocol. A request is everything that a client has sent since the server
last sent something, and a trip is a request with its reply. Code that knows the protocol can parse the
commands in the data passed to `on_sent`.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import attrs

Address = "tuple[str, int] | Path"
Matches = Callable[[bytes], bool]

_HOST = "127.0.0.1"
_CHUNK = 65_536
_FLUSH = b"H\0\0\0\4"  # PostgreSQL: requests no reply, and may be sent after the server's reply
_DEADLINE = 10.0


@attrs.frozen
class Traffic:
    """Counted traffic.

    A turn is counted when it begins, with the first byte of a request, even if it is lost.
    """

    connections: int = 0  # accepted
    trips: int = 0  # requests, each with any number of commands
    sent: int = 0  # bytes that reached the server
    received: int = 0  # bytes that reached the client

    def __sub__(self, earlier):
        """Return the traffic since `earlier`."""
        before = attrs.astuple(earlier)
        return Traffic(*(now - then for now, then in zip(attrs.astuple(self), before, strict=True)))


@attrs.frozen
class Slowness:
    """A slow line: each piece is delayed, the rate per direction is limited, or the pieces are small."""

    delay: float = 0.0  # seconds by which each piece is delayed, in each direction
    jitter: float = 0.0  # seconds more or less, uniformly distributed
    rate: float | None = None  # bytes per second and direction
    piece: int | None = None  # bytes written at a time


class _Loss(StrEnum):
    """The part of a turn that is lost, together with the connection."""

    REQUEST = "request"  # the server has not received the complete request
    REPLY = "reply"  # the server has replied, but the client has not received the complete reply


@attrs.define(eq=False)
class _Order:
    """An order to lose some turns."""

    loss: _Loss
    matches: Matches
    left: int | None  # turns that are still to be lost; None: all
    after: int  # bytes of the reply that pass


def _every(request):
    del request
    return True


class _Rules:
    """The current rules for all connections, and the counters; only the proxy's thread changes them."""

    def __init__(self, on_sent):
        self.on_sent = on_sent
        self.opens = asyncio.Event()  # every piece waits for this event; cleared in a black hole
        self.opens.set()
        self.is_refusing = False
        self.slowness = Slowness()
        self.change = None
        self.orders = []
        self.lost = 0
        self.traffic = Traffic()
        self._chance = random.Random(0)

    def heal(self):
        """Remove all faults."""
        self.is_refusing = False
        self.slowness = Slowness()
        self.change = None
        self.orders.clear()
        self.opens.set()

    def count(self, **more):
        """Add to the counters."""
        counted = {name: getattr(self.traffic, name) + number for name, number in more.items()}
        self.traffic = attrs.evolve(self.traffic, **counted)

    def order_for(self, loss, request):
        """Return the order that loses this turn, or None if the turn passes."""
        for order in self.orders:
            if order.loss is loss and order.left != 0 and order.matches(request):
                order.left = None if order.left is None else order.left - 1
                self.lost += 1
                return order
        return None

    def pieces(self, read):
        """Split the data into the pieces in which it is written."""
        size = self.slowness.piece or max(1, len(read))
        return [read[place : place + size] for place in range(0, len(read), size)]

    async def let_pass(self, piece):
        """Wait for the delay of the line."""
        slowness = self.slowness
        wait = slowness.delay + self._chance.uniform(-slowness.jitter, slowness.jitter)
        if slowness.rate is not None:
            wait += len(piece) / slowness.rate
        if wait > 0:
            await asyncio.sleep(wait)
        await self.opens.wait()


class _Line:
    """One client's connection, with its connection to the server."""

    def __init__(self, rules, number, client):
        self.task = asyncio.current_task()
        self._rules = rules
        self._number = number
        self._client = client
        self._server = None
        self._request = bytearray()  # since the server's last reply
        self._is_answered = True  # the server has replied since the last request began
        self._left = None  # bytes of a reply being lost that may still pass

    async def run(self, from_client, target):
        """Pass data in both directions until either one ends, then end both."""
        ways = []
        try:
            from_server, self._server = await _connect(target)
            ways = [
                asyncio.create_task(self._send(from_client, self._server)),
                asyncio.create_task(self._receive(from_server)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._client.close()
            if self._server is not None:
                self._server.close()

    async def _send(self, reader, server):
        while read := await reader.read(_CHUNK):
            if self._is_answered and read != _FLUSH:
                self._request.clear()
                self._is_answered = False
                self._rules.count(trips=1)
            self._request += read
            if self._rules.order_for(_Loss.REQUEST, bytes(self._request)):
                self.reset()
                return
            for piece in self._rules.pieces(read):
                await self._rules.let_pass(piece)
                self._rules.count(sent=len(piece))
                if self._rules.on_sent is not None:
                    self._rules.on_sent(self._number, piece)
                server.write(piece)
                await server.drain()

    async def _receive(self, reader):
        while read := await reader.read(_CHUNK):
            if self._rules.change is not None:
                read = self._rules.change(read)
            if not self._is_answered:
                self._is_answered = True
                order = self._rules.order_for(_Loss.REPLY, bytes(self._request))
                self._left = None if order is None else order.after
            passing = read[: self._left]
            for piece in self._rules.pieces(passing):
                await self._rules.let_pass(piece)
                self._rules.count(received=len(piece))
                self._client.write(piece)
                await self._client.drain()
            if self._left is not None:
                self._left -= len(passing)
                if self._left == 0:
                    self.reset()
                    return

    def reset(self):
        """Reset both connections instead of closing them."""
        for writer in (self._client, self._server):
            if writer is not None:
                _reset(writer)


async def _connect(target):
    if isinstance(target, Path):
        return await asyncio.open_unix_connection(target)
    return await asyncio.open_connection(*target)


def _reset(writer):
    """Send RST, or close a Unix socket normally; data that was not sent yet is lost."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class FaultProxy:
    """A proxy on a free loopback port that passes everything on to one server, apart from requested faults.

    It is a context manager and works in its own thread. Any thread may call its methods, which take effect
    before they return. `heal` ends every fault.

    Args:
        target: host and port of the server, or the path of its socket.
        listens_at: a path to listen at, instead of a port.
        on_sent: is called with the number of a connection and a piece of data, just before the piece is
            sent to the server.
    """

    def __init__(
        self,
        target,
        *,
        listens_at=None,
        on_sent=None,
    ):
        self._target = target
        self._path = listens_at
        self._rules = _Rules(on_sent)
        self._lines = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)
        self._server = None
        self.port = 0

    # ---- start and end -----------------------------------------------------------------------------------

    def __enter__(self):
        """Start listening."""
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(
        self,
        kind,
        error,
        trace,
    ):
        """Close every connection and stop listening."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_DEADLINE)
        self._loop.close()

    @property
    def address(self):
        """The address at which it listens."""
        return self._path or (_HOST, self.port)

    def _run(self, work):
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_DEADLINE)

    def _do(self, act, *arguments):
        async def done():
            act(*arguments)

        self._run(done())

    async def _listen(self):
        if self._path is None:
            self._server = await asyncio.start_server(self._accept, _HOST, 0)
            self.port = self._server.sockets[0].getsockname()[1]
        else:
            self._server = await asyncio.start_unix_server(self._accept, self._path)

    async def _close(self):
        self._rules.is_refusing = True
        await self._reset()
        # A connection accepted while the server closes would otherwise stay open without being served.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        if self._server is not None:
            self._server.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def _accept(self, reader, writer):
        if self._rules.is_refusing:
            _reset(writer)
            return
        self._rules.count(connections=1)
        line = _Line(self._rules, self._rules.traffic.connections, writer)
        self._lines.add(line)
        try:
            with suppress(OSError, asyncio.CancelledError):  # the server is unreachable or the line was reset
                await line.run(reader, self._target)
        finally:
            self._lines.discard(line)

    # ---- faults ------------------------------------------------------------------------------------------

    def lose_request(self, matching=_every, *, times=1):
        """Lose the next matching requests before they reach the server; their connections are reset.

        Args:
            matching: is called with the data of the request so far.
            times: how many of them; None for all until `heal`.
        """
        self._do(self._rules.orders.append, _Order(_Loss.REQUEST, matching, times, 0))

    def lose_reply(self, matching=_every, *, times=1, after=0):
        """Lose the replies to the next matching requests, which are processed; the client gets a reset.

        Args:
            matching: is called with the whole request.
            times: how many of them; None for all until `heal`.
            after: bytes of each reply that pass before the reset; a shorter reply passes unchanged.
        """
        self._do(self._rules.orders.append, _Order(_Loss.REPLY, matching, times, after))

    def black_hole(self):
        """Hold all data in both directions without an error; it passes after `heal`."""
        self._do(self._rules.opens.clear)

    def slow(self, slowness):
        """Slow all traffic down."""
        self._do(setattr, self._rules, "slowness", slowness)

    def alter(self, change):
        """Change or drop the data from servers on its way to the clients.

        Args:
            change: is called with a piece of data and returns the data that passes.
        """
        self._do(setattr, self._rules, "change", change)

    def reset(self):
        """Reset every connection at both ends; new ones are served."""
        self._run(self._reset())

    def refuse(self):
        """Reset every connection, and new ones as soon as they are accepted."""
        self._run(self._refuse())

    def heal(self):
        """End all faults; held data passes first."""
        self._do(self._rules.heal)

    async def _reset(self):
        tasks = [line.task for line in self._lines if line.task is not None]
        for line in self._lines:
            line.reset()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _refuse(self):
        self._rules.is_refusing = True
        await self._reset()

    # ---- figures -----------------------------------------------------------------------------------------

    @property
    def traffic(self):
        """The traffic so far."""
        return self._rules.traffic

    @property
    def lost(self):
        """The number of requests and replies lost by `lose_request` and `lose_reply`."""
        return self._rules.lost

    @property
    def connections(self):
        """The number of open connections."""
        return len(self._lines)
