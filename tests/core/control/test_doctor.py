"""What the doctor tells whoever watches, out of one sight; each trouble only when it is one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from firelock import Diagnosis, Firelock, Limit, NumberSource, RecurringJob, Retry, Unique
from firelock.control.doctor import EndedRuns, Sight, check_all, check_running
from firelock.control.limits import LimitName, LimitView
from firelock.control.queues import QueueView
from firelock.control.servers import ServerView
from firelock.errors import SchemaMismatch, StorageError, StorageUnavailable
from firelock.jobs.blocked_by import HeldHead
from firelock.limits import LimitNumbers
from firelock.model.job import JobRecord
from firelock.model.state import State
from firelock.schedules.recurring_job import RecurringRecord
from firelock.storage import Finding, NewSession, Renewal, SessionRecord
from tests.core.fakes import FailingStorage, Worker

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
MICROS = 1_000_000


def at(**span):
    return int((NOW + timedelta(**span)).timestamp() * MICROS)


def queue(name="mail", enqueued=5, **fields):
    return QueueView(name, enqueued, 0, 0, fields.get("is_paused", False), fields.get("note"))


def server(name="one", queues="*", *, expires_in=30.0, is_alive=True, busy=0, state="running", **reported):
    session = NewSession(f"s-{name}", f"id-{name}", name, "host", 1, at(hours=-1), 30.0, 10, queues)
    record = SessionRecord(
        session, at(seconds=expires_in), is_alive, Renewal(session.id, busy, state, **reported)
    )
    return ServerView(f"id-{name}", name, "host", queues, 10, NOW, is_alive, busy, (record,))


def job(**fields):
    return JobRecord("0", "send", "[]", "json", State.ENQUEUED, "mail", 0, 0, **fields)


def recurring(recurring_id="nightly", *, next_in=3_600.0, **fields):
    record = RecurringRecord(recurring_id, "tasks.report", "", "json", "", "default", **fields)
    return RecurringJob(attrs.evolve(record, next_at=at(seconds=next_in)))


def found(**seen):
    return check_running(Sight(at(), **seen))


def kinds(**seen):
    return [finding.code for finding in found(**seen)]


def only(**seen):
    (finding,) = found(**seen)
    return finding


def test_nothing_is_wrong_where_all_is_well():
    """Jobs that wait, a server that listens, a recurring job that comes: no trouble."""
    assert [] == kinds()
    assert [] == kinds(
        queues=[queue()], servers=[server()], recurring=[recurring()],
        oldest={"mail": at(seconds=-9)}, lately={"send": EndedRuns(50, 2)},
        usually={"send": EndedRuns(900, 30)}, skew=-2 * MICROS,
    )  # fmt: skip


@pytest.mark.parametrize("servers", [[], [server(is_alive=False)], [server(expires_in=-1)]])
def test_jobs_that_wait_without_any_server_are_a_trouble(servers):
    """No living server at all is said once, with how many jobs wait and since when."""
    since = at(minutes=-14)

    trouble = only(queues=[queue(enqueued=3), queue("bulk", 4)], servers=servers, oldest={"mail": since})

    assert ("no_server", True, 7, since) == (
        trouble.code, trouble.is_error, trouble.values["count"], trouble.since,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("queues", "listens"),
    [
        ("*", True),
        ("mail", True),
        ("bulk,mail", True),
        ("bulk:3,mail:1", True),
        ("bulk", False),
        ("email", False),
    ],
)
def test_a_queue_that_no_server_listens_to_is_a_trouble(queues, listens):
    """What a server listens to is read from its text: all, a list, or weights."""
    told = kinds(queues=[queue("mail", 12)], servers=[server(queues=queues)])

    assert ([] if listens else ["no_listener"]) == told


@pytest.mark.parametrize(("state", "told"), [("quiet", ["no_listener"]), ("stopping", [])])
def test_a_server_that_takes_no_jobs_does_not_listen(state, told):
    """A quiet server is there, but nobody takes the jobs; one that stops is soon gone, as in each deploy."""
    assert told == kinds(queues=[queue()], servers=[server(state=state)])


def test_an_empty_or_paused_queue_needs_no_listener():
    """Only jobs that wait and may run are missed by anybody."""
    seen = [queue("empty", 0), queue("held", 9, is_paused=True)]

    assert [] == kinds(queues=seen, servers=[server(queues="mail")])


def test_a_server_that_misses_renewals_has_stopped_reporting():
    """A session that was not renewed for most of its timeout is told with its name and when it was heard."""
    trouble = only(servers=[server(expires_in=5.0), server("two")])

    assert ("server_lost", 1, "one") == (
        trouble.code, trouble.values["count"], trouble.values["servers"],
    )  # fmt: skip
    assert at(seconds=-25) == trouble.since


@pytest.mark.parametrize(
    ("lost", "is_told"),
    [
        ({"busy": 3}, True),
        ({"busy": 0}, False),
        ({"busy": 3, "state": "stopping"}, False),
        ({"busy": 3, "expires_in": -7_200}, False),
    ],
)
def test_a_server_that_died_in_the_midst_of_work_is_told_for_an_hour(lost, is_told):
    """One that stopped in order, or had nothing to do, is no trouble."""
    gone = server("two", is_alive=False, **{"expires_in": -60, **lost})

    assert (["server_lost"] if is_told else []) == kinds(servers=[server(), gone])


@pytest.mark.parametrize(
    ("reported", "what", "is_error"),
    [
        ({"stuck_threads": 3}, "3 of 10 threads are taken by jobs past their timeout.", False),
        ({"stuck_threads": 1}, "1 of 10 threads is taken by jobs past their timeout.", False),
        ({"stuck_threads": 10}, "10 of 10 threads are taken by jobs past their timeout.", True),
        ({"stuck_coroutines": 1}, "1 coroutine is taken by jobs past their timeout.", False),
        (
            {"stuck_threads": 1, "stuck_coroutines": 2},
            "1 of 10 threads and 2 coroutines are taken by jobs past their timeout.",
            False,
        ),
    ],
)
def test_workers_that_are_taken_by_jobs_past_their_timeout_are_a_trouble(reported, what, is_error):
    """It is an error if no thread of the server is left for other jobs."""
    trouble = only(servers=[server(**reported), server("two")])

    assert ("stuck_workers", is_error, f"Server one: {what}") == (
        trouble.code, trouble.is_error, trouble.what,
    )  # fmt: skip
    assert "job.cancelled" in trouble.mend
    assert [] == kinds(servers=[server(**reported, is_alive=False, state="stopping")])


def test_parked_ends_are_a_trouble():
    """The finding names the server, the number and where the jobs are named."""
    trouble = only(servers=[server(parked=1_000), server("two")])

    assert ("parked_ends", False) == (trouble.code, trouble.is_error)
    assert trouble.what.startswith("Server one: 1,000 ended jobs cannot be stored")
    assert "long transaction" in trouble.mend
    assert [] == kinds(servers=[server(parked=1_000, is_alive=False, state="stopping")])


def test_a_server_that_is_back_is_not_lost():
    """A restarted server has its name back; its former sessions are of no interest."""
    gone = server("one", is_alive=False, busy=3, expires_in=-60)

    assert [] == kinds(servers=[gone, server("one")])


@pytest.mark.parametrize(
    ("lately", "usually", "is_error"),
    [
        (EndedRuns(20, 4), EndedRuns(1_000, 5), False),
        (EndedRuns(20, 12), EndedRuns(1_000, 5), True),
        (EndedRuns(9, 9), EndedRuns(1_000, 5), None),
        (EndedRuns(100, 9), EndedRuns(1_000, 9), None),
        (EndedRuns(20, 4), EndedRuns(1_000, 150), None),
        (EndedRuns(20, 4), EndedRuns(20, 4), None),
        (EndedRuns(20, 12), None, True),
    ],
)
def test_a_task_fails_more_than_usual(lately, usually, is_error):
    """A tenth at least, three times the rest of the day, ten runs; half where the day says nothing."""
    told = found(lately={"charge": lately}, usually={} if usually is None else {"charge": usually})

    assert ([] if is_error is None else [is_error]) == [finding.is_error for finding in told]


@pytest.mark.parametrize(("share", "told"), [(0.0, [0.6]), (0.5, [0.3]), (0.9, []), (1.0, [])])
def test_what_is_muted_is_not_told(share, told):
    """Of 20 runs 12 failed: with half of them muted three in ten, with nine of ten too few to tell of."""
    failing = found(lately={"t": EndedRuns(20, 12)}, usually={"t": EndedRuns(520, 12)}, muted={"t": share})

    assert told == [finding.values["rate"] for finding in failing]


def test_recurring_jobs_that_cannot_run_or_did_not_are_told_apart():
    """An error has its text; what is late is told together, the latest first; paused ones are at rest."""
    told = found(
        recurring=[
            recurring("broken", error="the task is unknown", next_in=-300),
            recurring("late", next_in=-300),
            recurring("later", next_in=-900),
            recurring("paused", next_in=-900, is_paused=True),
            recurring("soon", next_in=-30),
        ]
    )

    assert ["recurring_error", "recurring_late"] == [one.code for one in told]
    assert "the task is unknown" == told[0].values["error"]
    assert ("later", 1) == (told[1].values["recurring"], told[1].values["others"])


def test_a_long_wait_is_a_trouble_where_somebody_listens():
    """Ten minutes at the head of a line; a paused queue waits on purpose."""
    oldest = {"mail": at(minutes=-10), "bulk": at(minutes=-9)}
    seen = {"servers": [server()], "oldest": oldest}

    assert ["long_wait"] == kinds(queues=[queue(), queue("bulk")], **seen)
    assert [] == kinds(queues=[queue(is_paused=True)], **seen)


def test_jobs_that_limits_hold_wait_for_no_worker():
    """It counts how long the first one waits that no limit holds."""
    seen = {"servers": [server()], "queues": [queue()], "oldest": {"mail": at(minutes=-60)}}
    late, young = (job(changed_at=at(minutes=minutes)) for minutes in (-10, -9))

    assert [] == kinds(**seen, held={"mail": HeldHead(100, None)})
    assert [] == kinds(**seen, held={"mail": HeldHead(3, young)})
    assert ["long_wait"] == kinds(**seen, held={"mail": HeldHead(3, late)})


def test_a_paused_queue_with_many_jobs_is_told_with_its_note():
    """Somebody may have forgotten it."""
    trouble = only(queues=[queue("mail", 100, is_paused=True, note="until 15:00")], servers=[server()])

    assert ("paused", "until 15:00") == (trouble.code, trouble.values["note"])
    assert [] == kinds(queues=[queue("mail", 99, is_paused=True)], servers=[server()])


def test_tasks_clocks_and_findings_are_told():
    """A task that no server knows, clocks apart, and what the storage finds wrong with itself."""
    findings = [Finding(True, "The disk is full.", "Make room."), Finding(False, "No index.", "Add it.")]

    told = kinds(unknown_tasks={"old.task": 4}, skew=-42 * MICROS, storage=findings)

    assert ["storage", "unknown_task", "skew"] == told


@pytest.fixture
def storage():
    """A storage that fails as told."""
    return FailingStorage()


def words(diagnosis):
    """What was found, in one text."""
    return "\n".join(finding.what for finding in diagnosis.findings)


def test_an_app_finds_what_doctor_finds(storage):
    """Findings with what to do, and what was looked at; the same without blocking."""
    fire = Firelock(storage)
    fire.task(name="report")(lambda: None).enqueue()

    diagnosis = fire.diagnose()

    assert isinstance(diagnosis, Diagnosis)
    assert diagnosis.has_errors
    assert (
        "no_server",
        "1 job is enqueued and no server is alive.",
        "Start one: firelock server app:fire",
    ) in [(finding.code, finding.what, finding.mend) for finding in diagnosis.findings]
    assert storage.url == diagnosis.about["storage"]
    assert words(diagnosis) == words(asyncio.run(fire.adiagnose()))


def test_jobs_are_compared_with_tasks_where_the_app_has_them(storage):
    """An app without a task knows nothing of them; it can be told otherwise."""
    with_task, without = Firelock(storage), Firelock(storage)
    with_task.task(name="report")(lambda: None).enqueue()
    other = Firelock(storage)
    other.task(name="other")(lambda: None)
    foreign = "enqueued for task report, which this app does not have"

    assert foreign in words(other.diagnose())
    assert foreign not in words(with_task.diagnose())
    assert foreign not in words(without.diagnose())
    assert foreign in words(without.diagnose(knows_tasks=True))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (StorageUnavailable("it is away"), "Start it, or mend its address"),
        (SchemaMismatch("Its tables are of an older release; run firelock migrate."), "Do that first"),
    ],
)
def test_the_advice_fits_what_stops_the_look(storage, error, advice):
    """A storage that does not answer is a finding, not an exception."""
    storage.fail_always("counts", error)

    finding = Firelock(storage).diagnose().findings[-1]

    assert (True, str(error)) == (finding.is_error, finding.what)
    assert finding.mend.startswith(advice)


# ---- limits and unique keys ------------------------------------------------------------------------------


def named(
    name="tenant", *, is_paused=False, note="", paused_at=None, kind=LimitName, is_own=False, **numbers
):
    """A limit's name, or a key of it."""
    key = {} if kind is LimitName else {
        "key": name, "running": 0, "holders": (), "waiting": numbers.pop("waiting", 0), "opens_at": None,
        "is_own": is_own,
    }  # fmt: skip
    return kind(
        name=name.partition(":")[0], template=None, numbers=LimitNumbers(**numbers), code=None,
        whose=NumberSource.CODE, is_paused=is_paused, note=note, paused_by=None, paused_at=paused_at, **key,
    )  # fmt: skip


def a_key(key="tenant:7", **fields):
    """A key as the doctor sees it."""
    return named(key, kind=LimitView, **fields)


def all_of(code, **seen):
    """What is told of one code."""
    return [finding for finding in check_all(Sight(at(), **seen)) if finding.code == code]


def test_a_number_of_zero_is_told_with_how_many_wait():
    """A name's is told once for all its keys, a key's own by itself."""
    names = [named(concurrent=0)]
    keys = [
        a_key(concurrent=0, waiting=3),
        a_key("tenant:8", concurrent=0, waiting=4),
        a_key("api:1", rate=0),
    ]

    told = all_of("limit_zero", limit_names=names, limits=[*keys, a_key("tenant:9", concurrent=1, waiting=5)])

    assert [("tenant", 7), ("api:1", 0)] == [(one.values["limit"], one.values["count"]) for one in told]
    assert "firelock limits set tenant" in told[0].mend


def test_a_paused_limit_is_told_with_its_note_and_since_when():
    """Whoever watches learns of it where many wait, or some for an hour."""
    paused = {"is_paused": True, "note": "moving", "paused_at": NOW - timedelta(hours=2)}
    lately = {**paused, "paused_at": NOW - timedelta(minutes=5)}

    (told,) = all_of("limit_paused", limit_names=[named(**paused)], limits=[a_key(**paused, waiting=2)])

    assert "Limit tenant is paused: moving; 2 jobs are waiting." == told.what
    assert ("firelock limits resume tenant", at(hours=-2)) == (told.mend, told.since)
    assert ["limit_paused"] == kinds(limits=[a_key(**paused, is_own=True, waiting=2)])
    assert [] == kinds(limits=[a_key(**lately, waiting=2)])
    assert ["limit_paused"] == kinds(limits=[a_key(**lately, waiting=100)])
    assert [] == kinds(limits=[a_key(**paused)])


def test_limits_whose_jobs_nobody_serves_are_told():
    """Where every queue of a key's jobs is one that no living server listens to."""
    waits_at = {"tenant:7": frozenset({"slow"}), "tenant:8": frozenset({"slow", "mail"})}
    seen = {"waits_at": waits_at, "servers": [server(queues="mail")]}

    (told,) = all_of("limit_unserved", **seen)

    assert ("tenant:7", 1, "slow") == (told.values["limit"], told.values["count"], told.values["queue"])
    assert [] == all_of("limit_unserved", **seen, queues=[queue("slow", is_paused=True)])
    assert [] == all_of("limit_unserved", waits_at=waits_at)  # no server at all is said already


def fails():
    """What a task of a test does."""
    raise ValueError


def test_the_doctor_looks_at_limits_of_jobs(storage):
    """A cost that never fits, jobs without their task's limits, keys that are held in vain."""
    stub = Firelock(storage)
    with Firelock(storage) as fire:
        parent = fire.task(name="parent", retry=Retry(attempts=0))(fails).enqueue()
        child = parent.then(fire.task(name="child", unique=Unique("day"))(lambda: None))
        Worker(fire).run()
        fire.task(name="report", limits=[Limit("tenant", concurrent=1)])(lambda: None)

        @fire.task(name="ask", limits=[Limit("api", rate=10, per=60, burst=5, cost="{tokens}")])
        def ask(tokens: int): ...

        stub.task(name="report", remote=True)(lambda: None).enqueue()
        ask.enqueue(9)
        fire.limits.sync()

        told = {finding.code: finding for finding in fire.diagnose().findings}

    assert ("api", 9) == (told["limit_cost"].values["limit"], told["limit_cost"].values["count"])
    assert "It is late, never lost" in told["limit_cost"].what
    assert ("report", 1) == (told["unlimited"].values["task"], told["unlimited"].values["count"])
    assert ("day", "child", child.id) == tuple(
        told["unique_in_vain"].values[name] for name in ("key", "task", "job")
    )


def test_unique_keys_held_by_children_of_failed_parents_are_told():
    """Nothing of the key is stored until somebody acts: the first is named, with its job."""
    (told,) = all_of(
        "unique_in_vain", keys_in_vain=[("shop.report day:1", "j1"), ("shop.report day:2", "j2")]
    )

    words = (
        "Unique key day:1 of task shop.report is held by job j1, whose parent has failed; so are 1 more keys."
    )
    assert words == told.what
    assert told.mend.endswith("firelock jobs delete j1")


def test_keys_that_lie_apart_are_told_with_what_to_write():
    """On a storage with partitions alone."""
    apart = [("send", "smtp", "tenant:{tenant}"), ("ask", "region:{region}", "tenant:{tenant}")]

    first, second = all_of("limit_apart", apart=apart)

    assert "Write smtp/tenant:{tenant} in place of tenant:{tenant}" in first.mend
    assert "Give them one beginning" in second.mend


def test_tasks_are_looked_at_where_the_storage_has_partitions(storage):
    """Their limits and unique keys, as the code has them; of a storage in one piece nothing is told."""
    with Firelock(storage) as fire:
        apart = [Limit("smtp", concurrent=9), Limit("tenant:{n}", concurrent=1)]
        fire.task(name="apart", limits=apart)(lambda n: None)
        fire.task(name="unique", limits=apart[1:], unique=Unique())(lambda n: None)
        fire.task(name="alike", limits=[apart[1]], unique=Unique("tenant:{n}/day"))(lambda n: None)
        before = [one for one in fire.diagnose().findings if one.code == "limit_apart"]
        storage.describe = lambda: {"partitions": "16"}

        told = [one for one in fire.diagnose().findings if one.code == "limit_apart"]

    assert ([], ["apart", "unique"]) == (before, [one.values["task"] for one in told])
    assert "(all arguments, as unique key)" in told[1].what


# ---- writing ---------------------------------------------------------------------------------------------


def findings_with(error):
    """What a doctor finds whose test records meet this error."""
    with Firelock(FailingStorage()) as fire:
        if error is not None:
            fire.storage.fail_always("put_record", error)
        findings = [
            (finding.is_error, finding.what) for finding in fire.diagnose().findings if "writ" in finding.what
        ]
        return findings, fire.storage.list_records("doctor")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, []),
        (StorageUnavailable("disk full"), [(True, "A test record could not be written: disk full")]),
        (
            StorageError("denied"),
            [(
                False,
                "Whether servers can write was not checked, because this user may not write: denied",
            )],
        ),
    ],
    ids=["well", "full", "not allowed"],
)  # fmt: skip
def test_the_doctor_writes_and_deletes_test_records(error, expected):
    """A storage with a full disk answers every read."""
    assert (expected, []) == findings_with(error)
