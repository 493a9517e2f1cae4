"""The shared memory of a worker process, which can still be read after its death."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from firelock import ConfigurationError
from firelock.model.clock import elapsed_seconds
from firelock.model.ids import new_id
from firelock.server.shared_memory import NO_WORKERS, SharedMemory, WorkerCounts, share_memory
from tests.core.fakes import Host


@pytest.fixture
def board():
    """A new shared memory with places for three workers."""
    board = SharedMemory.create(3)
    yield board
    board.close()


def test_right_to_run_is_valid_until_its_expiry_time(board):
    """A job may be started before the time up to which the right was granted, but not after it."""
    board.grant(elapsed_seconds() + 3_600)
    before = board.may_start()
    board.grant(elapsed_seconds() - 0.001)
    after = board.may_start()

    assert (True, False) == (before, after)


def test_suspension_ends_the_right_to_run_but_does_not_count_as_silence():
    """The storage's clock continues while the machine is suspended, so the right expires.

    A worker process cannot report during that time, so its silence does not count.
    """
    host = Host()
    board = SharedMemory.create(1, host.clocks.elapsed)
    board.grant(host.clocks.elapsed() + 30)
    board.report(NO_WORKERS)

    seen = []
    for seconds in (20, 20):
        host.suspend(seconds)
        seen.append((board.may_start(), board.has_right(), board.silence() < 20))

    assert [(True, True, True), (False, False, True)] == seen
    board.close()


def test_report_contains_cpu_time_and_memory(board):
    """A report contains the process's CPU time since its start, its memory and the time of the report."""
    before = (board.last_report().cpu_seconds, board.last_report().rss_bytes, board.last_report().at)
    began = time.monotonic()

    workers = WorkerCounts(4, 100, 3, 50, 2, 1)
    board.report(workers, cpu_seconds=1.25, rss_bytes=48 * 1024 * 1024)
    board.turn()
    board.start(0, new_id())

    assert (0.0, 0, 0.0) == before
    assert (1.25, 48 * 1024 * 1024) == (board.last_report().cpu_seconds, board.last_report().rss_bytes)
    assert (workers, 53) == (board.last_report().workers, board.last_report().workers.busy)
    assert began <= board.last_report().at <= time.monotonic()


def test_running_jobs_are_read_per_worker(board):
    """Each worker has its own slot in the memory, so a job that ends does not affect the other slots."""
    ids = [new_id() for _ in range(3)]
    for worker, job_id in enumerate(ids):
        board.start(worker, job_id)

    board.end(1)

    assert [ids[0], ids[2]] == board.running()


# ---- shared memory ---------------------------------------------------------------------------------------


@pytest.fixture(params=["as here", "without memfd_create"])
def memory(request, monkeypatch):
    """Shared memory without a size, created in each way that supported systems provide."""
    if request.param == "without memfd_create":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    memory = share_memory()
    yield memory
    os.close(memory)


RUNS_AND_DIES = """
import os, signal, sys
from firelock.server.shared_memory import SharedMemory

descriptor, job_id = int(sys.argv[1]), sys.argv[2]
board = SharedMemory.allocate(descriptor, 3)
board.start(2, job_id)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_memory_can_be_read_after_the_death_of_its_writer(memory):
    """Another program inherits the descriptor and sets the size.

    The program's running jobs can be read after its death.
    """
    job_id = new_id()

    subprocess.run(
        [sys.executable, "-c", RUNS_AND_DIES, str(memory), job_id], pass_fds=(memory,), check=False
    )

    board = SharedMemory.attach(memory, 3)
    assert [job_id] == board.running()
    board.close()


def test_memory_is_not_stored_in_a_file(memory, monkeypatch, tmp_path):
    """The memory needs no folder for temporary files, and has no name by which others could find it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))

    SharedMemory.allocate(memory, 3).close()
    SharedMemory.create(3).close()

    assert 0 == os.fstat(memory).st_nlink or not hasattr(os, "memfd_create")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="there, memory is never only promised")
def test_memory_is_allocated_when_it_is_created(memory):
    """The memory is allocated and not only reserved.

    Otherwise, a process could be killed at its first write because no memory is left.
    """
    SharedMemory.allocate(memory, 10_000).close()

    assert os.fstat(memory).st_blocks * 512 >= 10_000 * 40


def test_failed_memory_allocation_raises_an_error():
    """The error is raised when the server starts, and contains the requested size and a fix."""
    with (
        Path(os.devnull).open("rb") as nothing,
        pytest.raises(
            ConfigurationError,
            match=r"^Not enough shared memory for 3 workers \([0-9]+ bytes\): Invalid argument. Add memory",
        ),
    ):
        SharedMemory.allocate(nothing.fileno(), 3)


def test_right_to_run_belongs_to_the_adopted_session(board):
    """A right that is granted to a new session does not apply to waiting jobs of the previous session."""
    board.begin_session()
    board.grant(elapsed_seconds() + 3_600)

    before = board.may_start()
    board.adopt_session()

    assert (False, True) == (before, board.may_start())
