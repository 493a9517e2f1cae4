"""A process that forks while it serves jobs and its threads enqueue."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from firelock import Firelock, Settings
from tests.faults.forked_processes import start_fork
from tests.faults.ledger import Ledger

url, folder, forks, count = json.loads(sys.argv[2])
ledger = Ledger(Path(folder))
fire = Firelock(url, settings=Settings(session_timeout=5, heartbeat=1, poll=0.5, workers=4))


@fire.task(name="double")
def double(number: int) -> int:
    """Return twice the number."""
    return 2 * number


def use(number):
    """Enqueue single and many jobs, await, lock, and get results; return the number of jobs."""
    handles = [double.enqueue(one) for one in range(count)]
    handles += double.enqueue_many([(one,) for one in range(count)])
    handles += asyncio.run(_await_many())
    with fire.lock("it", timeout=20):
        ledger.write("locked", note=str(number))
    for handle in handles:
        ledger.write("acknowledged", job=handle.id)
    assert [handle.result(timeout=30) for handle in handles] == [2 * one for one in range(count)] * 3
    return len(handles)


async def _await_many():
    return list(await asyncio.gather(*[double.aenqueue(one) for one in range(count)]))


def inherited():
    """Return the storage's open files that this process has inherited, before it uses the storage."""
    links = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the descriptor used to read the folder
            links.append(str(path.readlink()))
    return [link for link in links if link.startswith(url.removeprefix("sqlite:///"))]


def in_child(number):
    """Record the inherited files, and use all features."""
    ledger.write("inherited", note=json.dumps(inherited()))
    use(number)
    fire.close()


def enqueue_until(is_over):
    """Enqueue until the end, as a thread that is busy at each fork."""
    number = 0
    while not is_over():
        ledger.write("acknowledged", job=double.enqueue(number).id)
        number += 1


def await_end(pid, within):
    """Return the exit code of a child process, or 99 if it hangs."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return 99


def main(*_):
    """Fork with os.fork and multiprocessing while threads and a server work; then continue as before.

    Return the exit code of each fork; 0 means that it could work independently.
    """
    over = threading.Event()
    threads = [threading.Thread(target=enqueue_until, args=(over.is_set,)) for _ in range(3)]
    with fire.server(workers=4):
        use(0)
        for thread in threads:
            thread.start()
        codes = [await_end(start_fork(partial(in_child, number)), 60) for number in range(forks)]
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(use, range(2)) == [3 * count] * 2
        over.set()
        for thread in threads:
            thread.join()
        use(-1)
    fire.close()
    return codes
