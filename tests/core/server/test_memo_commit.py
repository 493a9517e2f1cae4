"""Memos of several runs share round trips, and each run gets its own result."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from firelock.errors import StorageError, StorageUnavailable
from firelock.model.answers import Applied
from firelock.model.memo import Memo, MemoKind, NewMemo
from firelock.server.memo_commit import MemoCommit
from tests.core.fakes import FailingStorage, until

DEADLINE = 10


class Interrupt(BaseException):
    """An exception that ends the thread that sends."""


class SlowStorage(FailingStorage):
    """A storage without jobs whose calls wait until the test allows them; it refuses some memos."""

    def __init__(self):
        super().__init__()
        self.began, self.may_go = threading.Event(), threading.Event()
        self.sent = []

    def remember(self, memos, *, within=None):
        names = [one.memo.name for one in memos]
        self.sent.append(names)
        self.began.set()
        assert names == ["quick"] or self.may_go.wait(DEADLINE)
        if "bad" in names:
            raise StorageError("a bad one")
        if "locked" in names:
            error = StorageUnavailable("somebody holds its row")
            error.is_untouched = error.has_waited = True
            raise error
        if names[0] == "interrupted":
            raise Interrupt
        return super().remember(memos, within=within)


@pytest.fixture
def storage():
    """The storage that receives the memos."""
    return SlowStorage()


def memo(name):
    """Return a memo of a job that does not exist."""
    return NewMemo("nobody", Memo(MemoKind.STEP, name, "1", True, 0), "session", 1)


def put_behind(storage, first, names, act=lambda: None):
    """Put these memos in separate threads while the first memo is being sent; return the results."""
    commit = MemoCommit(storage, DEADLINE)

    def put(name):
        try:
            return commit.put(memo(name)).answer
        except (Interrupt, StorageError) as error:
            return error

    with ThreadPoolExecutor(len(names) + 1) as pool:
        puts = [pool.submit(put, first)]
        assert storage.began.wait(DEADLINE)
        for number, name in enumerate(names, 1):
            puts.append(pool.submit(put, name))
            until(lambda: commit.waiting == number)  # noqa: B023 - awaited here
        act()
        storage.may_go.set()
        return [one.result(DEADLINE) for one in puts]


def test_memos_that_arrive_during_a_send_are_sent_together(storage):
    """Of 150 waiting memos, the first 100 are sent together, in their order, and the other 50 after them."""
    names = [f"{number:03}" for number in range(150)]

    answers = put_behind(storage, "first", names)

    assert [Applied.MISSING] * 151 == answers
    assert [["first"], names[:100], names[100:]] == storage.sent


def test_memo_is_sent_immediately_if_no_other_is_being_sent(storage):
    """Memos that are put one after another need one round trip each."""
    storage.may_go.set()
    commit = MemoCommit(storage)

    for name in "ab":
        commit.put(memo(name))

    assert [["a"], ["b"]] == storage.sent


def test_invalid_memo_does_not_affect_the_others(storage):
    """Memos that were refused together are sent one by one. The error is raised only for the invalid memo."""
    first, one, bad, other = put_behind(storage, "first", ["a", "bad", "b"])

    assert [Applied.MISSING] * 3 == [first, one, other]
    assert (StorageError, "a bad one") == (type(bad), str(bad))


def test_outage_is_raised_in_every_waiting_thread(storage):
    """Each waiting thread gets its own error object."""

    def goes_away():
        storage.fail_always("remember", StorageUnavailable("down"))

    _, *errors = put_behind(storage, "first", ["a", "b", "c"], goes_away)

    assert [(StorageUnavailable, "down")] * 3 == [(type(error), str(error)) for error in errors]
    assert 3 == len({id(error) for error in errors})
    assert [["first"], ["a", "b", "c"]] == storage.sent


def test_memos_of_an_interrupted_sender_are_sent_again(storage):
    """Memos that waited with an interrupted sender are sent again, along with later ones."""
    first, ended, *others = put_behind(storage, "first", ["interrupted", "a", "b"])

    assert Applied.MISSING is first
    assert Interrupt is type(ended)
    assert [Applied.MISSING] * 2 == others
    assert [["first"], ["interrupted", "a", "b"], ["a", "b"]] == storage.sent


def test_locked_row_delays_only_its_own_memo(storage):
    """If another transaction blocks some of the memos, so that none is stored, each memo is sent alone."""
    first, one, locked, other = put_behind(storage, "first", ["a", "locked", "b"])

    assert [Applied.MISSING] * 3 == [first, one, other]
    assert StorageUnavailable is type(locked)
    assert [["first"], ["a", "locked", "b"]] == storage.sent[:2]
    assert [["a"], ["b"], ["locked"]] == sorted(storage.sent[2:])


def test_thread_that_waited_long_sends_its_own_memo(storage):
    """A thread that has waited long sends its memo concurrently and is not delayed by the others."""
    commit = MemoCommit(storage, 0.0)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(commit.put, memo("slow"))
        assert storage.began.wait(DEADLINE)
        answer = commit.put(memo("quick")).answer
        storage.may_go.set()
        slow.result(DEADLINE)

    assert Applied.MISSING is answer
    assert [["slow"], ["quick"]] == storage.sent


def test_interrupted_waiting_thread_leaves_the_queue_of_senders(storage):
    """An interrupted thread that was waiting is no longer in the queue of senders."""
    commit = MemoCommit(storage, DEADLINE)

    def interrupt_main():
        until(lambda: commit.waiting == 1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    def raise_it(*_):
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, raise_it)
    try:
        with ThreadPoolExecutor(3) as pool:
            first = pool.submit(commit.put, memo("first"))
            assert storage.began.wait(DEADLINE)
            pool.submit(interrupt_main)
            with pytest.raises(Interrupt):
                commit.put(memo("ended"))
            last = pool.submit(commit.put, memo("last"))
            until(lambda: commit.waiting == 1)
            storage.may_go.set()
            assert [Applied.MISSING] * 2 == [one.result(DEADLINE).answer for one in (first, last)]
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert [["first"], ["last"]] == storage.sent
