"""A program in its own terminal: its output, and keys that the test presses."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from firelock.testing import eventually

# Replaces itself with the program, in a session whose terminal is its standard input, so that Ctrl-C reaches
# the program.
_IN_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[()][A-Z0-9]|[=>78])")


def plain(text: str) -> str:
    """Return written text without cursor movements and colours."""
    return _ESCAPE.sub("", text).replace("\r", "")


class PseudoTerminal:
    """A program that runs in a terminal until the end of the block.

    Args:
        command: the program and its arguments.
        folder: the working directory.
        environment: variables in addition to those of the tests.
        size: lines and columns.
    """

    deadline = 60.0  # seconds for anything awaited, because the machine may be busy

    def __init__(
        self, command: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None,
        size: tuple[int, int] = (40, 140),
    ) -> None:  # fmt: skip
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.modes = termios.tcgetattr(theirs)
        self._theirs = theirs  # kept open, so that the last output can still be read
        self._shown = bytearray()
        own = {name: text for name, text in os.environ.items() if name not in {"COLUMNS", "LINES"}}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _IN_TERMINAL, *command], cwd=folder, stdin=theirs,
            stdout=theirs, stderr=theirs,
            env={**own, "TERM": "xterm-256color", "NO_COLOR": "1", **(environment or {})},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while shown := os.read(self._ours, 65_536):
                self._shown += shown

    @property
    def raw(self) -> str:
        """All output to the terminal."""
        return self._shown.decode(errors="replace")

    @property
    def text(self) -> str:
        """The output without cursor movements and colours."""
        return plain(self.raw)

    def awaits(self, text: str, *, since: int = 0) -> int:
        """Wait until the text is shown; return the length of the output up to its end.

        Pass this length as `since` to wait for later output.
        """

        def place() -> int | None:
            found = self.text.find(text, since)
            assert found >= 0, f"{text!r} is not in: {self.text[since:][-3_000:]}"
            return found + len(text)

        return eventually(place, within=self.deadline)

    def press(self, keys: str) -> None:
        """Press these keys; "\\x03" is Ctrl-C."""
        os.write(self._ours, keys.encode())

    def left_modes(self) -> list[object]:
        """Return the current modes of the terminal."""
        return termios.tcgetattr(self._theirs)

    def ended(self) -> int:
        """Wait until the program has ended, and return its exit code."""
        return self.process.wait(self.deadline)

    def __enter__(self) -> Self:
        """Return the terminal."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the program, and all processes that it started."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
            self.process.kill()
            self.process.wait()
        self.last_modes = self.left_modes()
        os.close(self._theirs)
        self._reader.join(5)
        os.close(self._ours)
