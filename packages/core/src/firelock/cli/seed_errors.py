"""A made-up failure as text: an exception with the traceback that it would leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

import attrs

from firelock.failure import failure_of_text
from firelock.values import ErrorInfo

__all__ = ["Failure", "Failures", "Raised"]

_OWN, _LIBRARY = "/srv/shop/", "/srv/venv/lib/python3.12/site-packages/"


@attrs.frozen
class Raised:
    """One exception of a traceback: its type, its message with {n}, and its frames from the outside in.

    A frame is "file:line:function:code"; those of libraries begin with "@".
    """

    type: str
    message: str
    frames: tuple[str, ...]


class Failure:
    """One kind of failure: which tasks it befalls, how often, after how long."""

    def __init__(
        self, tasks: str, weight: float, seconds: float, raised: Raised, *, cause: Raised | None = None
    ) -> None:
        self.tasks = tuple(f"shop.{task}" for task in tasks.split())
        self.weight = weight
        self.seconds = seconds
        self._raised = raised
        self._cause = cause
        self.fingerprint = failure_of_text(raised.type, raised.message.replace("{n}", "1")).fingerprint
        module, _, name = raised.type.rpartition(".")
        self._class = type(name, (Exception,), {"__module__": module or "builtins", "__qualname__": name})
        self.example = self._class(raised.message)
        chain = (
            [_told(raised)]
            if cause is None
            else [_told(cause), "\nThat caused the following:\n", _told(raised)]
        )
        self._traceback = "\n".join(chain)

    def draw(self, random: Random) -> tuple[Exception, ErrorInfo]:
        """Return the exception of one run, and what is stored of it; numbers in its message differ."""
        number = str(100_000 + int(random.random() * 899_999))
        message = self._raised.message.replace("{n}", number)
        text = self._traceback.replace("{n}", number)
        return self._class(message), ErrorInfo(self._raised.type, message, self.fingerprint, text)


def _told(raised: Raised) -> str:
    lines = ["Traceback (most recent call last):"]
    for frame in raised.frames:
        file, line, function, code = frame.removeprefix("@").split(":", 3)
        mark, folder = ("  ", _LIBRARY) if frame.startswith("@") else ("→ ", _OWN)
        lines += [f'{mark}File "{folder}{file}", line {line}, in {function}', f"    {code}"]
    return "\n".join([*lines, f"{raised.type}: {raised.message}"])


class Failures:
    """Kinds of failure, by the tasks that they befall."""

    def __init__(self, kinds: Sequence[Failure]) -> None:
        self.kinds = kinds
        self._by_task: Mapping[str, tuple[Failure, ...]] = {
            task: tuple(kind for kind in kinds if task in kind.tasks) for kind in kinds for task in kind.tasks
        }

    def of_task(self, random: Random, task: str) -> Failure:
        """Return a kind that befalls the task; where none does, any."""
        return random.choice(self._by_task.get(task) or self.kinds)
