"""The tests' own servers as processes: in a folder of their own, and gone with the test."""

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

# Python that becomes the program: the kernel kills it with its parent, and nothing is forked beside threads.
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
    """Return the process of a program that dies with this one; what it says is added to the log.

    On Linux it dies with the thread that started it: start it in the one that the tests run in.
    """
    bound = [sys.executable, "-I", "-S", "-c", _BOUND, str(os.getpid()), *map(str, command)]
    with log.open("ab") as out:
        return subprocess.Popen(
            bound, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )


_light: list[str] = []  # the test that runs, where it is one of `make test`


def running(test: str | None) -> None:
    """This test of `make test` runs from now on; None where no test runs or a heavy one."""
    _light[:] = [test] if test else []


def refuse_to_light_tests(program: str) -> None:
    """Raise where the test that runs is not heavy: what it asks for, not every contributor has."""
    if _light:
        raise RuntimeError(
            f"{_light[0]} starts {program}, not of a wheel: mark it @pytest.mark.heavy(reason)."
        )


class Process(ABC):
    """One server. It is started by `with`, or by `start`, and then has to be closed.

    Its folder is there from its making to `close`; `stop` and `kill` leave it, with all that is in it.
    """

    deadline: float
    """Seconds within which it answers after its start, and is gone after a signal."""

    stop_signal: signal.Signals = signal.SIGTERM
    close_signal: signal.Signals = signal.SIGKILL
    is_of_a_wheel: bool = False  # it was installed with the other packages of Python

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _command(self) -> Sequence[str | Path]:
        """Return the server's command line; its files are in the folder afterwards."""

    @abstractmethod
    def _answers(self) -> bool:
        """Return whether it serves; an AssertionError is a no with its reason."""

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether its process is there, be it paused."""
        return self._process is not None and self._process.poll() is None

    def said(self) -> str:
        """Return its log."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def start(self) -> Self:
        """It answers. Started again, it is at the same port, with what it kept."""
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
            raise RuntimeError(f"{type(self).__name__} ended at its start: {self.said()[-2_000:]}")
        return self._answers()

    def stop(self) -> None:
        """It has ended as an operator ends it: whoever is connected is sent away."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """It has ended as by `kill -9`."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)  # one that is paused hears of it only when it goes on
        try:
            self._process.wait(self.deadline)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process = None

    def restart(self) -> None:
        """It was stopped and has been started again."""
        self.stop()
        self.start()

    def close(self) -> None:
        """It has ended, and its folder is gone."""
        self._end(self.close_signal)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        """Start it."""
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def said_before_killed(code: str, *arguments: str) -> list[str]:
    """Return the words of the first line that another Python printed, which has been killed then.

    The code is run as these tests are, with the arguments in `sys.argv`.
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
    """Tell whether a process runs; one that waits for its parent to notice its end does not."""
    return state_of(pid) not in {"", "Z"}


def state_of(pid: int) -> str:
    """Return the letter that Linux has for what a process does; nothing where it is gone, or elsewhere."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
