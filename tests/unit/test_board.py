"""The board: what is left to read when its child has died."""

from __future__ import annotations

import os
import time

import pytest

from firelock.ids import new_id
from firelock.server.board import Board


@pytest.fixture
def board():
    """A new board with places for three workers."""
    board = Board.create(3)
    yield board
    board.close()


def test_a_new_board_grants_nothing(board):
    """Until the supervisor says so, no job may be started, nobody is busy and nobody is silent."""
    assert (False, 0, 0.0, []) == (board.may_start(), board.busy, board.silence(), board.running())


def test_a_right_holds_until_its_instant(board):
    """A job may be started before the instant granted, not after it."""
    board.grant(time.monotonic() + 3_600)
    before = board.may_start()
    board.grant(time.monotonic() - 0.001)
    after = board.may_start()

    assert (True, False) == (before, after)


def test_zero_takes_the_right_away(board):
    """A right that was granted ends when zero is granted."""
    board.grant(time.monotonic() + 3_600)

    board.grant(0)

    assert not board.may_start()


def test_a_report_ends_the_silence(board):
    """The supervisor reads how many are busy and how long ago that was said."""
    before = time.monotonic()

    board.report(2)

    assert 2 == board.busy
    assert 0 <= board.silence() <= time.monotonic() - before


def test_a_report_says_what_the_process_takes(board):
    """Its time on processors since it began, its memory, and when that was said."""
    before = (board.cpu_seconds, board.rss_bytes, board.reported_at)
    began = time.monotonic()

    board.report(2, cpu_seconds=1.25, rss_bytes=48 * 1024 * 1024)

    assert (0.0, 0, 0.0) == before
    assert (1.25, 48 * 1024 * 1024) == (board.cpu_seconds, board.rss_bytes)
    assert began <= board.reported_at <= time.monotonic()


def test_what_runs_is_read_by_worker(board):
    """Each worker has a place of its own: what ended is gone, the neighbours' stays."""
    ids = [new_id() for _ in range(3)]
    for worker, job_id in enumerate(ids):
        board.start(worker, job_id)

    board.end(1)

    assert [ids[0], ids[2]] == board.running()


def test_another_process_reads_the_same_board(board):
    """Two views of one descriptor are one board: that is all that is left of a child that died."""
    job_id = new_id()
    supervisor = Board(os.dup(board.descriptor), board.workers)

    board.start(2, job_id)
    supervisor.grant(time.monotonic() + 3_600)

    assert ([job_id], True) == (supervisor.running(), board.may_start())
    supervisor.close()


def test_a_child_inherits_the_descriptor(board):
    """The descriptor may be passed to a child process, and no file is left behind."""
    assert os.get_inheritable(board.descriptor)
    assert 0 == os.fstat(board.descriptor).st_nlink


def test_closing_closes_the_descriptor():
    """A closed board leaves no descriptor open."""
    board = Board.create(1)

    board.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(board.descriptor)


def test_another_session_is_to_be_adopted_first(board):
    """What is granted to a new session is not for the jobs of the former one, which may still wait here."""
    supervisor = Board(os.dup(board.descriptor), board.workers)
    supervisor.begin_session()
    supervisor.grant(time.monotonic() + 3_600)

    before = board.may_start()
    board.adopt_session()

    assert (False, True) == (before, board.may_start())
    supervisor.close()
