"""The mailbox of a process, shared by its waiting threads.

A message that one of the threads takes reaches the others.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from firelock_sql.connections.notify import Wake


class Letterbox:
    """A mailbox that the test fills. Only a nudge ends its `listen`."""

    is_open = True

    def __init__(self):
        self.arrived = []
        self.is_received = threading.Event()
        self.nudged = threading.Event()

    def open(self):
        """Do nothing, because this mailbox is always open."""

    def close(self):
        """Do nothing."""

    def take(self):
        """Return the messages that have arrived."""
        taken, self.arrived = self.arrived, []
        return taken

    def listen(self, seconds):
        """Return after a nudge; the test takes the messages before the listening thread can see them."""
        self.is_received.set()
        self.nudged.wait(seconds)
        self.nudged.clear()

    def nudge(self):
        """Make the current `listen` return."""
        self.nudged.set()


@pytest.fixture
def letterbox():
    """The mailbox of one process."""
    return Letterbox()


@pytest.fixture
def wake(letterbox):
    """The waiting threads of that process."""
    return Wake(lambda: letterbox)


@contextmanager
def listener(wake, letterbox, queues):
    """Yield the results of a thread that waits for these queues.

    At the end the thread has returned or hangs.
    """
    wake.wait(queues, 0)  # the process waits for these queues from now on
    answers = []
    thread = threading.Thread(target=lambda: answers.append(wake.wait(queues, 60)), daemon=True)
    thread.start()
    assert letterbox.is_received.wait(30)
    yield answers
    thread.join(30)


def test_claim_of_other_queues_keeps_the_message_for_waiters(wake, letterbox):
    """A claim empties the mailbox before it reads its queues.

    A message about other queues still reaches the threads that wait for them.
    """
    with listener(wake, letterbox, ["mail"]) as answers:
        letterbox.arrived.append(b"mail")

        wake.mark(["default"])

    assert [True] == answers


def test_wait_for_other_queues_keeps_the_message_for_listeners(wake, letterbox):
    """A thread that starts to wait next to the listener might receive the message first."""
    with listener(wake, letterbox, ["mail"]) as answers:
        letterbox.arrived.append(b"mail")

        assert not wake.wait(["default"], 0)

    assert [True] == answers


def test_claim_of_the_same_queues_consumes_the_message(wake, letterbox):
    """The claim reads the jobs that the message announces.

    The message must not end a wait for the same queues.
    """
    with listener(wake, letterbox, ["mail"]) as answers:
        letterbox.arrived.append(b"mail")

        wake.mark(["mail"])
        wake.interrupt()

    assert [False] == answers
