"""What comes between the question and the answer of a renewal."""

from __future__ import annotations

import pytest

from firelock.server.session_renewal import SessionKeeper
from firelock.server.shared_memory import Board
from firelock.settings import Settings
from firelock.storage import NewSession
from tests.core.fakes import FailingStorage, until


class Overtaken(FailingStorage):
    """A storage with something that happens while the answer to a renewal is on its way."""

    def __init__(self):
        super().__init__()
        self.meanwhile = []

    def renew(self, renewals):
        answer = super().renew(renewals)
        while self.meanwhile:
            self.meanwhile.pop()()
        return answer


class Scene:
    """A keeper at work on such a storage."""

    def __init__(self):
        self.storage = Overtaken()
        self.keeper = SessionKeeper(
            self.storage,
            Settings(heartbeat=0.1, session_timeout=3_600),
            "server-a",
            on_lost=lambda _: None,
            on_order=lambda _: None,
        )
        self.keeper.start()

    def begin(self, name):
        """A session, and the board of a child that has adopted it."""
        board = Board.create(2)
        now = self.storage.clock()
        self.keeper.begin(NewSession(name, "server-a", "host:a", "host", 7, now, 3_600.0), board)
        board.adopt_session()
        return board


@pytest.fixture
def scene():
    """A keeper at work, stopped at the end."""
    scene = Scene()
    yield scene
    scene.keeper.stop()
    scene.storage.close()


def test_a_session_forgotten_while_it_is_renewed_gets_no_right(scene):
    """It was found dead meanwhile: what its child claimed may be somebody else's."""
    board = scene.begin("a")

    scene.storage.meanwhile.append(lambda: scene.keeper.forget("a"))
    asked = len(scene.storage.called["get_record"])
    until(lambda: not scene.storage.meanwhile and len(scene.storage.called["get_record"]) > asked)

    assert not board.may_start()


def test_a_board_closed_while_its_session_is_renewed_costs_no_other_session(scene):
    """A child may die at that moment; the sessions of the others are renewed as ever."""
    first, second = scene.begin("a"), scene.begin("b")

    def dies():
        scene.keeper.forget("a")
        first.close()

    scene.storage.meanwhile.append(dies)
    until(lambda: not scene.storage.meanwhile)
    second.grant(0)

    until(second.may_start)
