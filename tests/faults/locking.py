"""Contenders for one lock, whose holders are killed or paused.

`python -m tests.faults.locking URL FOLDER CONTENDERS ROUNDS TTL` writes a ledger in FOLDER.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

from firelock import Firelock, LockLost
from tests.faults.forking import end_of, start_fork
from tests.faults.ledger import Event, Ledger, read_ledger
from tests.faults.servers import eventually


def contend(url: str, folder: Path, ttl: float, seed: int) -> None:
    """Take the lock, hold it a while, write under it unless it is lost, again and again until told to end."""
    chance, ledger, fire = random.Random(seed), Ledger(folder), Firelock(url)
    while not (folder / "over").exists():
        try:
            with fire.lock("it", timeout=60, ttl=ttl) as lock:
                ledger.write("enter", fence=lock.fence)
                time.sleep(chance.uniform(0.0, ttl / 4))
                ledger.write("lost" if lock.lost else "write", fence=lock.fence)
        except LockLost:
            ledger.write("told")
    fire.close()


def holder(folder: Path) -> Event | None:
    """Return the entry of who holds the lock now, None where nobody does."""
    entries = [event for event in read_ledger(folder) if event.what in {"enter", "write", "lost"}]
    return entries[-1] if entries and entries[-1].what == "enter" else None


def disturb(url: str, folder: Path, ttl: float, contenders: list[int], seed: int) -> None:
    """The holder is killed, and replaced, or paused for twice the lock's life; somebody else has entered."""
    chance, ledger = random.Random(seed), Ledger(folder)
    eventually(lambda: holder(folder) is not None, 20, "somebody holds the lock")
    held = holder(folder)
    if held is None or held.pid not in contenders:  # it has left meanwhile
        return
    is_kill = bool(chance.getrandbits(1))
    os.kill(held.pid, signal.SIGKILL if is_kill else signal.SIGSTOP)
    ledger.write("kill" if is_kill else "freeze", fence=held.fence, note=str(held.pid))
    eventually(lambda: _has_entered_after(folder, held), 20, "somebody else holds the lock")
    if is_kill:
        end_of(held.pid)
        contenders.remove(held.pid)
        contenders.append(start_fork(partial(contend, url, folder, ttl, seed)))
    else:
        time.sleep(2 * ttl)
        os.kill(held.pid, signal.SIGCONT)


def _has_entered_after(folder: Path, held: Event) -> bool:
    return any(event.what == "enter" and event.at > held.at for event in read_ledger(folder))


def main() -> int:
    """Disturb so many holders; every contender ends in the end."""
    url, given, count, rounds, ttl = sys.argv[1:]
    folder = Path(given)
    folder.mkdir(parents=True, exist_ok=True)
    contenders = [start_fork(partial(contend, url, folder, float(ttl), -seed)) for seed in range(int(count))]
    for seed in range(int(rounds)):
        disturb(url, folder, float(ttl), contenders, seed)
    (folder / "over").touch()
    return max(end_of(pid) for pid in contenders)


if __name__ == "__main__":
    sys.exit(main())
