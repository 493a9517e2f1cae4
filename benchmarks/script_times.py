"""Measure how long each script blocks the Redis server, in batches of usual sizes and with many stored jobs.

The server's slow log records all commands of a measurement. The result of an action is the longest run of
each script. Of several rounds, the shortest result counts, because other work of the machine has disturbed it
least.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import attrs
import redis

from benchmarks import redis_server
from benchmarks.contenders import RESULTS
from benchmarks.entry import Figures, exit_on_signal
from benchmarks.redis_server import RedisServer
from firelock import Firelock
from firelock.model import lifecycle
from firelock.model.job import ClaimedJob
from firelock.model.session import ClaimHolder
from firelock.storage import (
    DURATION_BUCKETS,
    ClaimRequest,
    Edge,
    ErrorInfo,
    HeldClaim,
    JobFilter,
    LogLine,
    NewJob,
    NewSession,
    On,
    Progress,
    Renewal,
    Rollup,
    State,
    Storage,
    Transition,
)
from firelock_redis import scripts
from firelock_redis.scripts import script

ROUNDS = 5
BATCH = 500
"""The number of jobs that are stored, claimed or settled together."""
PAGE = 50
SECOND = 1_000_000
LIVES_LONG = 100_000.0
QUEUE, OTHERS = "default", "waiting"
ERROR = ErrorInfo("builtins.ValueError", "no", "fingerprint", "Traceback (most recent call last): …" * 20)
Action = Callable[[], object]


@attrs.define
class Stage:
    """A storage, with methods that prepare it for a measurement."""

    storage: Storage
    holder: ClaimHolder = attrs.field(init=False)
    _sessions: int = 0

    def __attrs_post_init__(self) -> None:
        """Begin a session for claims."""
        self.begin()

    def begin(self) -> ClaimHolder:
        """Begin another session for claims."""
        self._sessions += 1
        name = f"session-{self._sessions}"
        self.storage.begin_session(NewSession(name, "server", "host:1", "host", 1, 0, LIVES_LONG))
        self.holder = ClaimHolder(name, "host:1")
        return self.holder

    def jobs(self, number: int = BATCH, **fields: object) -> list[NewJob]:
        """Return new jobs with these fields; children are in the partition of their parent."""
        now = self.storage.clock()
        common: dict[str, Any] = {
            "task": "benchmarks.ours_app.noop", "arguments": "[17]", "serializer": "json", "queue": QUEUE,
            "priority": 0, "state": State.ENQUEUED, "created_at": now, **fields,
        }  # fmt: skip
        return [NewJob(id=id, **common) for id in self.storage.new_ids(number)]

    def stored(self, number: int = BATCH, **fields: object) -> list[NewJob]:
        """Store new jobs, at most 500 per call; return them."""
        jobs = self.jobs(number, **fields)
        for first in range(0, number, BATCH):
            self.storage.insert(jobs[first : first + BATCH])
        return jobs

    def claimed(self, number: int = BATCH) -> list[ClaimedJob]:
        """Store new jobs and claim them for the session."""
        self.stored(number)
        return self.storage.claim(
            ClaimRequest([QUEUE], number, self.holder.session, self.storage.clock())
        ).jobs

    def ends(self, jobs: Sequence[ClaimedJob], *, kept: int = 86_400) -> list[Transition]:
        """Return the transitions with which these jobs succeed; `kept` is in seconds."""
        now = self.storage.clock()
        return [
            lifecycle.succeeded(
                job, self.holder, at=now, started_at=now, result="null", result_absent=None,
                expires_at=now + kept * SECOND,
            )
            for job in jobs
        ]  # fmt: skip

    def failures(self, jobs: Sequence[ClaimedJob]) -> list[Transition]:
        """Return the transitions with which these jobs fail, with tracebacks."""
        now = self.storage.clock()
        return [
            lifecycle.failed(
                job, self.holder, at=now, started_at=now, reason="no", error=ERROR, expires_at=None
            )
            for job in jobs
        ]  # fmt: skip

    def exchanged(self, ends: Sequence[Transition]) -> list[ClaimedJob]:
        """Settle these jobs and claim as many others."""
        now, session = self.storage.clock(), self.holder.session
        return self.storage.exchange(ends, ClaimRequest([QUEUE], BATCH, session, now)).claim.jobs

    def finished(self, number: int, *, kept: int = 86_400) -> None:
        """Store jobs that have succeeded."""
        for _ in range(0, number, BATCH):
            self.storage.apply(self.ends(self.claimed(), kept=kept))


# ---- measured actions ------------------------------------------------------------------------------------
#
# Each function prepares a round and returns its measured action.


def insert(stage: Stage) -> Action:
    """Store a batch of plain jobs."""
    return partial(stage.storage.insert, stage.jobs())


def insert_one(stage: Stage) -> Action:
    """Store a plain job."""
    return partial(stage.storage.insert, stage.jobs(1))


def store_tagged(stage: Stage) -> Action:
    """Store a batch of jobs with tags."""
    jobs = stage.jobs(tags=("customer:1", "month:1"), priority=3)
    return partial(stage.storage.insert, jobs)


def store_children(stage: Stage) -> Action:
    """Store a batch of continuations of one job."""
    (parent,) = stage.stored(1)
    return partial(stage.storage.insert, stage.jobs(state=State.AWAITING, parents=(Edge(parent.id),)))


def exchange(stage: Stage) -> Action:
    """Settle a batch and claim another."""
    ends = stage.ends(stage.claimed())
    stage.stored()
    return partial(stage.exchanged, ends)


def exchange_failures(stage: Stage) -> Action:
    """Settle a batch of failures with tracebacks, and claim another batch."""
    failures = stage.failures(stage.claimed())
    stage.stored()
    return partial(stage.exchanged, failures)


def claim_everywhere(stage: Stage) -> Action:
    """Claim a batch from all queues."""
    stage.stored()
    request = ClaimRequest(None, BATCH, stage.holder.session, stage.storage.clock())
    return partial(stage.storage.claim, request)


def requeue(stage: Stage) -> Action:
    """Requeue a batch of failed jobs manually."""
    jobs = stage.claimed()
    stage.storage.apply(stage.failures(jobs))
    now = stage.storage.clock()
    again = [lifecycle.requeue(job.id, at=now, reason="by hand") for job in jobs]
    return partial(stage.storage.apply, again)


def promote(stage: Stage) -> Action:
    """Enqueue due jobs."""
    due_at = stage.storage.clock()
    stage.stored(1_000, state=State.SCHEDULED, due_at=due_at, nominal_at=due_at)
    return partial(stage.storage.promote, 1_000)


def release(stage: Stage) -> Action:
    """Release many children of a parent that has succeeded."""
    (parent,) = stage.claimed(1)
    for _ in range(2):
        stage.stored(BATCH, state=State.AWAITING, parents=(Edge(parent.id),))
    stage.storage.apply(stage.ends([parent]))
    return partial(stage.storage.release, 1_000)


def release_deleting(stage: Stage) -> Action:
    """Delete many children that waited for the failure of a parent that has succeeded."""
    (parent,) = stage.claimed(1)
    for _ in range(2):
        stage.stored(BATCH, state=State.AWAITING, parents=(Edge(parent.id, On.FAILED),))
    stage.storage.apply(stage.ends([parent]))
    return partial(stage.storage.release, 1_000)


def prune(stage: Stage) -> Action:
    """Remove expired jobs."""
    stage.finished(1_000, kept=-60)
    return partial(stage.storage.prune, 1_000)


def prune_tagged(stage: Stage) -> Action:
    """Remove expired jobs with a tag."""
    stage.stored(1_000, tags=("customer:2",))
    for _ in range(0, 1_000, BATCH):
        now, session = stage.storage.clock(), stage.holder.session
        jobs = stage.storage.claim(ClaimRequest([QUEUE], BATCH, session, now)).jobs
        stage.storage.apply(stage.ends(jobs, kept=-60))
    return partial(stage.storage.prune, 1_000)


def end_session(stage: Stage) -> Action:
    """End a session with more than a batch of jobs, half of them running."""
    stage.begin()
    jobs = [*stage.claimed(), *stage.claimed()]
    session = stage.holder.session
    stage.begin()
    running = [job.id for job in islice(jobs, None, None, 2)]
    return lambda: stage.storage.end_session(session, running, reason="stopped")


def reconcile(stage: Stage) -> Action:
    """Reconcile a session with all its jobs."""
    stage.begin()
    jobs = [*stage.claimed(), *stage.claimed(50)]
    now = stage.storage.clock()
    held = [HeldClaim(job.id, job.fence, now) for job in jobs]
    return partial(stage.storage.reconcile, stage.holder.session, held)


def reconcile_unknown(stage: Stage) -> Action:
    """Reconcile a session whose server does not know its jobs."""
    stage.begin()
    stage.claimed()
    return partial(stage.storage.reconcile, stage.holder.session, [])


def renew(stage: Stage) -> Action:
    """Renew a session."""
    return partial(stage.storage.renew, [Renewal(stage.holder.session)])


def read_jobs(stage: Stage) -> Action:
    """Read a batch of jobs."""
    return partial(stage.storage.get, [job.id for job in stage.stored()])


def find(stage: Stage) -> Action:
    """Read lists from both ends, by common, by rare and by missing values."""
    storage, now = stage.storage, stage.storage.clock()
    filters = [
        JobFilter(),
        JobFilter(state=State.SUCCEEDED),
        JobFilter(state=State.ENQUEUED, queue=OTHERS),
        JobFilter(task="benchmarks.ours_app.noop"),
        JobFilter(task="nobody"),
        JobFilter(queue=QUEUE),
        JobFilter(tag="customer:1"),
        JobFilter(tag="customer:1", state=State.SUCCEEDED),
        JobFilter(server="nobody"),
        JobFilter(fingerprint="fingerprint", state=State.FAILED),
        JobFilter(id_prefix="ffff"),
        JobFilter(is_retrying=True),
        JobFilter(since=now - 60 * SECOND, until=now),
    ]

    def find_all() -> None:
        for where in filters:
            for oldest_first in (False, True):
                page = storage.find(where, limit=PAGE, oldest_first=oldest_first)
                if page.cursor:
                    storage.find(where, limit=PAGE, cursor=page.cursor, oldest_first=oldest_first)

    return find_all


def groups(stage: Stage) -> Action:
    """Group the failed jobs."""
    return partial(stage.storage.failure_groups, 50)


def counts(stage: Stage) -> Action:
    """Count jobs."""
    return stage.storage.counts


def figures_of_minutes(stage: Stage) -> Action:
    """Add a hundred rollups, then read those of a day."""
    storage = stage.storage
    minutes = [minute * 60 * SECOND for minute in range(29_000_000, 29_000_100)]
    histogram = tuple(range(len(DURATION_BUCKETS) + 1))
    rollups = [Rollup(minute, "task", QUEUE, "succeeded", 1, 1, histogram) for minute in minutes]

    def work() -> None:
        storage.record_metrics(rollups)
        storage.timeline(minutes[0], minutes[-1])

    return work


def logs(stage: Stage) -> Action:
    """Write log lines as a server does, and read a page of them."""
    storage, jobs = stage.storage, stage.claimed(50)
    lines = [LogLine(0, 0, "INFO", "a line of the log, as long as many are") for _ in range(20)]
    progress = Progress(1, 2, 0, "half of it")

    def work() -> None:
        storage.append_logs({job.id: lines for job in jobs}, {job.id: progress for job in jobs})
        storage.read_log(jobs[0].id)

    return work


def recurring(stage: Stage) -> Action:
    """Fire, read and list a hundred definitions."""
    storage, now = stage.storage, stage.storage.clock()
    for number in range(100):
        value = '{"schedule": {"every": 60}, "note": "as long as a short definition"}'
        storage.put_record("recurring", f"definition-{number:03}", value, due_at=now)

    def work() -> None:
        storage.due_records("recurring", 100)
        storage.list_records("recurring", limit=100)

    return work


ACTIONS = (
    insert_one, insert, store_tagged, store_children, exchange, exchange_failures, claim_everywhere, requeue,
    promote, release, release_deleting, prune, prune_tagged, end_session, reconcile, reconcile_unknown, renew,
    read_jobs, find, groups, counts, figures_of_minutes, logs, recurring,
)  # fmt: skip


# ---- measuring -------------------------------------------------------------------------------------------


def fill(stage: Stage, *, stored: int) -> None:
    """Store jobs: half of them wait in another queue, the others have succeeded or failed."""
    stage.stored(stored // 2, queue=OTHERS)
    stage.finished(stored // 2 - 10 * BATCH)
    for _ in range(10):
        stage.storage.apply(stage.failures(stage.claimed()))


def longest_runs(client: redis.Redis, action: Action, names: dict[str, str]) -> dict[str, float]:
    """Return the longest run of each script in an action, in milliseconds."""
    client.slowlog_reset()
    client.config_set("slowlog-log-slower-than", 0)
    action()
    client.config_set("slowlog-log-slower-than", -1)
    longest: dict[str, float] = defaultdict(float)
    for entry in client.slowlog_get(10_000):
        words: list[str] = entry["command"].decode().split(" ", 6)
        if words[0] == "EVALSHA":
            name = names[words[1]]
            name += f".{words[5]}" if words[5:] and words[5].replace("_", "").isalpha() else ""
            longest[name] = max(longest[name], entry["duration"] / 1_000)
    return longest


def digests() -> dict[str, str]:
    """Return each script's name by its digest."""
    names = [
        file.name.removesuffix(".lua") for file in files(scripts).iterdir() if file.name.endswith(".lua")
    ]
    return {script(name).digest: name for name in names}


def measured(server: RedisServer, stage: Stage, *, stored: int) -> Figures:
    """Fill the storage, and measure several rounds of each action."""
    fill(stage, stored=stored)
    names = digests()
    least: dict[str, float] = {}
    with redis.Redis(port=server.port) as client:
        client.config_set("slowlog-max-len", 10_000)
        for arrange in ACTIONS:
            arrange(stage)()  # loads the scripts
            for _ in range(ROUNDS):
                runs = longest_runs(client, arrange(stage), names)
                for name, milliseconds in runs.items():
                    key = f"{arrange.__name__}: {name}"
                    least[key] = min(least.get(key, milliseconds), milliseconds)
    return least


def main() -> None:
    """Print each action's scripts, longest run first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.script_times", description=__doc__)
    parser.add_argument("--stored", type=int, default=1_000_000, help="stored jobs (default: 1,000,000)")
    options = parser.parse_args()
    exit_on_signal()
    RESULTS.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="scripts-", dir=RESULTS) as directory,
        redis_server.running(Path(directory)) as server,
    ):
        fire = Firelock(server.url)
        found = measured(server, Stage(fire.storage), stored=options.stored)
        fire.close()
    print("   ms  action: script")
    for name, milliseconds in sorted(found.items(), key=itemgetter(1), reverse=True):
        print(f"{milliseconds:5.2f}  {name}")


if __name__ == "__main__":
    main()
