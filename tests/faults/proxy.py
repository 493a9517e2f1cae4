"""A proxy between client and server that loses, holds, slows and counts what passes, as a test tells it.

It knows bytes and turns, no protocol: a request is what a client has sent since the server last said
something, and a trip is a request with its answer. Whoever knows the protocol reads the commands in what
`on_sent` is given.
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
_FLUSH = b"H\0\0\0\4"  # of PostgreSQL: asks for no answer, and may come when the server has said all
_DEADLINE = 10.0


@attrs.frozen
class Traffic:
    """What has passed. A turn is counted when it begins: the first byte of a request, whoever gets it."""

    connections: int = 0  # accepted
    trips: int = 0  # requests, however many commands each held
    sent: int = 0  # bytes that reached the server
    received: int = 0  # bytes that reached the client

    def __sub__(self, earlier):
        """What has passed since."""
        before = attrs.astuple(earlier)
        return Traffic(*(now - then for now, then in zip(attrs.astuple(self), before, strict=True)))


@attrs.frozen
class Slowness:
    """A line that is far or thin: each piece waits, a direction passes only so much, or byte by byte."""

    delay: float = 0.0  # seconds that each piece waits, each way
    jitter: float = 0.0  # seconds more or less, evenly drawn
    rate: float | None = None  # bytes a second and direction
    piece: int | None = None  # bytes written at a time


class _Loss(StrEnum):
    """Which part of a turn is lost, and the connection with it."""

    REQUEST = "request"  # the server has got nothing of it
    REPLY = "reply"  # the server has answered it, the client has got less than all


@attrs.define(eq=False)
class _Order:
    """Some turns are to be lost."""

    loss: _Loss
    matches: Matches
    left: int | None  # how many are still to be lost; None: all
    after: int  # bytes of the reply that pass


def _every(request):
    del request
    return True


class _Rules:
    """What holds now for every connection, and what was counted; changed by the proxy's thread alone."""

    def __init__(self, on_sent):
        self.on_sent = on_sent
        self.opens = asyncio.Event()  # every piece passes here; closed in a black hole
        self.opens.set()
        self.is_refusing = False
        self.slowness = Slowness()
        self.change = None
        self.orders = []
        self.lost = 0
        self.traffic = Traffic()
        self._chance = random.Random(0)

    def heal(self):
        """No fault is left."""
        self.is_refusing = False
        self.slowness = Slowness()
        self.change = None
        self.orders.clear()
        self.opens.set()

    def count(self, **more):
        """So much more has passed."""
        counted = {name: getattr(self.traffic, name) + number for name, number in more.items()}
        self.traffic = attrs.evolve(self.traffic, **counted)

    def order_for(self, loss, request):
        """Return the order by which this turn is lost, None where it passes."""
        for order in self.orders:
            if order.loss is loss and order.left != 0 and order.matches(request):
                order.left = None if order.left is None else order.left - 1
                self.lost += 1
                return order
        return None

    def pieces(self, read):
        """Return what was read in the pieces in which it is written."""
        size = self.slowness.piece or max(1, len(read))
        return [read[place : place + size] for place in range(0, len(read), size)]

    async def let_pass(self, piece):
        """The piece has waited as long as the line makes it wait."""
        slowness = self.slowness
        wait = slowness.delay + self._chance.uniform(-slowness.jitter, slowness.jitter)
        if slowness.rate is not None:
            wait += len(piece) / slowness.rate
        if wait > 0:
            await asyncio.sleep(wait)
        await self.opens.wait()


class _Line:
    """One client's connection with the one to the server that stands for it."""

    def __init__(self, rules, number, client):
        self.task = asyncio.current_task()
        self._rules = rules
        self._number = number
        self._client = client
        self._server = None
        self._request = bytearray()  # since the server's last word
        self._is_answered = True  # the server has said something since the last request began
        self._left = None  # of a reply that is being lost, how many bytes may yet pass

    async def run(self, from_client, target):
        """Both directions pass until either ends, and then both have."""
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
        """Both ends get a reset instead of an end."""
        for writer in (self._client, self._server):
            if writer is not None:
                _reset(writer)


async def _connect(target):
    if isinstance(target, Path):
        return await asyncio.open_unix_connection(target)
    return await asyncio.open_connection(*target)


def _reset(writer):
    """The other end gets RST, or by a socket of this machine a plain end; what was not yet sent is lost."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class FaultProxy:
    """Listens on a free port of loopback and passes everything on to one server, until it is told otherwise.

    It is a context manager, works in a thread of its own, and may be told from any thread; what it is told
    holds when the call returns. `heal` ends every fault.

    Args:
        target: host and port of the server, or the path of its socket.
        listens_at: a path to listen at, instead of a port.
        on_sent: is given the number of a connection and a piece that goes to the server, just before it goes.
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

    # ---- its life ----------------------------------------------------------------------------------------

    def __enter__(self):
        """It listens."""
        self._thread.start()
        self._tell(self._listen())
        return self

    def __exit__(
        self,
        kind,
        error,
        trace,
    ):
        """Every connection is closed and nobody listens any more."""
        self._tell(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_DEADLINE)
        self._loop.close()

    @property
    def address(self):
        """Where it listens."""
        return self._path or (_HOST, self.port)

    def _tell(self, work):
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_DEADLINE)

    def _do(self, act, *arguments):
        async def done():
            act(*arguments)

        self._tell(done())

    async def _listen(self):
        if self._path is None:
            self._server = await asyncio.start_server(self._accept, _HOST, 0)
            self.port = self._server.sockets[0].getsockname()[1]
        else:
            self._server = await asyncio.start_unix_server(self._accept, self._path)

    async def _close(self):
        self._rules.is_refusing = True
        await self._reset()
        # Whom the loop is about to accept while its server closes would keep a connection that nobody serves.
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
            with suppress(OSError, asyncio.CancelledError):  # the server is away, or the line was reset
                await line.run(reader, self._target)
        finally:
            self._lines.discard(line)

    # ---- what it is told ---------------------------------------------------------------------------------

    def lose_request(self, matching=_every, *, times=1):
        """The next requests that match never reach the server; their connections are reset.

        Args:
            matching: is given what has come of the request so far.
            times: how many of them; None for every one until `heal`.
        """
        self._do(self._rules.orders.append, _Order(_Loss.REQUEST, matching, times, 0))

    def lose_reply(self, matching=_every, *, times=1, after=0):
        """The server does what the next matching requests ask and answers; the client gets a reset instead.

        Args:
            matching: is given the whole request.
            times: how many of them; None for every one until `heal`.
            after: bytes of each reply that the client gets before the reset; a shorter reply passes whole.
        """
        self._do(self._rules.orders.append, _Order(_Loss.REPLY, matching, times, after))

    def black_hole(self):
        """Nothing passes in either direction and nobody learns it; what is held passes after `heal`."""
        self._do(self._rules.opens.clear)

    def slow(self, slowness):
        """Everything passes so slowly."""
        self._do(setattr, self._rules, "slowness", slowness)

    def alter(self, change):
        """What servers say is changed, or kept back, on its way to the clients.

        Args:
            change: is given a piece as it came and returns what passes of it.
        """
        self._do(setattr, self._rules, "change", change)

    def reset(self):
        """Every connection has been reset at both ends; new ones are served."""
        self._tell(self._reset())

    def refuse(self):
        """Every connection has been reset, and new ones are as soon as they are made."""
        self._tell(self._refuse())

    def heal(self):
        """Everything passes, what was held first."""
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

    # ---- what it tells -----------------------------------------------------------------------------------

    @property
    def traffic(self):
        """What has passed so far."""
        return self._rules.traffic

    @property
    def lost(self):
        """How many requests and replies were lost by `lose_request` and `lose_reply`."""
        return self._rules.lost

    @property
    def connections(self):
        """How many connections there are."""
        return len(self._lines)
