"""Several who wait in one process share a mailbox: what one of them takes from it is news to the others."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from firelock_sql.connections.notify import Wake


class Letterbox:
    """A mailbox that is filled by hand, and ends a `listen` for a nudge alone."""

    is_open = True

    def __init__(self):
        self.arrived = []
        self.is_heard = threading.Event()
        self.nudged = threading.Event()

    def open(self):
        """It is open."""

    def close(self):
        """Nothing is left to close."""

    def take(self):
        """What has arrived."""
        taken, self.arrived = self.arrived, []
        return taken

    def listen(self, seconds):
        """Return after a nudge: what arrives is taken before whoever listens can see it."""
        self.is_heard.set()
        self.nudged.wait(seconds)
        self.nudged.clear()

    def nudge(self):
        """A `listen` under way returns."""
        self.nudged.set()


@pytest.fixture
def letterbox():
    """The mailbox of one process."""
    return Letterbox()


@pytest.fixture
def wake(letterbox):
    """Those who wait in that process."""
    return Wake(lambda: letterbox)


@contextmanager
def listener(wake, letterbox, queues):
    """Yield the answers of a thread that listens for these queues; at the end it has answered or is stuck."""
    wake.wait(queues, 0)  # known from now on
    answers = []
    thread = threading.Thread(target=lambda: answers.append(wake.wait(queues, 60)), daemon=True)
    thread.start()
    assert letterbox.is_heard.wait(30)
    yield answers
    thread.join(30)


def test_a_claim_of_other_queues_leaves_a_message_to_whoever_waits(wake, letterbox):
    """A claim reads the mailbox before it looks: a message for others than its own queues reaches them."""
    with listener(wake, letterbox, ["mail"]) as answers:
        letterbox.arrived.append(b"mail")

        wake.mark(["default"])

    assert [True] == answers


def test_a_wait_for_other_queues_leaves_a_message_to_whoever_listens(wake, letterbox):
    """Who begins to wait beside the listener may read the message first."""
    with listener(wake, letterbox, ["mail"]) as answers:
        letterbox.arrived.append(b"mail")

        assert not wake.wait(["default"], 0)

    assert [True] == answers


def test_a_claim_of_the_same_queues_has_seen_the_message(wake, letterbox):
    """What a claim is about to see ends no wait for the same queues."""
    with listener(wake, letterbox, ["mail"]) as answers:
        letterbox.arrived.append(b"mail")

        wake.mark(["mail"])
        wake.interrupt()

    assert [False] == answers
