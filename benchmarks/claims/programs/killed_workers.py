"""After kill -9 of its worker, a job of Celery, Huey or RQ does not run again; Dramatiq's does after a while.

Dramatiq's workers check for dead workers at random, in one of a thousand commands, after 60 seconds of
silence.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

URL = os.environ["CLAIMS_REDIS"]
TIMEOUTS = {"dramatiq": 900}  # seconds; 120 for the others

CELERY = """
import celery, os, time
app = celery.Celery("program", broker=os.environ["CLAIMS_REDIS"])
@app.task(name="work")
def work():
    open("started", "a").write("x"); time.sleep(8); open("ended", "a").write("x")
"""
HUEY = """
import huey, os, time
app = huey.RedisHuey(url=os.environ["CLAIMS_REDIS"])
@app.task(name="work")
def work():
    open("started", "a").write("x"); time.sleep(8); open("ended", "a").write("x")
"""
RQ = """
import time
def work():
    open("started", "a").write("x"); time.sleep(8); open("ended", "a").write("x")
"""
DRAMATIQ = """
import dramatiq, os, time
from dramatiq.brokers.redis import RedisBroker
dramatiq.set_broker(RedisBroker(url=os.environ["CLAIMS_REDIS"]))
@dramatiq.actor
def work():
    open("started", "a").write("x"); time.sleep(8); open("ended", "a").write("x")
"""
SEND_BY_RQ = f"import redis, rq; rq.Queue(connection=redis.Redis.from_url({URL!r})).enqueue(work)"
BIN = Path(sys.executable).parent
SYSTEMS = {
    "celery": (CELERY, "work.delay()", [BIN / "celery", "-A", "program", "worker", "-c", "1"]),
    "huey": (HUEY, "work()", [BIN / "huey_consumer", "program.app"]),
    "rq": (RQ, SEND_BY_RQ, [BIN / "rq", "worker", "--url", URL]),
    "dramatiq": (DRAMATIQ, "work.send()", [BIN / "dramatiq", "program", "-p", "1", "-t", "1"]),
}  # fmt: skip


def marks(name: str) -> int:
    """Return how often jobs have written this mark."""
    return Path(name).stat().st_size if Path(name).exists() else 0


def family(pid: int) -> list[int]:
    """Return a process and all its descendants, including those in a separate session, as RQ's are."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a worker and its child processes."""
    for pid in family(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()


def lasts(name: str) -> float | None:
    """Return the seconds until the job of a killed worker had ended; None if it did not end in time."""
    program, send, worker = SYSTEMS[name]
    for file in ("started", "ended"):
        Path(file).unlink(missing_ok=True)
    Path("program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": "."}
    subprocess.run([sys.executable, "-c", f"from program import work; {send}"], env=environment, check=True)

    def start() -> subprocess.Popen[bytes]:
        quiet = subprocess.DEVNULL
        return subprocess.Popen(worker, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)

    first = start()
    while not marks("started"):
        time.sleep(0.1)
    kill(first)
    killed = time.monotonic()
    second = start()
    try:
        while time.monotonic() - killed < TIMEOUTS.get(name, 120):
            if marks("ended"):
                return time.monotonic() - killed
            time.sleep(0.5)
        return None
    finally:
        kill(second)


durations = {name: lasts(name) for name in sys.argv[1:] or SYSTEMS}
described = {
    name: "not in time" if took is None else f"after {took:.0f} s" for name, took in durations.items()
}
print(", ".join(f"{name}: {words}" for name, words in described.items()))
assert all(took is None for name, took in durations.items() if name != "dramatiq")
assert (durations.get("dramatiq") or 60) >= 60
