"""Waits in one process: the events that end a wait, earlier events, and the state after a fork."""

from __future__ import annotations

import os
import threading

import pytest

from firelock.storage.waiting import ANY_QUEUE, Waiting


@pytest.fixture
def waiting():
    """Return waits after a claim from all queues and a claim from the queue mail."""
    made = Waiting()
    made.mark(None)
    made.mark(["mail"])
    return made


@pytest.mark.parametrize(
    ("arrived", "ends"),
    [
        ({"mail"}, [True, True]),
        ({"pdf"}, [True, False]),
        ({ANY_QUEUE}, [True, True]),
        ({f"queue-{number}" for number in range(2_000)}, [True, True]),
    ],
    ids=["its queue", "another", "any", "too many to remember"],
)
def test_event_since_the_claim_ends_a_wait(waiting, arrived, ends):
    """An event ends only one wait. The next wait ends only after a later event."""
    waiting.note(arrived)

    assert ends == [waiting.wait(None, 0), waiting.wait(["mail"], 0)]
    assert [False, False] == [waiting.wait(None, 0), waiting.wait(["mail"], 0)]


def test_event_before_the_claim_does_not_end_a_wait(waiting):
    """The claim has already handled the event."""
    waiting.note({"mail"})
    waiting.mark(["mail"])

    assert not waiting.wait(["mail"], 0)


def test_wait_before_any_claim_ignores_earlier_events(waiting):
    """An event before the first claim of a queue is handled by that claim."""
    waiting.note({"pdf"})

    assert not waiting.wait(["pdf"], 0)
    assert not waiting.is_marked(["html"])


class Slow(Waiting):
    """Waits that report when one of them sleeps."""

    def __init__(self):
        super().__init__()
        self.sleeps = threading.Event()

    def sleep(self, seconds):
        """Extend `Waiting.sleep`; the lock is held until it sleeps."""
        self.sleeps.set()
        super().sleep(seconds)


@pytest.mark.parametrize(
    ("end", "answer"),
    [(lambda waiting: waiting.note({"mail"}), True), (lambda waiting: waiting.interrupt(), False)],
    ids=["work", "interrupt"],
)
def test_event_or_interrupt_ends_a_current_wait(end, answer):
    """Either a new job or an interrupt ends the wait. After an interrupt, the wait returns False."""
    waiting, answers = Slow(), []
    thread = threading.Thread(target=lambda: answers.append(waiting.wait(["mail"], 60)))
    thread.start()
    assert waiting.sleeps.wait(30)

    end(waiting)

    thread.join(30)
    assert [answer] == answers


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_process_has_its_own_waits(waiting):
    """A lock that another thread held does not block the child, and the child has no earlier events."""
    is_held, goes_on = threading.Event(), threading.Event()

    def hold():
        with waiting.changed:
            is_held.set()
            goes_on.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_held.wait(30)

    child = os.fork()
    if child == 0:
        waiting.note({"mail"})
        os._exit(0 if not waiting.is_marked(["mail"]) and not waiting.wait(["mail"], 0) else 1)

    _, status = os.waitpid(child, 0)
    goes_on.set()
    thread.join(30)
    assert 0 == os.waitstatus_to_exitcode(status)
