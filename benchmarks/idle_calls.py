"""Measure the load of idle worker processes on a storage: `python -m benchmarks.idle_calls --storage redis`.

The calls of one idle server are recorded with the sessions of many servers in the storage. Then they are
replayed as often as this number of worker processes would send them. The result is their share of one core of
the storage's server or, for SQLite, of the sending process.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import attrs

from benchmarks import places
from benchmarks.contenders import RESULTS
from benchmarks.places import Place
from benchmarks.retention import tasks
from firelock import Firelock
from firelock.plugins.loader import open_storage
from firelock.storage import NewSession, Storage
from firelock.testing import FaultyStorage

LIFE = 86_400.0  # seconds until a session expires without renewal
BLOCKING = {"wait", "interrupt", "close"}  # calls that make the storage do no work
OF_ONE = {"prune"}  # calls that only one of all processes makes


@attrs.frozen
class Call:
    """A recorded call of a storage method."""

    verb: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class RecordedStorage(FaultyStorage):
    """A wrapper of a storage that records its calls while `is_recording`."""

    def __init__(self, inside: Storage) -> None:
        super().__init__(inside)
        self.calls: list[Call] = []
        self.is_recording = False
        self._listing = threading.Lock()

    def pass_on(self, verb: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - of any verb
        """Record the call, then pass it on."""
        if self.is_recording and verb not in BLOCKING:
            with self._listing:
                self.calls.append(Call(verb, args, kwargs))
        return super().pass_on(verb, *args, **kwargs)


def main() -> int:
    """Run the measurements on the command line, and print the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle_calls", description=__doc__)
    parser.add_argument("--storage", choices=places.STORAGES, default="redis")
    parser.add_argument("--processes", type=int, default=500, help="idle worker processes (default: 500)")
    parser.add_argument("--dead", type=int, default=5_000, help="dead sessions (default: 5,000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds of recording (default: 60)")
    parser.add_argument("--rounds", type=int, default=50, help="replays of the recording (default: 50)")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="idle-calls-", dir=RESULTS))
    folder.chmod(0o755)  # database servers run as another user
    try:
        with places.opened(options.storage, folder / "storage") as place:
            measure(place, options)
    finally:
        shutil.rmtree(folder)
    return 0


def measure(place: Place, options: argparse.Namespace) -> None:
    """Record and replay calls, and print their share of a core."""
    storage = RecordedStorage.around(open_storage(place.url))
    with Firelock(storage) as fire:
        storage.migrate()
        tasks.declare(fire)
        store_sessions(storage, options.processes - 1, options.dead)
        with fire.server(workers=1):
            time.sleep(5)  # the start of the server
            storage.is_recording = True
            time.sleep(options.seconds)
            storage.is_recording = False
            calls = [call for call in storage.calls if call.verb not in OF_ONE]
            used, begun = spent(place), time.perf_counter()
            for _ in range(options.rounds):
                for call in calls:
                    if call.verb == "claim":  # an idle process claims after a wait without a notification
                        storage.inside.wait(call.args[0].queues, 0.0)
                    getattr(storage.inside, call.verb)(*call.args, **call.kwargs)
            used, lasted = spent(place) - used, time.perf_counter() - begun
    share = used / options.rounds * options.processes / options.seconds
    print(f"{len(calls) / options.seconds:.2f} calls per second and process:")
    for verb, number in Counter(call.verb for call in calls).most_common():
        print(f"  {number / options.seconds:.3f} {verb}")
    print(
        f"{options.processes:,} idle worker processes and {options.dead:,} dead sessions: "
        f"{share:.2%} of a core ({used / options.rounds / len(calls) * 1e6:.0f} µs of CPU time per call; "
        f"{lasted:.1f} s of replay)"
    )


def spent(place: Place) -> float:
    """Return the processor time of the storage's server, or of this process if there is no server."""
    return place.cpu_seconds() if place.server else time.process_time()


def store_sessions(storage: Storage, living: int, dead: int) -> None:
    """Store sessions of servers with ten worker processes each; dead ones are as after a deployment."""
    for number in range(dead + living):
        server = f"server-{number // 10}"
        now = storage.clock()
        name = f"session-{number:06}"
        storage.begin_session(
            NewSession(name, server, f"{server}:1", "host", number, now, LIFE, 10, "*", "1")
        )
        if number < dead:
            storage.end_session(name, (), reason="server stopped")


if __name__ == "__main__":
    sys.exit(main())
