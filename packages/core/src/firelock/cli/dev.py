"""`firelock dev`: a server and the dashboard in one terminal; both run the new code after each change.

They are processes of the commands `firelock server` and `firelock dashboard`. This module therefore does not
depend on a dashboard, and changed code is imported by a new interpreter. Code that cannot be imported
replaces nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import attrs

from firelock.cli.called import called_program
from firelock.cli.commands import Exit, Problem, describe, whole
from firelock.cli.screen import Cell, Screen
from firelock.cli.source import app_spec

_PORT, _LAST_PORT = 8787, 65_535
_LOOK_EVERY = 200  # milliseconds
_SETTLED = 400  # milliseconds in which changes are collected: an editor writes a file more than once
_SERVER_PATIENCE, _DASHBOARD_PATIENCE = 3.0, 0.5  # seconds for an orderly stop while the user waits
_STOP_LIMIT = 20.0
_SHOWN = 3

# A child process that runs one command, and that the kernel kills when its parent dies. It ignores a SIGHUP
# that arrives before it can reload, because it has not imported anything yet. Its messages name the program
# that was called.
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
            "A server runs the app's jobs, the dashboard shows them, and both take up each change of a\n"
            "Python file of the project. Jobs that run then end on the code that they began with: none is\n"
            "lost, none runs twice. Code that cannot be imported is said, and what ran goes on."
        ),
        examples=(
            "firelock dev shop.jobs:fire",
            "firelock dev shop.jobs:fire --open --watch ../library",
            "firelock dev shop/jobs.py:fire --no-dashboard --workers 2",
        ),
    )  # fmt: skip
    parser.add_argument("spec", metavar="MODULE:NAME", nargs="?", help="the app, as shop.jobs:fire")
    parser.add_argument("--queues", metavar="LIST", help="as for firelock server")
    parser.add_argument("--workers", type=whole(10_000), metavar="N", help="as for firelock server")
    parser.add_argument("--import", action="append", default=[], dest="imports", metavar="MODULE",
                        help="a module with more tasks")  # fmt: skip
    parser.add_argument("--verbose", action="store_true", help="log everything")
    group = parser.add_argument_group("reloading")
    group.add_argument("--watch", action="append", default=[], metavar="FOLDER", type=Path,
                       help="a folder to watch beside this one and the app's")  # fmt: skip
    group.add_argument("--no-reload", action="store_true", help="watch nothing")
    group = parser.add_argument_group("in a browser")
    group.add_argument(
        "--port", type=int, default=_PORT, metavar="N", help="the port: 8787; 0 for a free one"
    )
    group.add_argument("--open", action="store_true", help="open the dashboard in the browser")
    group.add_argument("--no-dashboard", action="store_true", help="a server alone")


def _develop(options: argparse.Namespace, screen: Screen) -> int:
    spec = options.spec or app_spec(options)
    if spec is None:
        raise Problem(
            "firelock dev needs to know which app to run.",
            hint='Name it, as shop.jobs:fire, or write app = "shop.jobs:fire" below [tool.firelock].',
        )
    _require(options)
    folders = [] if options.no_reload else _folders(spec, options.watch)
    port = None if options.no_dashboard else _open_port(options.port)
    return Workbench(_programs(spec, port, options), _check(spec, options), folders, port, screen).run()


def _require(options: argparse.Namespace) -> None:
    """Check that everything that the command needs is installed.

    Raises:
        Problem: something is missing; the hint describes how to install it, and how to do without it.
    """
    if not options.no_reload and importlib.util.find_spec("watchfiles") is None:
        raise _not_installed("To reload, firelock dev needs watchfiles", "--no-reload watches nothing.")
    if not options.no_dashboard and not _has_dashboard():
        raise _not_installed("No installed plugin offers a dashboard", "--no-dashboard runs a server alone.")


def _not_installed(what: str, without: str) -> Problem:
    return Problem(f"{what}.", hint=f'pip install "firelock[dev]" brings it; {without}')


def _has_dashboard() -> bool:
    from firelock.plugins.loader import Plugins  # noqa: PLC0415 - only loaded for this check

    return any(command.name == "dashboard" for command in Plugins().commands())


def _folders(spec: str, more: Sequence[Path]) -> list[Path]:
    """Return the folders to watch: this one, that of an app that is named by its file, and the given ones.

    Raises:
        Problem: one of them is not a folder.
    """
    file = Path(spec.rpartition(":")[0])
    own = [file.resolve().parent] if file.suffix == ".py" else []
    folders = [Path.cwd(), *own, *(folder.resolve() for folder in more)]
    for folder in folders:
        if not folder.is_dir():
            raise Problem(f"--watch {str(folder)!r} is no folder.", hint="Name one that is there.")
    outer = [folder for folder in folders if not any(other in folder.parents for other in folders)]
    return list(dict.fromkeys(outer))


def _open_port(port: int) -> int:
    """Return a port of this machine on which the dashboard can listen, also after each restart.

    Raises:
        Problem: nothing can listen on it.
    """
    if not 0 <= port <= _LAST_PORT:
        raise Problem(f"--port {port} is no port; give 0 to {_LAST_PORT}.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Problem(
                f"Nothing can listen at 127.0.0.1, port {port}: {error.strerror}.",
                hint="Give another --port; 0 takes a free one.",
            ) from error
        return int(probe.getsockname()[1])


# ---- programs --------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Program:
    """One of the commands, as a process."""

    name: str
    words: Sequence[str]
    patience: float  # seconds from the stop signal to a second signal, or to SIGKILL
    is_reloadable: bool  # whether SIGHUP makes it run the current code without losing anything
    is_told: bool = False  # whether the output of its start is on the screen already
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run the command; the output of its start is shown only once, its errors always."""
        words = [one for one in self.words if not (self.is_told and one == "--open")]
        self.process = _started(words, is_heard=not self.is_told)

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        """Send the signal to the process, if there is one."""
        if self.process is not None:
            self.process.send_signal(number)

    def ended(self) -> int | None:
        """Return the exit code of a process that has ended by itself, and forget it; otherwise None."""
        code = None if self.process is None else self.process.poll()
        if code is not None:
            self.process = None
        return code


def _started(words: Sequence[str], *, is_heard: bool) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - this interpreter and program
        [sys.executable, "-c", _BOUND, str(os.getpid()), *called_program(), *words],
        stdin=subprocess.DEVNULL,
        stdout=None if is_heard else subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},  # show a job's output when it is printed
        start_new_session=True,  # only this process receives a terminal's interrupt; it stops the others
    )


def _programs(spec: str, port: int | None, options: argparse.Namespace) -> list[Program]:
    storage = ["--storage", options.storage] if options.storage else []
    words = ["server", spec, "--name", f"dev on {socket.gethostname()}", *storage]
    words += ["--queues", options.queues] * (options.queues is not None)
    words += ["--workers", str(options.workers)] * (options.workers is not None)
    words += [word for module in options.imports for word in ("--import", module)]
    programs = [Program("server", words + ["--verbose"] * options.verbose, _SERVER_PATIENCE, True)]
    if port is not None:
        words = ["dashboard", spec, "--port", str(port), "--environment", "development", *storage]
        programs.append(Program("dashboard", words + ["--open"] * options.open, _DASHBOARD_PATIENCE, False))
    return programs


def _check(spec: str, options: argparse.Namespace) -> list[str]:
    """Return the arguments of a command that imports the app, and fails if that is impossible."""
    return ["plugins", "--app", spec, *(["--storage", options.storage] if options.storage else [])]


@attrs.define(eq=False)
class Workbench:
    """The programs of one `firelock dev`, which restarts them when files change.

    Args:
        programs: the programs to run.
        check: the arguments of the command that tests the code before it replaces the running code.
        folders: the folders to watch; empty for none.
        port: the port of the dashboard, if there is one.
        screen: the output.
    """

    _programs: Sequence[Program]
    _check: Sequence[str]
    _folders: Sequence[Path]
    _port: int | None
    _screen: Screen
    _orders: int = 0  # number of stop signals received
    _is_over: threading.Event = attrs.Factory(threading.Event)

    def run(self) -> int:
        """Run until stopped; return the exit code."""
        former = {number: signal.signal(number, self._order) for number in _SIGNALS}
        try:
            self._say(self._introduction())
            self._start()
            for changed in self._changes():
                self._look()
                if changed:
                    self._reload(changed)
                elif not self._folders and not any(program.process for program in self._programs):
                    return Exit.FAILED  # nothing runs, and no change can fix that
        finally:
            self._stop(self._programs)
            for number, handler in former.items():
                signal.signal(number, handler)
        return Exit.DONE

    def _order(self, *_: object) -> None:
        self._orders += 1
        self._is_over.set()

    def _introduction(self) -> str:
        what = " and ".join(f"a {program.name}" for program in self._programs)
        watched = ", ".join(map(str, self._folders))
        them = "them" if len(self._programs) > 1 else "it"
        reload = f", and restarts {them} when a Python file changes in {watched}" if watched else ""
        return f"Runs {what}{reload}. Ctrl-C stops."

    def _say(self, line: str, style: str = "bold") -> None:
        self._screen.line(Cell("firelock dev  ", "bright_black"), Cell(line, style))
        self._screen.flush()

    # ---- changes -----------------------------------------------------------------------------------------

    def _changes(self) -> Iterator[Collection[str]]:
        """Yield the Python files that changed, or nothing several times a second, until stopped."""
        if not self._folders:
            while not self._is_over.wait(_LOOK_EVERY / 1_000):
                yield ()
            return
        from watchfiles import PythonFilter, watch  # noqa: PLC0415 - optional dependency

        for changes in watch(
            *self._folders, watch_filter=PythonFilter(), debounce=_SETTLED, rust_timeout=_LOOK_EVERY,
            yield_on_timeout=True, stop_event=self._is_over, raise_interrupt=False,
        ):  # fmt: skip
            yield sorted({path for _, path in changes})

    def _reload(self, changed: Collection[str]) -> None:
        names = [os.path.relpath(path) for path in changed]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        self._say(f"Changed: {', '.join(names[:_SHOWN])}{more}", "cyan")
        self._start()

    def _start(self) -> None:
        """Run the current code in all programs, if it can be imported."""
        runs = any(program.process for program in self._programs)
        if not self._can_be_imported():
            if self._is_over.is_set():
                return
            kept = "what ran goes on with the former code" if runs else "nothing runs"
            self._say(f"This code cannot be imported; {kept}, until the next change.", "bold red")
            return
        for program in self._programs:
            if program.is_reloadable and program.process is not None:
                program.signal(signal.SIGHUP)
            else:
                self._stop([program])
                if self._is_over.is_set():
                    return
                program.start()
        if runs:
            self._say("Reloading: the next jobs run the new code, those that run end on theirs.", "green")

    def _can_be_imported(self) -> bool:
        process = _started(self._check, is_heard=False)
        while process.poll() is None:
            if self._is_over.wait(0.02):
                process.kill()
        return process.wait() == Exit.DONE

    def _look(self) -> None:
        """Report each program that has ended by itself."""
        for program in self._programs:
            if (code := program.ended()) is not None:
                until = " until the next change" if self._folders else ""
                self._say(f"The {program.name} has ended (exit code {code}); it is down{until}.", "bold red")

    # ---- stopping ----------------------------------------------------------------------------------------

    def _stop(self, programs: Sequence[Program]) -> None:
        """Stop these programs.

        A late program gets a second signal, and so does every program on a further stop signal. A late
        program that is not reloadable, or any program after 20 seconds, is killed.
        """
        running = [program for program in programs if program.is_alive]
        for program in running:
            program.is_told = program.is_told or program.is_reloadable or self._is_listening()
            program.signal(signal.SIGTERM)
        began, orders, hurried = time.monotonic(), self._orders, set[str]()
        while remaining := [program for program in running if program.is_alive]:
            waited = time.monotonic() - began
            for program in remaining:
                is_late = waited > program.patience
                if waited > _STOP_LIMIT or (is_late and not program.is_reloadable):
                    program.signal(signal.SIGKILL)
                elif program.name not in hurried and (is_late or self._orders > orders):
                    hurried.add(program.name)
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


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGHUP if the terminal is closed
