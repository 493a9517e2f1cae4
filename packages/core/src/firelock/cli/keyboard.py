"""Single keys, which are read from a terminal without Enter; the terminal is always restored at the end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from types import FrameType

_NAMES = {b"[A": "up", b"[B": "down", b"OA": "up", b"OB": "down", b"[Z": "tab"}
_ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
Handler = Callable[[int, FrameType | None], None]


class Leaving(BaseException):
    """A request to end the program, after a signal or Ctrl-C."""


class Suspending(BaseException):
    """A request to suspend the program after Ctrl-Z, which returns the terminal to the shell."""


class Keyboard:
    """Keys pressed at the terminal within `open`; none if standard input is not a terminal."""

    def __init__(self) -> None:
        self._descriptor = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._woken = -1  # file descriptor that becomes readable when a signal arrives
        self._has_left = False
        self._is_suspending = False

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Within the block, make keys available one by one, without showing them.

        Raises:
            Leaving: If a signal requests that the program ends; raised only once. The exception can be raised
                at any line, so that the program does not wait for a slow call.
        """
        handlers: dict[signal.Signals, Handler] = dict.fromkeys(_ENDS, self._leave)
        handlers |= {signal.SIGTSTP: self._suspend, signal.SIGWINCH: _wake, signal.SIGCONT: _wake}
        modes = None if self._descriptor is None else termios.tcgetattr(self._descriptor)
        previous = {number: signal.getsignal(number) for number in handlers}
        self._woken, waking = os.pipe()
        for end in (self._woken, waking):
            os.set_blocking(end, False)
        wakes = signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        try:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if self._descriptor is not None:
                tty.setcbreak(self._descriptor, termios.TCSANOW)
            yield
        finally:
            if self._descriptor is not None and modes is not None:
                termios.tcsetattr(self._descriptor, termios.TCSANOW, modes)
            signal.set_wakeup_fd(wakes)
            for number, handler_before in previous.items():
                signal.signal(number, handler_before)
            os.close(self._woken)
            os.close(waking)

    def keys(self, seconds: float) -> list[str]:
        """Return the pressed keys, after at most this many seconds, or earlier if the window was resized.

        Raises:
            Suspending: If Ctrl-Z was pressed.
            Leaving: If the terminal was closed.
        """
        sources = [self._woken] if self._descriptor is None else [self._woken, self._descriptor]
        ready = select.select(sources, [], [], max(0.0, seconds))[0]
        if self._woken in ready:
            os.read(self._woken, 1_024)
        if self._is_suspending:
            self._is_suspending = False
            raise Suspending
        if self._descriptor is None or self._descriptor not in ready:
            return []
        if not (pressed := os.read(self._descriptor, 1_024)):
            raise Leaving
        return list(_names(pressed))

    def _leave(self, _: int, __: FrameType | None) -> None:
        if not self._has_left:  # restoring the terminal must not be interrupted
            self._has_left = True
            raise Leaving

    def _suspend(self, _: int, __: FrameType | None) -> None:
        self._is_suspending = True


def _wake(_: int, __: FrameType | None) -> None:
    """Do nothing, because the signal has already ended the wait through the wakeup descriptor."""


def _names(pressed: bytes) -> Iterator[str]:
    """Yield the names of keys: up, down, tab, enter, escape, or the character."""
    while pressed:
        first, pressed = pressed[:1], pressed[1:]
        if first == b"\x1b" and pressed[:2] in _NAMES:
            yield _NAMES[pressed[:2]]
            pressed = pressed[2:]
        elif first == b"\x1b":
            yield "escape"
            return  # the rest of an unknown sequence must not be treated as keys
        else:
            yield {b"\t": "tab", b"\n": "enter", b"\r": "enter"}.get(first) or first.decode("latin-1")


def suspend() -> None:
    """Stop this program until the shell continues it; until then, the shell controls the terminal."""
    os.kill(os.getpid(), signal.SIGSTOP)
