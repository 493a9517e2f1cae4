"""The lock provider: it fulfils the contract, including between processes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from firelock_extras import FolderLocks

from firelock import ConfigurationError, Firelock, StorageUnavailable
from firelock.testing import LockConformance


class TestFolderLocks(LockConformance):
    """The contract of a lock provider."""

    @pytest.fixture
    def lock_url(self, tmp_path):
        return f"flock://{tmp_path}/locks"


PROGRAM = """
import sys
from firelock_extras import FolderLocks

locks, tokens = FolderLocks(sys.argv[1]), []
while len(tokens) < 30:
    fence = locks.acquire_lock("report", sys.argv[2], 600)
    if fence is not None:
        tokens.append(fence)
        locks.release_lock("report", sys.argv[2], fence)
print(*tokens)
"""


def test_processes_never_get_one_token_twice(tmp_path):
    """Three processes take turns and get ascending tokens."""
    commands = [[sys.executable, "-c", PROGRAM, f"flock://{tmp_path}/locks", owner] for owner in "abc"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]

    tokens = [[int(one) for one in process.communicate(timeout=60)[0].split()] for process in processes]

    assert tokens == [sorted(one) for one in tokens]
    assert list(range(1, 91)) == sorted(one for some in tokens for one in some)


def test_app_uses_locks_in_a_folder(tmp_path):
    """`Firelock(locks=…)` finds the provider by the scheme of the URL."""
    fire = Firelock("memory://", locks=f"flock://{tmp_path}/locks")

    with fire.lock("report") as lock:
        taken = FolderLocks(f"flock://{tmp_path}/locks").acquire_lock("report", "another", 1)

    assert (1, None) == (lock.fence, taken)
    fire.close()


def test_folder_that_cannot_be_created_raises_a_firelock_error(tmp_path):
    """Errors of the operating system are raised as errors of Firelock."""
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageUnavailable):
        FolderLocks(f"flock://{tmp_path}/file/locks").acquire_lock("report", "ada", 1)


@pytest.mark.parametrize("url", ["flock://", "flock:///", "flock://host/path", "flock:///path?x=1"])
def test_url_without_a_folder_is_refused(url):
    """An ambiguous or incomplete URL raises an error immediately."""
    with pytest.raises(ConfigurationError):
        FolderLocks(url)
