"""A primary, its replicas and three Sentinels that watch them."""

from __future__ import annotations

from contextlib import ExitStack

import redis

from firelock.testing import eventually
from tests.ports import HOST
from tests.redis.servers import DEADLINE, RedisServer

SERVICE = "firelock"
_SENTINELS = 3
_DOWN_AFTER_MS = 60_000  # of a primary
_QUORUM = 2
_FAILOVER = 30.0
_TRIED_AGAIN_AFTER = 10.0  # seconds after a failed attempt; Sentinels wait for twice their setting


class SentinelGroup:
    """A primary with replicas and three Sentinels, as a context manager.

    Args:
        program: the Redis or Valkey program, also for the Sentinels.
        replicas: the number of replicas.
        options: additional settings of the primary and the replicas.
        down_after: seconds without a reply after which a Sentinel counts a server as lost.
    """

    def __init__(
        self,
        program,
        *,
        replicas=1,
        options=None,
        down_after=1,
    ):
        self._stack = ExitStack()
        first = RedisServer(program, options)
        following = {**(options or {}), "replicaof": f"{HOST} {first.port}"}
        others = [RedisServer(program, following) for _ in range(replicas)]
        self.servers = [first, *others]
        watch = _watch(first, down_after)
        self.sentinels = [RedisServer(program, watch, arguments=["--sentinel"]) for _ in range(_SENTINELS)]

    def url(self, options="", *, service=SERVICE):
        """Return Firelock's URL of the group."""
        hosts = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{service}{'?' if options else ''}{options}"

    # ---- start and stop ----------------------------------------------------------------------------------

    def __enter__(self):
        """Start every server; wait until the replicas follow and the Sentinels have found each other."""
        with ExitStack() as stack:
            for server in (*self.servers, *self.sentinels):
                stack.callback(server.close)
            for server in self.servers:
                server.start()
            eventually(self.is_replicated, within=DEADLINE)
            for sentinel in self.sentinels:
                sentinel.start()
            eventually(self._is_watched, within=DEADLINE)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        """Stop every server."""
        self._stack.close()

    def is_replicated(self):
        """Return whether every running replica follows the primary."""
        running = [server for server in self.servers if server.is_running]
        try:
            links = [server.info("replication") for server in running]
        except redis.ConnectionError:
            return False  # Sentinels disconnect the clients of a server whose role they change
        following = [link for link in links if link["role"] == "slave" and link["master_link_status"] == "up"]
        return len(following) == len(running) - 1

    def _is_watched(self):
        return all(
            (known := self._known(sentinel))
            and known["num-slaves"] == str(len(self.servers) - 1)
            and known["num-other-sentinels"] == str(_SENTINELS - 1)
            and known["flags"] == "master"
            for sentinel in self.sentinels
        )

    def _known(self, sentinel):
        reply = sentinel.call("SENTINEL", "MASTER", SERVICE)
        return dict(zip(reply[::2], reply[1::2], strict=True))

    # ---- roles -------------------------------------------------------------------------------------------

    def primary(self):
        """Return the server that the Sentinels return to clients."""
        return self._by_port(self._port_of_primary(self._living_sentinels()[0]))

    def replicas(self):
        """Return the other servers, including stopped ones."""
        primary = self.primary()
        return [server for server in self.servers if server is not primary]

    def await_failover(self, before):
        """Wait until every Sentinel reports another primary than this one; return the new primary."""
        eventually(lambda: self._has_replaced(before), within=_FAILOVER)
        return self.primary()

    def wait_longer(self):
        """From now on, let no Sentinel count a slow primary as lost."""
        for sentinel in self._living_sentinels():
            sentinel.call("SENTINEL", "SET", SERVICE, "down-after-milliseconds", str(_DOWN_AFTER_MS))
        eventually(
            lambda: all(self._known(one)["flags"] == "master" for one in self._living_sentinels()),
            within=DEADLINE,
        )

    def _has_replaced(self, before):
        ports = {self._port_of_primary(sentinel) for sentinel in self._living_sentinels()}
        if len(ports) > 1 or before.port in ports:
            return False
        try:
            return self.primary().info("replication")["role"] == "master"
        except redis.ConnectionError:
            return False

    def _living_sentinels(self):
        return [sentinel for sentinel in self.sentinels if sentinel.is_running]

    def _port_of_primary(self, sentinel):
        reply = sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(reply[1])

    def _by_port(self, port):
        return next(server for server in self.servers if server.port == port)

    def empty(self):
        """Delete all keys and scripts of the primary and its replicas."""
        self.primary().empty()


def _watch(primary, down_after):
    lines = [
        f"monitor {SERVICE} {HOST} {primary.port} {_QUORUM}",
        f"down-after-milliseconds {SERVICE} {int(down_after * 1_000)}",
        f"failover-timeout {SERVICE} {int(_TRIED_AGAIN_AFTER * 500)}",
        f"parallel-syncs {SERVICE} 1",
    ]
    return {"sentinel": lines}
