"""A process that forks while it serves jobs and its threads enqueue.

`python -m tests.faults.forks URL FOLDER FORKS JOBS` exits with 0 where every fork could work on its own.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from firelock import Firelock, Settings
from tests.faults.forking import start_fork
from tests.faults.ledger import Ledger

url, given, forks, jobs = sys.argv[1:]
folder, count = Path(given), int(jobs)
folder.mkdir(parents=True, exist_ok=True)
ledger = Ledger(folder)
fire = Firelock(url, settings=Settings(session_timeout=5, heartbeat=1, poll=0.5, workers=4))


@fire.task(name="double")
def double(number: int) -> int:
    """Return twice the number."""
    return 2 * number


def use(number: int) -> int:
    """Enqueue one by one and many at once, await, lock, and get results; return how many jobs there were."""
    handles = [double.enqueue(one) for one in range(count)]
    handles += double.enqueue_many([(one,) for one in range(count)])
    handles += asyncio.run(_await_many())
    with fire.lock("it", timeout=20):
        ledger.write("locked", note=str(number))
    for handle in handles:
        ledger.write("acknowledged", job=handle.id)
    assert [handle.result(timeout=30) for handle in handles] == [2 * one for one in range(count)] * 3
    return len(handles)


async def _await_many() -> list[object]:
    return list(await asyncio.gather(*[double.aenqueue(one) for one in range(count)]))


def inherited() -> list[str]:
    """Return what this process has open of the storage before it has used it: its parent's, then."""
    links: list[str] = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one by which the folder was read
            links.append(str(path.readlink()))
    return [link for link in links if link.startswith(url.removeprefix("sqlite:///"))]


def in_child(number: int) -> None:
    """Say what was inherited, and use everything."""
    ledger.write("inherited", note=json.dumps(inherited()))
    use(number)
    fire.close()


def enqueue_until(is_over: Callable[[], bool]) -> None:
    """One of the threads that are in the middle of something at each fork."""
    number = 0
    while not is_over():
        ledger.write("acknowledged", job=double.enqueue(number).id)
        number += 1


def await_end(pid: int, within: float) -> int:
    """Return the exit code of a child, 99 where it hangs."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return 99


def main() -> int:
    """Fork by hand and by multiprocessing, with threads and a server at work; then go on as before."""
    over = threading.Event()
    threads = [threading.Thread(target=enqueue_until, args=(over.is_set,)) for _ in range(3)]
    with fire.server(workers=4):
        use(0)
        for thread in threads:
            thread.start()
        codes = [await_end(start_fork(partial(in_child, number)), 60) for number in range(int(forks))]
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(use, range(2)) == [3 * count] * 2
        over.set()
        for thread in threads:
            thread.join()
        use(-1)
    fire.close()
    sys.stdout.write(json.dumps(codes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
