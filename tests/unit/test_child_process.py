"""The process of a child, told what to do down a pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import attrs
import pytest

from firelock.server.board import Board
from firelock.server.supervisor import EXIT_FAILED, EXIT_OK, ServerOptions

APP = """
from firelock import Firelock
fire = Firelock("sqlite:///jobs.db")
fire.task(name="noop")(lambda: None)
"""


class Process:
    """A child's process with the two pipes of its supervisor."""

    def __init__(self, folder):
        (folder / "pipe_app.py").write_text(APP)
        self.board = Board.create(20)
        orders, self.orders = os.pipe()
        self.reports, reports = os.pipe()
        options = {
            **attrs.asdict(ServerOptions("pipe_app.py:fire", workers=1)),
            "place": 0, "server_id": "server-a", "name": "host:a", "is_first": False,
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "firelock.server.child_process", str(os.getpid()), str(orders),
             str(reports), str(self.board.descriptor), "20", json.dumps(options)],
            pass_fds=(orders, reports, self.board.descriptor), cwd=folder, stderr=subprocess.PIPE,
        )  # fmt: skip
        os.close(orders)
        os.close(reports)

    def report(self):
        """The next line it says."""
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self.reports, 1)
        return json.loads(line)

    def tell(self, line):
        os.write(self.orders, line.encode() + b"\n")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        os.close(self.orders)
        os.close(self.reports)
        self.board.close()


@pytest.fixture
def child(tmp_path):
    """A child that is ready and has no session yet."""
    child = Process(tmp_path)
    assert "ready" in child.report()
    yield child
    child.close()


def test_a_child_that_is_told_to_stop_before_it_began_ends_in_order(child):
    """It holds nothing."""
    child.tell('{"stop": 0}')

    assert EXIT_OK == child.process.wait(20)


def test_a_child_that_cannot_obey_ends(child):
    """It would be deaf to every other order, the stop among them."""
    child.tell("{")

    assert EXIT_FAILED == child.process.wait(20)
    assert b"could not be obeyed" in child.process.stderr.read()
