"""Commands that run in this process, and jobs that are put into states without a server."""

from __future__ import annotations

import io
import json
import shlex

import attrs
import pytest

from firelock.cli import main
from firelock.model import lifecycle
from firelock.model.job import ErrorInfo
from firelock.model.session import ClaimHolder
from firelock.storage import ClaimRequest, NewSession


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


@attrs.frozen
class Ran:
    """The result of a command."""

    code: int
    out: str
    error: str

    @property
    def json(self):
        """The command's output as a JSON value."""
        return json.loads(self.out)


@attrs.frozen
class Run:
    """A function that runs commands in this process."""

    capsys: pytest.CaptureFixture[str]

    def __call__(self, words="", *more):
        """Run the command with these words, split at spaces, and further arguments; return its result."""
        self.capsys.readouterr()
        code = main([*shlex.split(words), *map(str, more)])
        written = self.capsys.readouterr()
        return Ran(code, written.out, written.err)


def begin_session(app, session="s1", *, server="vm:1", queues="*", timeout_seconds=30.0):
    """Begin a session of a server, and return its holder."""
    app.storage.begin_session(
        NewSession(
            session, f"id of {server}", server, "vm", 1, app.storage.clock(), timeout_seconds, 4, queues
        )
    )
    return ClaimHolder(session, server)


def claim(app, holder):
    """Claim the only enqueued job for the session, and return it."""
    return app.storage.claim(ClaimRequest(None, 1, holder.session, app.storage.clock())).jobs[0]


def fail(app, *, message="no such file", traceback=None, fingerprint="f1"):
    """Let the only enqueued job fail; return its id."""
    holder = begin_session(app)
    job, now = claim(app, holder), app.storage.clock()
    error = ErrorInfo("builtins.ValueError", message, fingerprint, traceback)
    app.storage.apply(
        [
            lifecycle.failed(
                job, holder, at=now, started_at=now, reason=f"failed: {message}", error=error, expires_at=None
            )
        ]
    )
    return job.id
