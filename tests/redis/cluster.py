"""A Cluster of three primaries, with replicas if a test needs them."""

from __future__ import annotations

from contextlib import ExitStack

from firelock.testing import eventually
from tests.ports import HOST
from tests.redis.servers import DEADLINE, RedisServer

_PRIMARIES = 3
_SLOTS = 16_384
_BATCH = 100
_FAILOVER = 30.0


class ClusterServers:
    """Nodes that share the slots evenly, as a context manager.

    Args:
        program: the Redis or Valkey program.
        replicas: the number of replicas for each primary.
        node_timeout: seconds without a reply after which a node counts as lost for the others.
    """

    def __init__(self, program, *, replicas=0, node_timeout=2):
        self._stack = ExitStack()
        own = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            # while the nodes discover each other, which takes several of these periods
            "cluster-node-timeout": "1000",
            "cluster-replica-validity-factor": "0",
        }
        self.nodes = [RedisServer(program, own) for _ in range(_PRIMARIES * (1 + replicas))]
        self._node_timeout = str(int(node_timeout * 1_000))

    def url(self, options=""):
        """Return Firelock's URL of the cluster."""
        hosts = ",".join(f"{HOST}:{node.port}" for node in self.nodes)
        return f"redis+cluster://{hosts}{'?' if options else ''}{options}"

    # ---- start and stop ----------------------------------------------------------------------------------

    def __enter__(self):
        """Start every node, and wait until all nodes have the same slot owners and every replica follows."""
        with ExitStack() as stack:
            for node in self.nodes:
                stack.callback(node.close)
            for node in self.nodes:
                node.start()
            self._introduce()
            self._share_slots()
            self._follow()
            self.await_agreement()
            for node in self.nodes:
                node.call("CONFIG", "SET", "cluster-node-timeout", self._node_timeout)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        """Stop every node."""
        self._stack.close()

    def _introduce(self):
        for epoch, node in enumerate(self.nodes, 1):
            node.call("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for node in self.nodes[1:]:
            node.call("CLUSTER", "MEET", HOST, self.nodes[0].port)
        eventually(
            lambda: all(len(_seen_by(node)) == len(self.nodes) for node in self.nodes), within=DEADLINE
        )

    def _share_slots(self):
        for place, node in enumerate(self.nodes[:_PRIMARIES]):
            first, behind = _SLOTS * place // _PRIMARIES, _SLOTS * (place + 1) // _PRIMARIES
            node.call("CLUSTER", "ADDSLOTS", *range(first, behind))

    def _follow(self):
        for place, node in enumerate(self.nodes[_PRIMARIES:]):
            primary = self.nodes[place % _PRIMARIES]
            node.call("CLUSTER", "REPLICATE", self.id_of(primary))

    def await_agreement(self):
        """Wait until all running nodes report the same owners of all slots, and every replica follows."""
        eventually(self._agrees, within=_FAILOVER)

    def _agrees(self):
        running = [node for node in self.nodes if node.is_running]
        states = {_facts(node)["cluster_state"] for node in running}
        owners = {_owners(node) for node in running}
        return states == {"ok"} and len(owners) == 1 and all(map(_is_linked, running))

    def empty(self):
        """Delete all keys and scripts on all nodes."""
        for node in self.nodes:
            if node.is_running and node.info("replication")["role"] == "master":
                node.empty()

    # ---- slots and nodes ---------------------------------------------------------------------------------

    def id_of(self, node):
        """Return the name that the cluster has given to a node."""
        return str(node.call("CLUSTER", "MYID"))

    def primaries(self):
        """Return the nodes that own slots, as a running node sees it."""
        ports = {port for _, port, _ in _owners(self._living())}
        return [node for node in self.nodes if node.port in ports]

    def owner_of(self, slot):
        """Return the primary that owns a slot."""
        port = next(port for first, port, last in _owners(self._living()) if first <= slot <= last)
        return next(node for node in self.nodes if node.port == port)

    def slot_of(self, key):
        """Return the slot of a key."""
        return self._living().call("CLUSTER", "KEYSLOT", key)

    def _living(self):
        return next(node for node in self.nodes if node.is_running)

    # ---- changes -----------------------------------------------------------------------------------------

    def move_slot(self, slot, to):
        """Move the slot with its keys to another primary, and wait until all nodes have the new owner."""
        source = self.owner_of(slot)
        self.begin_move(slot, to)
        while self.move_keys(slot, source, to):
            pass
        self.end_move(slot, source, to)

    def begin_move(self, slot, to):
        """Start to move the slot: its owner redirects requests for keys that it no longer has."""
        source = self.owner_of(slot)
        to.call("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(to))

    def move_keys(self, slot, source, to, limit=_BATCH):
        """Move some of the slot's keys; return how many, or 0 if none was left."""
        keys = source.call("CLUSTER", "GETKEYSINSLOT", slot, limit)
        if keys:
            timeout = int(DEADLINE * 1_000)
            source.call("MIGRATE", HOST, to.port, "", 0, timeout, "REPLACE", "KEYS", *keys)
        return len(keys)

    def end_move(self, slot, source, to):
        """Assign the slot to the other node, and wait until all nodes have the new owner."""
        name = self.id_of(to)
        others = [node for node in self.primaries() if node not in {source, to}]
        for node in (to, source, *others):
            node.call("CLUSTER", "SETSLOT", slot, "NODE", name)
        self.await_agreement()

    def await_failover(self, lost):
        """Wait until a replica has replaced a killed primary."""
        eventually(lambda: lost not in self.primaries(), within=_FAILOVER)
        self.await_agreement()


def _facts(node):
    lines = str(node.call("CLUSTER", "INFO")).splitlines()
    return dict(line.split(":", 1) for line in lines)


def _seen_by(node):
    lines = str(node.call("CLUSTER", "NODES")).splitlines()
    return [line for line in lines if "handshake" not in line]


def _owners(node):
    """Return the first slot, the owner's port and the last slot of every range, as a node sees it."""
    reply = node.call("CLUSTER", "SLOTS")
    return frozenset((first, owner[1], last) for first, last, owner, *_ in reply)


def _is_linked(node):
    link = node.info("replication")
    return link["role"] == "master" or link["master_link_status"] == "up"
