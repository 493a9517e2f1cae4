"""The Lua scripts are read when a storage is opened; no verb opens a file of the package later."""

from __future__ import annotations

import subprocess
import sys

from tests.core.fakes import unmeasured

PROGRAM = """
import sys
from pathlib import Path

import firelock_redis
from firelock import Firelock, JobContext, Limit, Unique
from firelock.plugins.loader import open_storage
from firelock.storage import ClaimRequest, HeldClaim, JobFilter, NewSession

storage = open_storage(sys.argv[1])
package, opened = str(Path(firelock_redis.__file__).parent), []


def watch(event, arguments):
    if event == "open" and str(arguments[0]).startswith(package):
        opened.append(arguments[0])


sys.addaudithook(watch)

with Firelock(storage) as fire:
    @fire.task(name="works", unique=Unique("once"), limits=[Limit("slow", concurrent=1)], tags=["a"])
    def works(job: JobContext) -> int:
        job.log("begun")
        job.progress(1, 2)
        job.emit("word")
        return job.step("one", int, 1)

    @fire.task(name="plain")
    def plain() -> None:
        pass

    plain.recur("nightly", "0 3 * * *")
    with fire.server(workers=1):
        job = works.enqueue()
        assert job.result(timeout=60) == 1
        job.then(plain).result(timeout=60)
        with fire.batch("several") as batch:
            batch.add_many([plain.call(), plain.call()])
        batch.result(timeout=60)
        plain.using(delay=3_600).enqueue().delete()
        with fire.lock("name"):
            fire.recurring.trigger("nightly").result(timeout=60)
    fire.jobs.find(tag="a")
    fire.jobs.counts()
    fire.jobs.failure_groups()
    storage.timeline(0, storage.clock())
    fire.servers.list()
    fire.limits.list()
    job.history(), job.log(), job.steps(), list(job.stream())
    now = storage.clock()
    storage.begin_session(NewSession("s", "server", "host:a", "host", 7, now, 30, 1, "*"))
    plain.enqueue()
    (claimed,) = storage.claim(ClaimRequest(None, 1, "s", now)).jobs
    storage.reconcile("s", [HeldClaim(claimed.id, claimed.fence, now)])
    storage.end_session("s", None, reason="lost")
    storage.orphans(10), storage.promote(10), storage.release(10), storage.prune(10)
    storage.find_unique(), storage.find_keys(), storage.spend("slow")
    storage.find(JobFilter(), limit=10)
    storage.diagnose(), storage.describe()
    print(sorted(opened))
"""


def test_verbs_do_not_open_files_of_the_package(server):
    """Verbs work even after an upgrade under a running process, and even without a free file descriptor."""
    server.empty()

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, server.socket_url()],
        capture_output=True, text=True, timeout=180, check=False, env=unmeasured(),
    )  # fmt: skip

    assert ("[]", 0) == (done.stdout.strip(), done.returncode), done.stderr
