"""After kill -9 of its worker a job of Celery, Huey or RQ runs no more; Dramatiq's does after 1 to 2 min."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

URL = os.environ["CLAIMS_REDIS"]
PATIENCE = 180

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
    """Return how often a job has left this mark."""
    return Path(name).stat().st_size if Path(name).exists() else 0


def lasts(name: str) -> float | None:
    """Return after how many seconds the job of a killed worker had ended; None where it had not."""
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
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    killed = time.monotonic()
    second = start()
    try:
        while time.monotonic() - killed < PATIENCE:
            if marks("ended"):
                return time.monotonic() - killed
            time.sleep(0.5)
        return None
    finally:
        os.killpg(second.pid, signal.SIGKILL)
        second.wait()


seen = {name: lasts(name) for name in sys.argv[1:] or SYSTEMS}
print(
    ", ".join(
        f"{name}: {'not within 3 min' if took is None else f'{took:.0f} s'}" for name, took in seen.items()
    )
)
assert all(took is None for name, took in seen.items() if name != "dramatiq")
assert 30 < (seen.get("dramatiq") or 60) < 150
