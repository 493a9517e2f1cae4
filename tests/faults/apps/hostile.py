"""Jobs that damage their process and raise unusual exceptions."""

from __future__ import annotations

import asyncio
import locale
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from firelock import JobContext, Retry
from tests.faults.apps.work import fire

_NEVER = Retry.never()


class Unreadable(Exception):
    """An exception whose `str` and `repr` raise an error."""

    def __str__(self) -> str:
        raise ValueError

    __repr__ = __str__


class Unreadably(Exception):
    """An exception whose `str` exits the program."""

    def __str__(self) -> str:
        raise SystemExit(1)

    __repr__ = __str__


class Unstorable(dict[str, int]):
    """A result that exits the program when it is read."""

    def items(self) -> object:  # type: ignore[override]
        raise SystemExit(2)

    __iter__ = keys = values = items  # type: ignore[assignment]


def _raise(error: BaseException) -> None:
    raise error


def deep() -> None:
    """Recurse until Python raises an error."""
    deep()


def chained() -> None:
    """Fail with a chain of two hundred causes and a message of a megabyte."""
    error: Exception | None = None
    for _ in range(200):
        error, previous = ValueError("x" * 1_000_000 if error is None else "again"), error
        error.__cause__ = previous
    _raise(error or ValueError())


def close_streams() -> None:
    """Close the streams to which programs print."""
    sys.stdout.close()
    sys.stderr.close()


def change_surroundings() -> None:
    """Change the folder, the locale, the environment and a signal handler."""
    os.chdir("/")
    locale.setlocale(locale.LC_ALL, "C")
    os.environ.clear()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # in a thread this raises an error, which fails the job


def leak_threads() -> None:
    """Leave threads behind that never end and that keep a program from ending."""
    for _ in range(200):
        threading.Thread(target=time.sleep, args=(3_600,)).start()


def stop_the_loop() -> None:
    """Stop the event loop that runs this job, if there is one."""
    asyncio.get_running_loop().stop()


def end_the_loop() -> None:
    """Make a callback of the event loop exit the program."""
    asyncio.get_running_loop().call_soon(sys.exit, 5)


def fork_and_return() -> None:
    """Fork, and let the copy return as if it were the job's process."""
    os.fork()


_KINDS: dict[str, Callable[[], object]] = {
    "base-exception": lambda: _raise(BaseException("out of here")),
    "system-exit": lambda: sys.exit(3),
    "keyboard-interrupt": lambda: _raise(KeyboardInterrupt()),
    "cancelled-error": lambda: _raise(asyncio.CancelledError()),
    "generator-exit": lambda: _raise(GeneratorExit()),
    "stop-iteration": lambda: _raise(StopIteration(1)),
    "unreadable": lambda: _raise(Unreadable()),
    "unreadably": lambda: _raise(Unreadably()),
    "deep": deep,
    "chained": chained,
    "unstorable": Unstorable,
    "object": object,
    "surrogates": lambda: "\ud800",
    "closed-streams": close_streams,
    "surroundings": change_surroundings,
    "low-recursion": lambda: sys.setrecursionlimit(120),
    "leaked-threads": leak_threads,
    "stopped-loop": stop_the_loop,
    "ended-loop": end_the_loop,
    "fork-and-return": fork_and_return,
}


def _register(name: str, act: Callable[[], object]) -> None:
    def in_thread(job: JobContext, seconds: float) -> object:
        return act()

    async def on_loop(job: JobContext, seconds: float) -> object:
        await asyncio.sleep(0)
        return act()

    fire.task(name=f"thread.{name}", retry=_NEVER)(in_thread)
    fire.task(name=f"loop.{name}", retry=_NEVER)(on_loop)
    apart = on_loop if name.endswith("-loop") else in_thread
    fire.task(name=f"process.{name}", retry=_NEVER, executor="process")(apart)


def probe() -> list[str]:
    """Print and recurse as any job may; return a list of the operations that no longer work."""
    wrong = []
    try:
        print("still here", flush=True)  # noqa: T201 - printing may have been broken
        sys.stderr.write("still here\n")
    except ValueError as error:
        wrong.append(f"print: {error}")
    try:
        _count_down(200)
    except RecursionError:
        wrong.append("a recursion limit")
    return wrong


def _count_down(left: int) -> None:
    if left:
        _count_down(left - 1)


for _name, _act in {**_KINDS, "probe": probe}.items():
    _register(_name, _act)
