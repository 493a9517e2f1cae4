"""An app for servers in other processes; run this module with a storage's URL."""

from __future__ import annotations

import sys

from firelock.app import Firelock
from firelock.context import JobContext
from firelock.server.supervisor import ServerOptions, Supervisor
from firelock.testing.conformance.server.stage import pause

GATE, HOLD, RUNNING = "kit gate", "kit.hold", "running"

# A server's worker processes import their app from a module; the command line names the storage of its jobs.
fire = Firelock("memory://")


def hold(context: JobContext, gate: str) -> None:
    """Log that the job is running, and wait until the storage has a record for this gate."""
    context.log(RUNNING)
    while fire.storage.get_record(GATE, gate) is None:
        context.raise_if_cancelled()
        pause(0.02)


fire.task(name=HOLD)(hold)


def main() -> int:
    """Run a server until it is stopped; return the exit code."""
    options = ServerOptions(
        "firelock.testing.conformance.server.own_process:fire", storage=sys.argv[1], workers=2
    )
    return Supervisor(options, say=print).run()


if __name__ == "__main__":
    sys.exit(main())
