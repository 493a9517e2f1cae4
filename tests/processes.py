"""The tests' own servers as processes, each in its own folder and ended with the test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from firelock.testing import eventually

_ROOT = Path(__file__).parents[1]

# A Python program that replaces itself with the given program. The kernel kills it with its parent, and no
# process is forked while threads run.
_BOUND = """
import ctypes, os, sys
parent, *command = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(parent):
    sys.exit("the tests are over")
os.execv(command[0], command)
"""


def start_program(command: Sequence[str | Path], log: Path) -> subprocess.Popen[bytes]:
    """Return the process of a program that dies with this one; its output is appended to the log.

    On Linux, the program dies with the thread that started it, so start it in the thread that runs the tests.
    """
    bound = [sys.executable, "-I", "-S", "-c", _BOUND, str(os.getpid()), *map(str, command)]
    with log.open("ab") as out:
        return subprocess.Popen(
            bound, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )


_light: list[str] = []  # the running test, if `make test` includes it


def running(test: str | None) -> None:
    """Store the id of the running test of `make test`; None means no test or a heavy one."""
    _light[:] = [test] if test else []


def refuse_to_light_tests(program: str) -> None:
    """Raise if the running test is not heavy, because not every contributor has this program."""
    if _light:
        raise RuntimeError(
            f"{_light[0]} starts {program}, not of a wheel: mark it @pytest.mark.heavy(reason)."
        )


class Process(ABC):
    """One server, which is started by `with`, or by `start`, and then must be closed.

    Its folder exists from its creation to `close`. `stop` and `kill` keep the folder and its contents.
    """

    deadline: float
    """Seconds within which the server responds after its start, and ends after a signal."""

    stop_signal: signal.Signals = signal.SIGTERM
    close_signal: signal.Signals = signal.SIGKILL
    is_of_a_wheel: bool = False  # whether it was installed with the Python packages

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _command(self) -> Sequence[str | Path]:
        """Return the server's command line and write its files to the folder."""

    @abstractmethod
    def _answers(self) -> bool:
        """Return whether the server responds.

        An AssertionError means that it does not, and contains the reason.
        """

    @property
    def pid(self) -> int:
        """The process id of the server."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process of the server exists; it may be paused."""
        return self._process is not None and self._process.poll() is None

    def read_log(self) -> str:
        """Return the log of the server."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def start(self) -> Self:
        """Start the server and wait until it responds. A restart keeps its port and its data."""
        assert not self.is_running, "it runs already"
        if not self.is_of_a_wheel:
            refuse_to_light_tests(type(self).__name__)
        self._process = self._launch()
        eventually(self._is_ready, within=self.deadline)
        return self

    def _launch(self) -> subprocess.Popen[bytes]:
        return start_program(self._command(), self.log)

    def _is_ready(self) -> bool:
        if not self.is_running:
            raise RuntimeError(f"{type(self).__name__} ended at its start: {self.read_log()[-2_000:]}")
        return self._answers()

    def stop(self) -> None:
        """End the server as an operator would, so that its clients are disconnected."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End the server as `kill -9` does."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        # a paused process handles the signal only after it continues
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(self.deadline)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process = None

    def restart(self) -> None:
        """Stop the server and start it again."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End the server and delete its folder."""
        self._end(self.close_signal)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        """Start the server."""
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        """Close the server."""
        self.close()


def printed_before_killed(code: str, *arguments: str) -> list[str]:
    """Return the words of the first line that another Python process printed before it was killed.

    The code runs in the same environment as these tests, with the arguments in `sys.argv`.
    """
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(
        command, cwd=_ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as python:
        assert python.stdout is not None
        words = python.stdout.readline().split()
        python.kill()
    return words


def is_there(pid: int) -> bool:
    """Return whether a process runs; one that has ended but whose parent has not noticed it does not."""
    return state_of(pid) not in {"", "Z"}


def state_of(pid: int) -> str:
    """Return Linux's letter for the state of a process, or "" if it has ended or on other systems."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
