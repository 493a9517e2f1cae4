"""`firelock dev`: a server and the dashboard in one terminal; both run the new code after each change.

The two are separate processes, which run the commands `firelock server` and `firelock dashboard`. Therefore
this module does not depend on a dashboard, and a new interpreter imports the changed code. If the new code
cannot be imported, the previous code keeps running.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import attrs

from firelock.cli.called import called_program
from firelock.cli.commands import Exit, Problem, describe, whole
from firelock.cli.screen import Cell, Screen
from firelock.cli.source import app_spec

_PORT, _LAST_PORT = 8787, 65_535
_POLL_INTERVAL = 200  # milliseconds
_DEBOUNCE = 400  # milliseconds; changes are collected because an editor can write a file more than once
_SERVER_TIMEOUT, _DASHBOARD_TIMEOUT = 3.0, 0.5  # seconds for a graceful stop, during which the user waits
_STOP_LIMIT = 20.0
_SHOWN = 3

# The code of a child process that runs one command, and that the kernel kills when its parent dies. It
# ignores a SIGHUP that arrives before it can reload, because it has not imported anything yet. Its messages
# name the program that the user called.
_BOUND = """
import signal, sys
from firelock.server.process_state import die_with_parent
signal.signal(signal.SIGHUP, signal.SIG_IGN)
die_with_parent(int(sys.argv.pop(1)))
program, has_app = sys.argv.pop(1), sys.argv.pop(1) == "yes"
from firelock.cli import main
sys.exit(main(program=program, has_app=has_app))
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to the parser."""
    describe(
        parser, _develop,
        more=(
            "A server runs the app's jobs, and the dashboard shows them. Both load the new code when a\n"
            "Python file of the project changes. Running jobs finish with the code with which they began;\n"
            "no job is lost or runs twice. If the new code cannot be imported, the old code keeps running."
        ),
        examples=(
            "firelock dev shop.jobs:fire",
            "firelock dev shop.jobs:fire --open --watch ../library",
            "firelock dev shop/jobs.py:fire --no-dashboard --workers 2",
        ),
    )  # fmt: skip
    parser.add_argument("spec", metavar="MODULE:NAME", nargs="?", help="app, for example shop.jobs:fire")
    parser.add_argument("--queues", metavar="LIST", help="as for firelock server")
    parser.add_argument("--workers", type=whole(10_000), metavar="N", help="as for firelock server")
    parser.add_argument("--import", action="append", default=[], dest="imports", metavar="MODULE",
                        help="additional module with tasks (repeatable)")  # fmt: skip
    parser.add_argument("--verbose", action="store_true", help="log debug messages")
    group = parser.add_argument_group("reloading")
    group.add_argument("--watch", action="append", default=[], metavar="FOLDER", type=Path,
                       help="additional folder to watch (repeatable)")  # fmt: skip
    group.add_argument("--no-reload", action="store_true", help="do not watch for changes")
    group = parser.add_argument_group("in a browser")
    group.add_argument(
        "--port", type=int, default=_PORT, metavar="N", help="port (default: 8787; 0: a free one)"
    )
    group.add_argument("--open", action="store_true", help="open the dashboard in the browser")
    group.add_argument("--no-dashboard", action="store_true", help="run only the server")


def _develop(options: argparse.Namespace, screen: Screen) -> int:
    spec = options.spec or app_spec(options)
    if spec is None:
        raise Problem(
            "firelock dev needs an app.",
            hint='Pass it, for example shop.jobs:fire, or set app = "shop.jobs:fire" in [tool.firelock].',
        )
    _require(options)
    folders = [] if options.no_reload else _folders(spec, options.watch)
    port = None if options.no_dashboard else _open_port(options.port)
    return Workbench(_programs(spec, port, options), _check(spec, options), folders, port, screen).run()


def _require(options: argparse.Namespace) -> None:
    """Check that everything that the command needs is installed.

    Raises:
        Problem: If something is missing. The hint describes how to install it or do without it.
    """
    if not options.no_reload and importlib.util.find_spec("watchfiles") is None:
        raise _not_installed("watchfiles, which reloads changed code, is not installed", "add --no-reload.")
    if not options.no_dashboard and not _has_dashboard():
        raise _not_installed("No installed plugin offers a dashboard", "add --no-dashboard.")


def _not_installed(problem: str, alternative: str) -> Problem:
    return Problem(f"{problem}.", hint=f'Run pip install "firelock[dev]", or {alternative}')


def _has_dashboard() -> bool:
    from firelock.plugins.loader import Plugins  # noqa: PLC0415 - only loaded for this check

    return any(command.name == "dashboard" for command in Plugins().commands())


def _folders(spec: str, more: Sequence[Path]) -> list[Path]:
    """Return the folders to watch: the current folder, the folder of the app's file, and the given folders.

    Raises:
        Problem: If one of them is not a folder.
    """
    file = Path(spec.rpartition(":")[0])
    own = [file.resolve().parent] if file.suffix == ".py" else []
    folders = [Path.cwd(), *own, *(folder.resolve() for folder in more)]
    for folder in folders:
        if not folder.is_dir():
            raise Problem(
                f"--watch must be an existing folder, got {str(folder)!r}.", hint="Pass an existing folder."
            )
    outer = [folder for folder in folders if not any(other in folder.parents for other in folders)]
    return list(dict.fromkeys(outer))


def _open_port(port: int) -> int:
    """Return a port of this machine on which the dashboard can listen, even after it is restarted.

    Raises:
        Problem: If the dashboard cannot listen on the port.
    """
    if not 0 <= port <= _LAST_PORT:
        raise Problem(f"--port must be from 0 to {_LAST_PORT}, got {port}.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Problem(
                f"Cannot listen on port {port} of 127.0.0.1: {error.strerror}.",
                hint="Use another --port, or 0 for a free one.",
            ) from error
        return int(probe.getsockname()[1])


# ---- programs --------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Program:
    """One of the commands, with its process."""

    name: str
    words: Sequence[str]
    stop_timeout: float  # seconds from the stop signal to a second signal, or to SIGKILL
    is_reloadable: bool  # whether SIGHUP makes it run the current code without losing jobs or requests
    has_shown_start: bool = False  # whether the output of an earlier start has been shown
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run the command. Standard output is shown only for the first start, standard error always."""
        words = [one for one in self.words if not (self.has_shown_start and one == "--open")]
        self.process = _started(words, is_shown=not self.has_shown_start)

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        """Send the signal to the process, if there is one."""
        if self.process is not None:
            self.process.send_signal(number)

    def ended(self) -> int | None:
        """Return the exit code of a process that has ended on its own, once per process; otherwise None."""
        code = None if self.process is None else self.process.poll()
        if code is not None:
            self.process = None
        return code


def _started(
    words: Sequence[str], *, is_shown: bool, error: BinaryIO | None = None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - this interpreter and program
        [sys.executable, "-c", _BOUND, str(os.getpid()), *called_program(), *words],
        stdin=subprocess.DEVNULL,
        stdout=None if is_shown else subprocess.DEVNULL,
        stderr=error,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},  # show a job's output as soon as it is printed
        start_new_session=True,  # only the parent receives the terminal's interrupts; it stops its children
    )


def _programs(spec: str, port: int | None, options: argparse.Namespace) -> list[Program]:
    storage = ["--storage", options.storage] if options.storage else []
    words = ["server", spec, "--name", f"dev on {socket.gethostname()}", *storage]
    words += ["--queues", options.queues] * (options.queues is not None)
    words += ["--workers", str(options.workers)] * (options.workers is not None)
    words += [word for module in options.imports for word in ("--import", module)]
    programs = [Program("server", words + ["--verbose"] * options.verbose, _SERVER_TIMEOUT, True)]
    if port is not None:
        words = ["dashboard", spec, "--port", str(port), "--environment", "development", *storage]
        programs.append(Program("dashboard", words + ["--open"] * options.open, _DASHBOARD_TIMEOUT, False))
    return programs


def _check(spec: str, options: argparse.Namespace) -> list[str]:
    """Return the arguments of a command that imports the app and fails if the import fails."""
    return ["plugins", "--app", spec, *(["--storage", options.storage] if options.storage else [])]


@attrs.define(eq=False)
class Workbench:
    """The programs of one `firelock dev`, which restarts them when files change.

    Args:
        programs: the programs to run.
        check: the arguments of the command that imports the new code before it replaces the running code.
        folders: the folders to watch; an empty list disables reloading.
        port: the port of the dashboard; None without a dashboard.
        screen: the output.
    """

    _programs: Sequence[Program]
    _check: Sequence[str]
    _folders: Sequence[Path]
    _port: int | None
    _screen: Screen
    _stop_signals: int = 0  # number of stop signals received
    _is_stopping: threading.Event = attrs.Factory(threading.Event)

    def run(self) -> int:
        """Run until stopped; return the exit code."""
        previous = {number: signal.signal(number, self._on_stop_signal) for number in _SIGNALS}
        try:
            self._print(self._introduction())
            self._start()
            for changed in self._changes():
                self._report_ended()
                if changed:
                    self._reload(changed)
                elif not self._folders and not any(program.process for program in self._programs):
                    return Exit.FAILED  # all programs have ended, and changes are not watched
        finally:
            self._stop(self._programs)
            for number, handler in previous.items():
                signal.signal(number, handler)
        return Exit.DONE

    def _on_stop_signal(self, *_: object) -> None:
        self._stop_signals += 1
        self._is_stopping.set()

    def _introduction(self) -> str:
        programs = " and ".join(f"a {program.name}" for program in self._programs)
        watched = ", ".join(map(str, self._folders))
        them = "them" if len(self._programs) > 1 else "it"
        reload = f", and restarts {them} when a Python file changes in {watched}" if watched else ""
        return f"Runs {programs}{reload}. Press Ctrl-C to stop."

    def _print(self, line: str, style: str = "bold") -> None:
        self._screen.line(Cell("firelock dev  ", "bright_black"), Cell(line, style))
        self._screen.flush()

    # ---- changes -----------------------------------------------------------------------------------------

    def _changes(self) -> Iterator[Collection[str]]:
        """Yield the changed Python files, or an empty collection several times a second, until stopped."""
        if not self._folders:
            while not self._is_stopping.wait(_POLL_INTERVAL / 1_000):
                yield ()
            return
        from watchfiles import PythonFilter, watch  # noqa: PLC0415 - optional dependency

        for changes in watch(
            *self._folders, watch_filter=PythonFilter(), debounce=_DEBOUNCE, rust_timeout=_POLL_INTERVAL,
            yield_on_timeout=True, stop_event=self._is_stopping, raise_interrupt=False,
        ):  # fmt: skip
            yield sorted({path for _, path in changes})

    def _reload(self, changed: Collection[str]) -> None:
        names = [os.path.relpath(path) for path in changed]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        self._print(f"Changed: {', '.join(names[:_SHOWN])}{more}", "cyan")
        self._start()

    def _start(self) -> None:
        """Run the current code in all programs, if it can be imported."""
        runs = any(program.process for program in self._programs)
        if not self._can_be_imported():
            if self._is_stopping.is_set():
                return
            kept = "the previous code keeps running" if runs else "nothing runs"
            self._print(f"The code cannot be imported; {kept} until the next change.", "bold red")
            return
        for program in self._programs:
            if program.is_reloadable and program.process is not None:
                program.signal(signal.SIGHUP)
            else:
                self._stop([program])
                if self._is_stopping.is_set():
                    return
                program.start()

    def _can_be_imported(self) -> bool:
        """Return whether the current code can be imported; if not, show the error.

        Other output of the import is not shown, because the programs show it when they import the code.
        """
        with tempfile.TemporaryFile() as error:
            process = _started(self._check, is_shown=False, error=error)
            while process.poll() is None:
                if self._is_stopping.wait(0.02):
                    process.kill()
            can_be_imported = process.wait() == Exit.DONE
            if not can_be_imported and not self._is_stopping.is_set():
                error.seek(0)
                sys.stderr.write(error.read().decode(errors="replace"))
                sys.stderr.flush()
        return can_be_imported

    def _report_ended(self) -> None:
        """Report each program that has ended on its own."""
        for program in self._programs:
            if (code := program.ended()) is not None:
                restart = "; it restarts after the next change" if self._folders else ""
                self._print(f"The {program.name} has ended (exit code {code}){restart}.", "bold red")

    # ---- stopping ----------------------------------------------------------------------------------------

    def _stop(self, programs: Sequence[Program]) -> None:
        """Stop these programs.

        A program that does not stop in time receives a second signal if it is reloadable, otherwise it is
        killed. If the user sends another stop signal, each program receives a second signal. A program that
        still runs after 20 seconds is killed.
        """
        running = [program for program in programs if program.is_alive]
        for program in running:
            is_started = program.is_reloadable or self._is_listening()
            program.has_shown_start = program.has_shown_start or is_started
            program.signal(signal.SIGTERM)
        began, stop_signals, signalled_again = time.monotonic(), self._stop_signals, set[str]()
        while remaining := [program for program in running if program.is_alive]:
            waited = time.monotonic() - began
            for program in remaining:
                is_late = waited > program.stop_timeout
                if waited > _STOP_LIMIT or (is_late and not program.is_reloadable):
                    program.signal(signal.SIGKILL)
                elif program.name not in signalled_again and (is_late or self._stop_signals > stop_signals):
                    signalled_again.add(program.name)
                    program.signal(signal.SIGTERM)
            time.sleep(0.02)
        for program in programs:
            program.process = None

    def _is_listening(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port or 0), timeout=0.5):
                return True
        except OSError:
            return False


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGHUP is sent if the terminal is closed
