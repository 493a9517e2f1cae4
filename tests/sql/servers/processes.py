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
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import attrs

from firelock.testing import eventually
from tests.ports import HOST, free_port
from tests.processes import Process, is_there, start_program

DEADLINE = 30.0
USER, PASSWORD = "firelock", "secret"

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
    raise RuntimeError("Databases do not run as root, and there is no account postgres, mysql or nobody.")


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
        raise RuntimeError(f"{command[0]} failed: {(ended.stdout + ended.stderr)[-2_000:]}")


def _identity() -> Mapping[str, object]:
    if os.getuid() != 0:
        return {}
    return {"user": account().uid, "group": account().gid, "extra_groups": []}


class DatabaseServer(Process):
    """A server of databases, or a pooler before one.

    It runs as `account`, and has ended only when the processes of its own have as well. `USER` comes with a
    password, and may do all in the databases.
    """

    scheme: str
    """What its databases' URLs begin with."""

    deadline = DEADLINE

    def __init__(self) -> None:
        super().__init__(new_folder())
        self.port = free_port()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return HOST, self.port

    def url(self, database: str, options: str = "", *, scheme: str = "", port: int | None = None) -> str:
        """Return the URL of a database, by loopback, with a password; or by a proxy's port before it."""
        address = f"{scheme or self.scheme}://{USER}:{PASSWORD}@{HOST}:{port or self.port}/{database}"
        return f"{address}{'?' if options else ''}{options}"

    def _launch(self) -> subprocess.Popen[bytes]:
        user = account()
        without_rights = [
            sys.executable, "-I", "-S", "-c", _WITHOUT_RIGHTS, str(os.getpid()), str(self.folder),
            str(user.uid), str(user.gid),
        ]  # fmt: skip
        return start_program([*without_rights, *self._command()], self.log)

    def _end(self, number: signal.Signals) -> None:
        children = _children_of(self.pid) if self.is_running else []
        super()._end(number)
        eventually(lambda: not any(map(is_there, children)), within=DEADLINE)


def _children_of(pid: int) -> list[int]:
    """Return the processes that a server has started; none where the kernel does not tell."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
