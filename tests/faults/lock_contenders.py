"""Contenders for one lock, whose holders are killed or paused."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial

from firelock import Firelock, LockLost
from tests.faults.forked_processes import end_of, start_fork
from tests.faults.ledger import Ledger, read_ledger
from tests.faults.servers import eventually

_MOMENT_SECONDS = 0.4  # a holder may continue after this time, within the next holder's bound


def contend(url, folder, ttl, seed):
    """Repeatedly take the lock, hold it for a while, and write unless it is lost, until requested to stop."""
    chance, ledger, fire = random.Random(seed), Ledger(folder), Firelock(url)
    while not (folder / "over").exists():
        try:
            with fire.lock("it", timeout=60, ttl=ttl) as lock:
                ledger.write("enter", fence=lock.fence)
                time.sleep(chance.uniform(0.0, ttl / 4))
                ledger.write("lost" if lock.lost else "write", fence=lock.fence)
        except LockLost:
            ledger.write("notified")
    fire.close()


def holder(folder):
    """Return the entry of the current holder of the lock, or None."""
    entries = [event for event in read_ledger(folder) if event.what in {"enter", "write", "lost"}]
    return entries[-1] if entries and entries[-1].what == "enter" else None


def disturb(url, folder, ttl, contenders, seed):
    """Kill and replace the holder, or pause it for twice the lock's lifetime; wait for the next holder."""
    chance, ledger = random.Random(seed), Ledger(folder)
    eventually(lambda: holder(folder) is not None, 20, "the lock is held")
    held = holder(folder)
    if held is None or held.pid not in contenders:  # the holder has released the lock meanwhile
        return
    is_kill = bool(chance.getrandbits(1))
    os.kill(held.pid, signal.SIGKILL if is_kill else signal.SIGSTOP)
    ledger.write("kill" if is_kill else "freeze", fence=held.fence, note=str(held.pid))
    if not is_kill and not _is_answering(url, held.pid):
        return
    eventually(lambda: _has_entered_after(folder, held), 20, "another contender holds the lock")
    if is_kill:
        end_of(held.pid)
        contenders.remove(held.pid)
        contenders.append(start_fork(partial(contend, url, folder, ttl, seed)))
    else:
        time.sleep(2 * ttl)
        os.kill(held.pid, signal.SIGCONT)


def _is_answering(url, frozen):
    """Return whether the storage accepts a write; if not, resume the frozen process.

    It was then frozen during a write, and SQLite allows only one writer, so no process could take the lock.
    """
    writer = start_fork(partial(_write, url))
    try:
        eventually(lambda: _has_ended(writer), _MOMENT_SECONDS, "the storage takes a write")
    except AssertionError:
        os.kill(frozen, signal.SIGCONT)
        return False
    finally:
        end_of(writer)
    return True


def _write(url):
    fire = Firelock(url)
    fire.storage.put_record("faults", "is it there?", "1")
    fire.close()


def _has_ended(pid):
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _has_entered_after(folder, held):
    return any(event.what == "enter" and event.at > held.at for event in read_ledger(folder))


def main(url, folder, count, rounds, ttl):
    """Disturb this number of holders; return the exit codes of all contenders."""
    _write(url)  # so that every fork finds the storage's modules loaded
    contenders = [start_fork(partial(contend, url, folder, ttl, -seed)) for seed in range(count)]
    try:
        for seed in range(rounds):
            disturb(url, folder, ttl, contenders, seed)
    except BaseException:
        for pid in contenders:
            os.kill(pid, signal.SIGKILL)  # including frozen contenders, which nothing else would resume
        raise
    (folder / "over").touch()
    return [end_of(pid) for pid in contenders]
