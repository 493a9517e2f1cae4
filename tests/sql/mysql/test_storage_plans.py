"""The rows that calls read on MariaDB: only rows of the jobs that they return, even if many are stored."""

from __future__ import annotations

import attrs
import pytest

from firelock.storage import ClaimRequest, HeldClaim, JobFilter, State
from firelock.testing.conformance.scene import Running, deletes, fails, retries, succeeds
from firelock_sql.verbs import find
from tests.scenes import scene_at

KEPT, LIMIT, QUEUES = 500, 10, ["critical", "default", "low"]
A_JOB = 4  # reads of the table's indexes and rows per returned or changed job
A_CALL = 10  # and for the call itself
PAGE, A_LIST = 20, 150  # lists are merged from several parts, and read a little further
READ = (
    "SELECT rows_read FROM information_schema.table_statistics"
    " WHERE table_schema = %s AND table_name = 'firelock_jobs'"
)


@pytest.fixture
def scene(mariadb):
    """A storage with hundreds of jobs that are enqueued in three queues, scheduled, or deleted."""
    with scene_at(mariadb.url()) as scene:
        for queue in QUEUES:
            scene.add_many(KEPT, queue=queue)
        scene.add_many(KEPT, state=State.SCHEDULED, due_at=scene.now() + 3_600_000_000)
        scene.storage.apply([deletes(id, expires_at=2**53) for id in scene.add_many(KEPT, queue="old")])
        yield scene


@pytest.fixture
def reads(mariadb, scene):
    """A function that returns how many rows of the jobs a call reads, by the server's own counter."""
    if mariadb.server.program.product != "mariadb":
        pytest.skip("MySQL counts no rows by table: it has no userstat")
    with mariadb.server.connect() as connection, connection.cursor() as cursor:

        def count():
            cursor.execute(READ, [mariadb.name])
            found = cursor.fetchone()
            return found[0] if found else 0

        def by(call):
            before = count()
            call()
            return count() - before

        cursor.execute("SET GLOBAL userstat = 1")
        yield by
        cursor.execute("SET GLOBAL userstat = 0")


def test_verbs_read_only_the_rows_that_they_return(scene, reads):
    """Each call finds its rows with an index, so other waiting or ended jobs are not read."""
    storage, holder = scene.storage, scene.begin()
    session, taken = holder.session, []

    def take(queues):
        taken.extend(Running(job, holder) for job in scene.claim(holder, LIMIT, queues))

    def exchange(ends, limit=LIMIT):
        claim = storage.exchange(ends, ClaimRequest(QUEUES, limit, session, scene.stamp())).claim
        taken.extend(Running(job, holder) for job in claim.jobs)

    calls = {
        "insert": (LIMIT, lambda: scene.add_many(LIMIT)),
        "claim of every queue": (LIMIT, lambda: take(None)),
        "claim of one": (LIMIT, lambda: take(["default"])),
        "claim of some": (LIMIT, lambda: take(["absent", *QUEUES])),
        "claim of none": (0, lambda: take(["absent"])),
        "reconcile": (4 * LIMIT, lambda: storage.reconcile(session, [HeldClaim(one.id, 1) for one in taken])),
        "apply": (LIMIT, lambda: storage.apply([succeeds(taken.pop()) for _ in range(LIMIT)])),
        "exchange": (2 * LIMIT, lambda: exchange([succeeds(taken.pop()) for _ in range(LIMIT)])),
        "exchange of others": (4, lambda: exchange([fails(taken.pop()), retries(taken.pop())], 2)),
        "delete": (1, lambda: storage.apply([deletes(taken.pop().id)])),
        "promote": (0, lambda: storage.promote(LIMIT)),
        "find retrying": (1, lambda: storage.find(JobFilter(is_retrying=True), limit=20)),
        "find processing": (4 * LIMIT, lambda: storage.find(JobFilter(state=State.PROCESSING), limit=20)),
        "prune": (0, lambda: storage.prune(LIMIT)),
        "end of the session": (4 * LIMIT, lambda: storage.end_session(session, [], reason="stopped")),
    }
    too_many = {}
    for name, (jobs, call) in calls.items():
        rows = reads(call)
        if rows > A_CALL + jobs * A_JOB:
            too_many[name] = rows

    assert not too_many


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize(
    "where",
    [
        JobFilter(),
        JobFilter(queue="low"),
        JobFilter(state=State.ENQUEUED),
        JobFilter(state=State.DELETED),
        JobFilter(state=State.SCHEDULED, by_due=True),
    ],
    ids=lambda where: " ".join(str(value) for value in attrs.astuple(where) if value) or "all",
)
def test_pages_read_only_the_jobs_that_they_show(scene, reads, where, oldest_first):
    """Each index contains the jobs in order of time and id, so the first page and later ones read little."""
    storage, cursors = scene.storage, [None]

    def turn():
        page = storage.find(where, limit=PAGE, cursor=cursors[-1], oldest_first=oldest_first)
        assert PAGE == len(page.jobs)
        cursors.append(page.cursor)

    assert [] == [rows for rows in [reads(turn) for _ in range(3)] if rows > A_LIST + PAGE * A_JOB]


def test_search_for_the_oldest_job_reads_few_jobs(scene, reads, monkeypatch):
    """Even in a queue with many jobs, the job that has waited longest is one of the first waiting jobs."""
    monkeypatch.setattr(find, "RARE", 5)
    where = JobFilter(state=State.ENQUEUED, queue=QUEUES[0])

    assert reads(lambda: scene.storage.find(where, limit=1, oldest_first=True)) < A_LIST
