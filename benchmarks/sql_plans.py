"""Measure PostgreSQL's work for the statements of every job, with few and with many finished jobs.

Each operation runs twice on a database whose finished jobs are copies, and the second run counts. Buffers
come from `pg_stat_statements`; used indexes and writes come from the plans of `auto_explain` in the server's
log. Times are left out, because buffers are the cost of a plan on any machine.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from benchmarks.entry import exit_on_signal
from benchmarks.growth import SOURCES
from benchmarks.growth_postgresql import multiply, settle
from benchmarks.postgresql_server import PostgresqlServer, running
from firelock.model.memo import Memo, MemoKind
from firelock.model.session import ClaimHolder
from firelock.storage import Chunk, ClaimRequest, HeldClaim, NewMemo
from firelock.testing import Handles
from firelock.testing.conformance.flow_scene import FlowScene, suspends
from firelock.testing.conformance.scene import Running, opener, succeeds

FEW, MANY = 20_000, 5_000_000
SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements,auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_format": "json",
    "log_line_prefix": "",
    "fsync": "off",  # nothing is timed
    "max_wal_size": "20GB",
}
RESET = "select pg_stat_statements_reset()"
READ = "coalesce(sum(shared_blks_hit + shared_blks_read), 0)"
BUFFERS = f"select {READ} from pg_stat_statements where query not like '%pg_stat_statements%'"
PLANS = re.compile(r"plan:\n((?:\t.*\n)+)")
HIT, MISSED = "Shared Hit Blocks", "Shared Read Blocks"


@attrs.frozen
class Cost:
    """The cost of an operation for the server."""

    buffers: int
    written: int  # of these, for writing rows and index entries
    indexes: Sequence[str]  # the indexes that were read
    reads_all: bool  # whether it scanned the table of jobs


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the executed nodes of a plan."""
    if plan["Actual Loops"]:
        yield plan
    for one in plan.get("Plans", []):
        yield from nodes(one)


def own_buffers(node: dict[str, Any]) -> int:
    """Return the buffers of a writing node itself, without those of the nodes from which it reads."""
    fed = [one for one in node.get("Plans", []) if one["Parent Relationship"] != "InitPlan"]
    return sum(node[name] - sum(one[name] for one in fed) for name in (HIT, MISSED))


def measure(server: PostgresqlServer, verb: Callable[[], object]) -> Cost:
    """Run an operation and return its cost."""
    log = server.folder / "log"
    server.query(RESET)
    begin = log.stat().st_size
    verb()
    buffers = int(server.query(BUFFERS))
    logged = log.read_bytes()[begin:].decode()
    plans = [json.loads(plan) for plan in PLANS.findall(logged)]
    found = [node for plan in plans if "pg_stat" not in plan["Query Text"] for node in nodes(plan["Plan"])]
    return Cost(
        buffers,
        sum(own_buffers(node) for node in found if node["Node Type"] == "ModifyTable"),
        sorted({node["Index Name"] for node in found if "Index Name" in node}),
        any(node["Node Type"] == "Seq Scan" and node["Relation Name"] == "firelock_jobs" for node in found),
    )


@attrs.define
class Verbs:
    """The operations, in an order in which each has the jobs that it needs."""

    flow: FlowScene
    holder: ClaimHolder = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Begin the session that claims all jobs."""
        self.holder = self.flow.begin()

    def request(self, limit: int, *, is_named: bool = True) -> ClaimRequest:
        """Return the request of a claim."""
        queues = ["default"] if is_named else None
        return ClaimRequest(queues, limit, self.holder.session, self.flow.stamp())

    def claim(self, limit: int, *, is_named: bool = True) -> list[Running]:
        """Claim jobs for the session, and return them."""
        found = self.flow.storage.claim(self.request(limit, is_named=is_named)).jobs
        return [Running(job, self.holder) for job in found]

    def empty(self) -> None:
        """Claim and settle all jobs."""
        while jobs := self.claim(500):
            self.flow.storage.apply([succeeds(job) for job in jobs])

    def every(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield each operation by the name of its row."""
        flow, storage = self.flow, self.flow.storage
        jobs = [flow.new_job() for _ in range(500)]
        yield "store 500 jobs", lambda: storage.insert(jobs)
        held: list[Running] = []
        yield "claim 100 of a named queue", lambda: held.extend(self.claim(100))
        yield "claim 100 of all queues", lambda: held.extend(self.claim(100, is_named=False))
        yield "settle 100", lambda: storage.apply([succeeds(job) for job in held[:100]])
        ends = [succeeds(job) for job in held[100:]]
        yield "settle 100 and claim 100", lambda: storage.exchange(ends, self.request(100))
        self.empty()
        yield "a claim that finds no job", lambda: self.claim(100)
        batch, _ = flow.batch_of(1)
        members = [flow.new_member(batch) for _ in range(500)]
        yield "store 500 members of a batch", lambda: storage.insert(members)
        ends = [succeeds(job) for job in self.claim(100)]
        yield "settle 100 members and claim 100", lambda: storage.exchange(ends, self.request(100))
        waiting = self.claim(100)
        yield "suspend 100", lambda: storage.apply([suspends(job) for job in waiting])
        one = self.claim(100)[0]
        start = HeldClaim(one.id, one.job.fence, flow.stamp())
        yield (
            "record that one of 200 held jobs has started",
            lambda: storage.reconcile(self.holder.session, [start]),
        )
        memo = Memo(MemoKind.STEP, "charge", "1", True, flow.stamp())
        kept = NewMemo(one.id, memo, self.holder.session, one.job.fence)
        yield "store the memo of a step", lambda: storage.remember([kept])
        yield "read the memos of a job", lambda: storage.recall(one.id)
        piece, session, fence = [Chunk("out", 0, "a")], self.holder.session, one.job.fence
        yield "append to a stream", lambda: storage.append_stream(one.id, piece, session=session, fence=fence)
        self.empty()


def measured(stored: int) -> dict[str, Cost]:
    """Return the cost of each operation with this number of finished jobs."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with running(Path(folder), SETTINGS) as server:
            server.query("create extension pg_stat_statements")
            with closing(Handles(opener(f"{server.url}?listen=off"))) as handles:
                verbs = Verbs(FlowScene(handles))
                verbs.flow.add_many(SOURCES)
                verbs.empty()
                multiply(server, prefix="firelock_", state="succeeded", queue="default", stored=stored)
                settle(server)
                for _, verb in verbs.every():
                    verb()
                return {name: measure(server, verb) for name, verb in verbs.every()}


def main() -> None:
    """Print the rows of a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sql_plans", description=__doc__)
    parser.add_argument("--stored", type=int, nargs=2, default=(FEW, MANY), metavar="JOBS")
    options = parser.parse_args()
    exit_on_signal()
    few, many = (measured(stored) for stored in options.stored)
    print("| Statement | Indexes | Buffers with {:,} | with {:,} | to write |".format(*options.stored))
    print("|---|---|---|---|---|")
    for name, cost in many.items():
        found = ", ".join(cost.indexes) + ("; reads all jobs" if cost.reads_all else "")
        print(f"| {name} | {found} | {few[name].buffers:,} | {cost.buffers:,} | {cost.written:,} |")


if __name__ == "__main__":
    main()
