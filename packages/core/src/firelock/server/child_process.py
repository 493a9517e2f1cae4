"""The process of a child: `python -m firelock.server.child_process`, started by a supervisor."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from firelock.errors import ConfigurationError, FirelockError, StorageError
from firelock.hookspecs import ServerInfo
from firelock.server.board import Board
from firelock.server.child import Child, check_runnable
from firelock.server.lifeline import die_with_parent
from firelock.server.loading import load_app, load_module
from firelock.server.queue_choice import parse_queues
from firelock.server.supervisor import EXIT_FAILED, EXIT_OK, EXIT_UNREACHABLE, EXIT_USAGE, share
from firelock.server.surroundings import enable_loggers, keep_streams_open, log_to_stderr

if TYPE_CHECKING:
    from firelock.runtime import Runtime

log = logging.getLogger(__name__)

_PROGRAM = "firelock"


class ChildProcess:
    """Imports the app, asks for a session, runs jobs, and obeys its supervisor line by line."""

    def __init__(self, orders: IO[str], reports: IO[str], memory: int, options: dict[str, Any]) -> None:
        self._orders = orders
        self._reports = reports
        self._memory = memory  # the descriptor of what becomes the board
        self._options = options
        self._child: Child | None = None
        self._stopping: queue.SimpleQueue[float] = queue.SimpleQueue()

    def run(self) -> int:
        """Serve until told to stop; return the exit code."""
        app = load_app(self._options["app_spec"], storage=self._options["storage"])
        runtime = app.runtime
        for name in self._options["imports"]:
            load_module(name)
        enable_loggers()
        check_runnable(runtime, self._options["app_spec"])
        queues = parse_queues(self._options["queues"])
        total = self._options["workers"] or runtime.settings.worker_count
        coroutines = self._options["async_workers"] or runtime.settings.async_workers
        workers = share(total, self._options["processes"], self._options["place"])
        board = Board.allocate(self._memory, workers + coroutines)
        os.close(self._memory)
        server = ServerInfo(
            self._options["server_id"], self._options["name"], str(queues), total, os.getpid()
        )
        about = self._about(runtime, server) if self._options["is_first"] else []
        if self._options["is_first"]:
            runtime.storage.clock()  # connects: an unreachable storage is said here, in one line
            app.recurring.sync()
        runtime.plugins.worker_process_started(server)
        enable_loggers()  # a plugin may configure logging there
        self._child = Child(
            runtime, board, server, queues, workers, coroutines, self._options["app_spec"],
            self._report_lost, self._options["storage"], self._options["imports"],
        )  # fmt: skip
        self._say({"ready": {
            "storage": runtime.storage.connect_url, "settings": runtime.settings.to_json(),
            "workers": workers, "queues": str(queues), "about": about, "places": board.workers,
        }})  # fmt: skip
        threading.Thread(target=self._obey_all, name="firelock-orders", daemon=True).start()
        grace = self._stopping.get()
        stuck = self._child.stop(grace)
        if self._options["place"] == 0:
            runtime.plugins.server_stopped(server)
        runtime.plugins.worker_process_stopped(server)
        app.close()
        if stuck:
            logging.shutdown()
            os._exit(EXIT_OK)  # threads cannot be ended, and their jobs have been handed back
        return EXIT_OK

    @staticmethod
    def _about(runtime: Runtime, server: ServerInfo) -> list[str]:
        tasks = len(runtime.tasks.runnable())
        lines = [
            f"Firelock server {server.name}: {server.workers} workers, queues {server.queues}, {tasks} tasks"
        ]
        lines += [f"  {name}: {value}" for name, value in runtime.storage.describe().items()]
        lines += [
            f"  plugin {info.name}: {info.distribution} {info.version}".rstrip()
            for info in runtime.plugins.listing()
            if info.distribution != _PROGRAM
        ]
        return lines

    # ---- the two pipes -----------------------------------------------------------------------------------

    def _say(self, report: dict[str, Any]) -> None:
        try:
            self._reports.write(json.dumps(report) + "\n")
            self._reports.flush()
        except OSError:
            os._exit(EXIT_FAILED)  # the supervisor is gone, and with it the session

    def _report_lost(self, session: str) -> None:
        self._say({"session_lost": session})

    def _lines(self) -> Iterator[dict[str, Any]]:
        for line in self._orders:
            yield json.loads(line)

    def _obey_all(self) -> None:
        """Obey until the supervisor is gone, and nobody renews the session any more; who is deaf ends too."""
        try:
            self._obey_each()
        except Exception:
            log.exception("An order could not be obeyed; this child ends, and another takes its place.")
        os._exit(EXIT_FAILED)

    def _obey_each(self) -> None:
        is_started = False
        child = self._child
        if child is None:  # pragma: no cover - it is set before this thread starts
            raise AssertionError(self)
        for order in self._lines():
            if "session" in order and not is_started:
                is_started = True
                child.start(order["session"])
                if self._options["is_first"]:
                    child.runtime.plugins.server_started(child.server)
            elif "session" in order:
                child.adopt(order["session"])
            elif "quiet" in order and is_started:
                child.quiet(is_quiet=order["quiet"])
            elif "stop" in order and not is_started:
                os._exit(EXIT_OK)
            elif "stop" in order:
                self._stopping.put(order["stop"])
            elif "hurry" in order and is_started:
                child.hurry()


def main() -> int:
    """Return the exit code of a child's process."""
    parent, orders, reports, memory, given = sys.argv[1:]
    options = json.loads(given)
    die_with_parent(int(parent))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the supervisor hears them and tells us
    level = logging.DEBUG if options["is_verbose"] else logging.INFO
    keep_streams_open()
    log_to_stderr(level)
    process = ChildProcess(os.fdopen(int(orders)), os.fdopen(int(reports), "w"), int(memory), options)
    try:
        return process.run()
    except ConfigurationError as error:
        sys.stderr.write(f"{_PROGRAM}: {error}\n")
        return EXIT_USAGE
    except StorageError as error:
        sys.stderr.write(f"{_PROGRAM}: {error}\n")
        return EXIT_UNREACHABLE
    except FirelockError as error:
        sys.stderr.write(f"{_PROGRAM}: {error}\n")
        return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
