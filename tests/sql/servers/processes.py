"""Database servers as processes: each in its own folder, without root's rights, stopped after the test."""

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

# A Python program that gives up root's rights and then becomes the server. After a change of the account, the
# kernel no longer kills a process with its parent, so this is requested again.
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
    """The account that a server runs as."""

    name: str
    uid: int
    gid: int

    def own(self, *paths: Path) -> None:
        """Make the account the owner of these files and folders."""
        if os.getuid() == 0:
            for path in paths:
                os.chown(path, self.uid, self.gid)


@cache
def account() -> Account:
    """Return the account of the user who runs the tests.

    For root, whom databases refuse, return an unprivileged account.
    """
    if os.getuid() != 0:
        return Account(pwd.getpwuid(os.getuid()).pw_name, os.getuid(), os.getgid())
    entries = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in ("postgres", "mysql", "nobody"):
        if entry := entries.get(name):
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise RuntimeError("Databases do not run as root, and there is no account postgres, mysql or nobody.")


def new_folder() -> Path:
    """Return a folder owned by the servers' account, with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="firelock-sql-", dir="/tmp"))
    account().own(folder)
    return folder


def shared_folder() -> Path:
    """Return a folder that is deleted when this process ends; its contents are copied for every server."""
    folder = new_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def copy_folder(source: Path, copy: Path) -> None:
    """Copy the folder; the servers' account owns the copy."""
    run_to_its_end(["/bin/cp", "-R", source, copy], copy.parent)


def run_to_its_end(command: Sequence[str | Path], folder: Path) -> None:
    """Run the program in the folder as the servers' account.

    Raises:
        RuntimeError: the program failed; the message contains its output.
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
    """A database server, or a pooler in front of one.

    It runs as `account`, and counts as ended only when its child processes have ended too. `USER` connects
    with a password and has all rights in the databases.
    """

    scheme: str
    """The scheme of its databases' URLs."""

    deadline = DEADLINE

    def __init__(self) -> None:
        super().__init__(new_folder())
        self.port = free_port()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return HOST, self.port

    def url(self, database: str, options: str = "", *, scheme: str = "", port: int | None = None) -> str:
        """Return the URL of a database on loopback with a password; with `port`, through a proxy."""
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
    """Return the process ids of a server's child processes; none if the kernel does not list them."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
