"""Database servers as processes: in a folder of their own, without root's rights, gone with the test."""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs

from firelock.testing import eventually
from tests.redis.servers import start_program

__all__ = [
    "DEADLINE",
    "Account",
    "Process",
    "account",
    "copy_folder",
    "is_there",
    "new_folder",
    "run_to_its_end",
    "shared_folder",
]

DEADLINE = 30.0

# Python that gives up root's rights and becomes the program. Whoever changes the account is no longer killed
# with its parent, so that is asked for once more.
_WITHOUT_RIGHTS = """
import ctypes, os, sys
parent, folder, uid, gid, *command = sys.argv[1:]
os.chdir(folder)
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(parent):
    sys.exit("the tests are over")
os.execv(command[0], command)
"""


@attrs.frozen
class Account:
    """Who a server runs as."""

    name: str
    uid: int
    gid: int

    def own(self, *paths: Path) -> None:
        """These files and folders are its own."""
        if os.getuid() == 0:
            for path in paths:
                os.chown(path, self.uid, self.gid)


@cache
def account() -> Account:
    """Return whoever runs the tests; for root, whom databases refuse, somebody without rights."""
    if os.getuid() != 0:
        return Account(pwd.getpwuid(os.getuid()).pw_name, os.getuid(), os.getgid())
    entries = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in ("postgres", "mysql", "nobody"):
        if entry := entries.get(name):
            return Account(name, entry.pw_uid, entry.pw_gid)
    message = "Databases do not run as root, and there is no account postgres, mysql or nobody."
    raise RuntimeError(message)


def new_folder() -> Path:
    """Return a folder that the servers' account owns, of a path short enough for a socket's."""
    folder = Path(tempfile.mkdtemp(prefix="firelock-sql-", dir="/tmp"))
    account().own(folder)
    return folder


def shared_folder() -> Path:
    """Return a folder that is gone with this process: what is made in it is copied for every server."""
    folder = new_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def copy_folder(source: Path, copy: Path) -> None:
    """There is a copy of the folder, which the servers' account owns."""
    run_to_its_end(["/bin/cp", "-R", source, copy], copy.parent)


def run_to_its_end(command: Sequence[str | Path], folder: Path) -> None:
    """The program has run in the folder as the servers' account.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    ended = subprocess.run(
        [str(word) for word in command], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        errors="replace", timeout=DEADLINE * 2, check=False, env={**os.environ, "LC_ALL": "C"},
        **_identity(),
    )  # fmt: skip
    if ended.returncode:
        message = f"{command[0]} failed: {(ended.stdout + ended.stderr)[-2_000:]}"
        raise RuntimeError(message)


def _identity() -> Mapping[str, object]:
    if os.getuid() != 0:
        return {}
    return {"user": account().uid, "group": account().gid, "extra_groups": []}


class Process(ABC):
    """One server. It is started by `with`, or by `start`, and then has to be closed.

    Its folder, its port and its data are there from its making to `close`; `stop` and `kill` leave them.
    """

    stop_signal: signal.Signals = signal.SIGTERM
    close_signal: signal.Signals = signal.SIGKILL

    def __init__(self) -> None:
        self.folder = new_folder()
        self.log = self.folder / "log"
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
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def said(self) -> str:
        """Return its log."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def start(self) -> Self:
        """It answers. Started again, it is at the same port, with what it kept."""
        assert not self.is_running, "it runs already"
        user = account()
        command = [str(word) for word in self._command()]
        without_rights = [
            sys.executable, "-I", "-S", "-c", _WITHOUT_RIGHTS, str(os.getpid()), str(self.folder),
            str(user.uid), str(user.gid),
        ]  # fmt: skip
        self._process = start_program([*without_rights, *command], self.log)
        eventually(self._is_ready, within=DEADLINE)
        return self

    def _is_ready(self) -> bool:
        if not self.is_running:
            message = f"{type(self).__name__} ended at its start: {self.said()[-2_000:]}"
            raise RuntimeError(message)
        return self._answers()

    def stop(self) -> None:
        """It has ended as an operator ends it: whoever is connected is sent away."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """It has ended as by `kill -9`, and with it every process of its own."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        children = _children_of(self._process.pid)
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process = None
        eventually(lambda: not any(map(is_there, children)), within=DEADLINE)

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()


def _children_of(pid: int) -> list[int]:
    """Return the processes that a server has started; none where the kernel does not tell."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_there(pid: int) -> bool:
    """Tell whether a process runs; one that waits for its parent to notice its end does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
