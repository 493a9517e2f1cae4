"""Jobs that kill their process, each in a different way."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable

from firelock import JobContext, Retry
from tests.faults.apps.work import begin, fire

_NEVER = Retry.never()
_HEADROOM = 256 << 20
_FORKS = 50


def _nested(depth: int) -> list[object]:
    inner: list[object] = []
    for _ in range(depth):
        inner = [inner]
    return inner


def overflow() -> None:
    """Recurse in C until the stack is used up."""
    sys.setrecursionlimit(2**31 - 1)
    repr(_nested(2_000_000))


def fork_bomb() -> None:
    """Start many copies of this process together, then abort."""
    for _ in range(_FORKS):
        if os.fork() == 0:
            time.sleep(0.5)
            os._exit(0)
    os.abort()


_DEATHS: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(3),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "overflow": overflow,
    "fork-bomb": fork_bomb,
}


def _register(name: str, death: Callable[[], object]) -> None:
    @fire.task(name=name, retry=_NEVER)
    def die(job: JobContext, seconds: float) -> None:
        begin(job)
        time.sleep(seconds)
        death()


for _name, _death in _DEATHS.items():
    _register(_name, _death)


@fire.task(name="async-exit", retry=_NEVER)
async def async_exit(job: JobContext, seconds: float) -> None:
    """Exit the process from the event loop."""
    begin(job)
    os._exit(4)


@fire.task(name="apart-kill", retry=_NEVER, executor="process")
def apart_kill(job: JobContext, seconds: float) -> None:
    """Kill the job process as the kernel does when memory runs out."""
    begin(job)
    os.kill(os.getpid(), signal.SIGKILL)


@fire.task(name="memory", retry=_NEVER, executor="process")
def memory(job: JobContext, seconds: float) -> None:
    """Allocate more memory than this process may have, which raises an exception."""
    begin(job)
    with open("/proc/self/statm") as sizes:  # noqa: PTH123 - avoid importing a class while memory runs out
        pages = int(sizes.read().split()[0])
    limit = pages * resource.getpagesize() + _HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    hoard = [bytearray(16 << 20) for _ in range(1_000)]
    raise AssertionError(len(hoard))
