"""Commands run in this process, and jobs brought into states without a server."""

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
    """A stream that a person looks at."""

    def isatty(self):
        return True


@attrs.frozen
class Ran:
    """What a command left."""

    code: int
    out: str
    error: str

    @property
    def json(self):
        """What it wrote, as a value."""
        return json.loads(self.out)


@attrs.frozen
class Run:
    """Runs commands in this process."""

    capsys: pytest.CaptureFixture[str]

    def __call__(self, words="", *more):
        """The command of these words, parted by blanks, and of more has run; its exit code, what it wrote."""
        self.capsys.readouterr()
        code = main([*shlex.split(words), *map(str, more)])
        written = self.capsys.readouterr()
        return Ran(code, written.out, written.err)


def begin_session(app, session="s1", *, server="vm:1", queues="*", timeout_seconds=30.0):
    """A session of a server lives."""
    app.storage.begin_session(
        NewSession(
            session, f"id of {server}", server, "vm", 1, app.storage.clock(), timeout_seconds, 4, queues
        )
    )
    return ClaimHolder(session, server)


def claim(app, holder):
    """The only enqueued job, taken by the session."""
    return app.storage.claim(ClaimRequest(None, 1, holder.session, app.storage.clock())).jobs[0]


def fail(app, *, message="no such file", traceback=None):
    """The only enqueued job has failed; return its id."""
    holder = begin_session(app)
    job, now = claim(app, holder), app.storage.clock()
    error = ErrorInfo("builtins.ValueError", message, "f1", traceback)
    app.storage.apply(
        [
            lifecycle.failed(
                job, holder, at=now, started_at=now, reason=f"failed: {message}", error=error, expires_at=None
            )
        ]
    )
    return job.id
