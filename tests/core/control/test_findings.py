"""The list of findings about a storage: each true finding appears once, with its severity."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from firelock import Firelock, LimitSource, RecurringJob
from firelock.control.findings import (
    EndedRuns,
    Readings,
    Sampled,
    Thresholds,
    Waiting,
    list_findings,
    take_readings,
)
from firelock.control.limits import LimitName, LimitView
from firelock.control.queues import QueueView
from firelock.control.servers import ServerView
from firelock.jobs.blocked_by import HeldHead
from firelock.limits import LimitSettings
from firelock.model.job import JobRecord
from firelock.model.state import State
from firelock.schedules.recurring_job import RecurringRecord
from firelock.storage import (
    DURATION_BUCKETS,
    FailureGroup,
    Finding,
    NewSession,
    Renewal,
    Rollup,
    SessionRecord,
    Severity,
)
from tests.core.fakes import FailingStorage

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


def readings(**seen):
    """Return readings with these values, whichever part of the readings they belong to."""
    nested = {}
    for name, kind in (("waiting", Waiting), ("sampled", Sampled)):
        own = {key: seen.pop(key) for key in [*seen] if key in attrs.fields_dict(kind)}
        nested[name] = kind(**own)
    return Readings(at(), **nested, **seen)


def found(**seen):
    """Return the errors and warnings."""
    return [one for one in list_findings(readings(**seen)) if one.severity is not Severity.NOTE]


def kinds(**seen):
    return [finding.code for finding in found(**seen)]


def only(**seen):
    (finding,) = found(**seen)
    return finding


def test_healthy_storage_has_no_findings():
    """Waiting jobs, a listening server and a future recurring job cause no finding."""
    assert [] == kinds()
    assert [] == kinds(
        queues=[queue()], servers=[server()], recurring=[recurring()],
        oldest={"mail": at(seconds=-9)}, lately={"send": EndedRuns(50, 2)},
        usually={"send": EndedRuns(900, 30)}, skew=-2 * MICROS,
    )  # fmt: skip


@pytest.mark.parametrize("servers", [[], [server(is_alive=False)], [server(expires_in=-1)]])
def test_waiting_jobs_without_a_server_are_reported_first(servers):
    """The finding contains the number of waiting jobs and the time when the wait started."""
    since = at(minutes=-14)

    trouble, *_ = found(queues=[queue(enqueued=3), queue("bulk", 4)], servers=servers, oldest={"mail": since})

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
def test_queue_without_a_listening_server_is_reported(queues, listens):
    """A server describes its queues as a string that means all queues, as a list of names, or as weights."""
    reported = kinds(queues=[queue("mail", 12)], servers=[server(queues=queues)])

    assert ([] if listens else ["no_listener"]) == reported


@pytest.mark.parametrize(("state", "expected"), [("quiet", ["no_listener"]), ("stopping", [])])
def test_quiet_server_does_not_count_as_a_listener(state, expected):
    """A quiet server is alive but does not claim any jobs.

    A stopping server will soon exit, as in every deploy.
    """
    assert expected == kinds(queues=[queue()], servers=[server(state=state)])


def test_empty_or_paused_queue_needs_no_listener():
    """A listening server is needed only if waiting jobs may run."""
    seen = [queue("empty", 0), queue("held", 9, is_paused=True)]

    assert [] == kinds(queues=seen, servers=[server(queues="mail")])


def test_server_that_misses_renewals_is_reported():
    """The finding names the server if its session was not renewed for most of its timeout.

    It also contains the time of the last renewal.
    """
    trouble = only(servers=[server(expires_in=5.0), server("two")])

    assert ("server_lost", "server one") == (trouble.code, trouble.subject)
    assert "Server one has not sent a heartbeat for 25 s; its limit is 30 s." == trouble.what
    assert at(seconds=-25) == trouble.since


@pytest.mark.parametrize(
    ("lost", "others", "severity"),
    [
        ({"busy": 3, "queues": "mail"}, ["bulk"], Severity.ERROR),  # no server takes jobs of its queue
        ({"busy": 0, "queues": "mail"}, ["bulk"], Severity.ERROR),
        ({"busy": 3, "queues": "*"}, ["mail,bulk"], Severity.ERROR),
        ({"busy": 3, "queues": "mail"}, ["mail"], Severity.NOTE),
        ({"busy": 3, "queues": "mail,bulk"}, ["mail:3,slow:1", "bulk"], Severity.NOTE),
        ({"busy": 3, "queues": "mail"}, ["*"], Severity.NOTE),
        ({"busy": 0, "queues": "mail"}, ["mail"], None),
        ({"busy": 3, "queues": "mail", "state": "stopping"}, ["bulk"], None),
        ({"busy": 3, "queues": "mail", "expires_in": -7_200}, ["bulk"], None),
    ],
)
def test_server_that_died_with_jobs_is_reported_for_an_hour(lost, others, severity):
    """The finding is an error until other servers process the queues of the dead server.

    After that, it is a note.
    """
    gone = server("gone", is_alive=False, **{"expires_in": -60, **lost})
    back = [server(f"server {number}", queues=queues) for number, queues in enumerate(others)]

    findings = list_findings(readings(servers=[*back, gone]))

    assert ([] if severity is None else [("server_lost", severity)]) == [
        (finding.code, finding.severity) for finding in findings
    ]


@pytest.mark.parametrize(
    ("reported", "what", "is_error"),
    [
        ({"stuck_threads": 3}, "3 of 10 threads are occupied by jobs past their timeout.", False),
        ({"stuck_threads": 1}, "1 of 10 threads is occupied by jobs past their timeout.", False),
        ({"stuck_threads": 10}, "10 of 10 threads are occupied by jobs past their timeout.", True),
        ({"stuck_coroutines": 1}, "1 coroutine is occupied by jobs past their timeout.", False),
        (
            {"stuck_threads": 1, "stuck_coroutines": 2},
            "1 of 10 threads and 2 coroutines are occupied by jobs past their timeout.",
            False,
        ),
    ],
)
def test_workers_occupied_by_jobs_after_their_timeout_are_reported(reported, what, is_error):
    """The finding is an error if the server has no free thread for other jobs."""
    trouble = only(servers=[server(**reported), server("two")])

    assert ("stuck_workers", is_error, f"Server one: {what}") == (
        trouble.code, trouble.is_error, trouble.what,
    )  # fmt: skip
    assert "job.cancelled" in trouble.advice
    assert [] == kinds(servers=[server(**reported, is_alive=False, state="stopping")])


def test_parked_ends_are_reported():
    """The finding contains the server and the number of ends, and states where their jobs are listed."""
    trouble = only(servers=[server(parked=1_000), server("two")])

    assert ("parked_ends", False) == (trouble.code, trouble.is_error)
    assert trouble.what.startswith("Server one cannot store the outcome of 1,000 jobs")
    assert "long transaction" in trouble.advice
    assert [] == kinds(servers=[server(parked=1_000, is_alive=False, state="stopping")])


def test_restarted_server_is_not_lost():
    """The new server has the same name, so its previous sessions do not matter."""
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
        (EndedRuns(20, 10), EndedRuns(1_000, 400), True),  # half of them, even if this is the usual rate
        (EndedRuns(20, 9), EndedRuns(1_000, 400), None),
        (EndedRuns(20, 4), EndedRuns(20, 4), None),
        (EndedRuns(20, 12), None, True),
    ],
)
def test_task_that_fails_more_than_usual_is_reported(lately, usually, is_error):
    """There must be at least ten recent runs, of which at least a tenth failed.

    In addition, the rate must be at least three times the rate of the rest of the day, or at least 50 %.
    If there is no data for the rest of the day, it must be at least 50 %.
    """
    reported = found(lately={"charge": lately}, usually={} if usually is None else {"charge": usually})

    assert ([] if is_error is None else [is_error]) == [finding.is_error for finding in reported]


@pytest.mark.parametrize(("share", "rates"), [(0.0, [0.6]), (0.5, [0.3]), (0.9, []), (1.0, [])])
def test_muted_failures_do_not_count(share, rates):
    """Of 20 runs, 12 failed.

    If half of the failures are muted, the rate is three in ten. If nine tenths are muted, too few failures
    remain for a finding.
    """
    failing = found(lately={"t": EndedRuns(20, 12)}, usually={"t": EndedRuns(520, 12)}, muted={"t": share})

    assert rates == [finding.values["rate"] for finding in failing]


def test_broken_and_late_recurring_jobs_have_different_findings():
    """The finding about a broken definition contains its error.

    Each late definition has its own finding; the most overdue one is first. Paused definitions have none.
    """
    reported = found(
        recurring=[
            recurring("broken", error="the task is unknown", next_in=-300),
            recurring("late", next_in=-300),
            recurring("later", next_in=-900),
            recurring("paused", next_in=-900, is_paused=True),
            recurring("soon", next_in=-30),
        ]
    )

    assert ["recurring_error", "recurring_late", "recurring_late"] == [one.code for one in reported]
    assert "the task is unknown" == reported[0].values["error"]
    assert ["recurring later", "recurring late"] == [one.subject for one in reported[1:]]


def test_long_wait_in_a_queue_with_a_listener_is_reported():
    """The first job must have waited for ten minutes. Jobs of a paused queue wait on purpose."""
    oldest = {"mail": at(minutes=-10), "bulk": at(minutes=-9)}
    seen = {"servers": [server()], "oldest": oldest}

    assert ["long_wait"] == kinds(queues=[queue(), queue("bulk")], **seen)
    assert [] == kinds(queues=[queue(is_paused=True)], **seen)


def test_jobs_blocked_by_limits_do_not_count_as_waiting_for_workers():
    """The finding reports how long the first job that no limit blocks has been waiting."""
    seen = {"servers": [server()], "queues": [queue()], "oldest": {"mail": at(minutes=-60)}}
    late, young = (job(changed_at=at(minutes=minutes)) for minutes in (-10, -9))

    assert [] == kinds(**seen, held={"mail": HeldHead(100, None)})
    assert [] == kinds(**seen, held={"mail": HeldHead(3, young)})
    assert ["long_wait"] == kinds(**seen, held={"mail": HeldHead(3, late)})


def test_paused_queue_with_many_jobs_is_reported_with_its_note():
    """An operator may have forgotten the pause."""
    trouble = only(queues=[queue("mail", 100, is_paused=True, note="until 15:00")], servers=[server()])

    assert ("paused", "until 15:00") == (trouble.code, trouble.values["note"])
    assert [] == kinds(queues=[queue("mail", 99, is_paused=True)], servers=[server()])


def test_unknown_tasks_clock_differences_and_storage_problems_are_reported():
    findings = [
        Finding(Severity.ERROR, "disk", "The disk is full.", "Make room."),
        Finding(Severity.NOTE, "index", "No index.", "Add it."),
        Finding(Severity.WARNING, "skew", "The server's clock is 42.0 s behind.", "Set it."),
    ]

    reported = kinds(unknown_tasks={"old.task": 4}, skew=-42 * MICROS, storage=findings)

    assert ["disk", "unknown_task", "skew"] == reported  # one finding for the clock


# ---- limits and unique keys ------------------------------------------------------------------------------


def named(
    name="tenant", *, is_paused=False, note="", paused_at=None, kind=LimitName, is_own=False, **settings
):
    """Return a limit's name, or one of its keys."""
    key = {} if kind is LimitName else {
        "key": name, "running": 0, "holders": (), "waiting": settings.pop("waiting", 0), "opens_at": None,
        "is_own": is_own,
    }  # fmt: skip
    return kind(
        name=name.partition(":")[0], template=None, settings=LimitSettings(**settings), code=None,
        source=LimitSource.CODE, is_paused=is_paused, note=note, paused_by=None, paused_at=paused_at, **key,
    )  # fmt: skip


def a_key(key="tenant:7", **fields):
    """Return a key as the doctor reads it."""
    return named(key, kind=LimitView, **fields)


def all_of(code, **seen):
    """Return the findings of one code."""
    return [finding for finding in list_findings(readings(**seen)) if finding.code == code]


def test_limit_of_zero_is_reported_with_the_waiting_jobs():
    """A limit of zero for a name is reported once for all its keys.

    For a single key, it is reported separately.
    """
    names = [named(concurrent=0)]
    keys = [
        a_key(concurrent=0, waiting=3),
        a_key("tenant:8", concurrent=0, waiting=4),
        a_key("api:1", rate=0),
    ]

    reported = all_of(
        "limit_zero", limit_names=names, limits=[*keys, a_key("tenant:9", concurrent=1, waiting=5)]
    )

    assert [("tenant", 7), ("api:1", 0)] == [(one.values["limit"], one.values["count"]) for one in reported]
    assert "firelock limits set tenant" in reported[0].advice


def test_paused_limit_is_reported_with_its_note_and_start():
    """The finding is a warning if many jobs are waiting, or if some have been waiting for an hour."""
    paused = {"is_paused": True, "note": "moving", "paused_at": NOW - timedelta(hours=2)}
    lately = {**paused, "paused_at": NOW - timedelta(minutes=5)}

    (finding,) = all_of("limit_paused", limit_names=[named(**paused)], limits=[a_key(**paused, waiting=2)])

    assert "Limit tenant is paused: moving; 2 jobs are waiting." == finding.what
    assert ("firelock limits resume tenant", at(hours=-2)) == (finding.advice, finding.since)
    assert ["limit_paused"] == kinds(limits=[a_key(**paused, is_own=True, waiting=2)])
    assert [] == kinds(limits=[a_key(**lately, waiting=2)])
    assert ["limit_paused"] == kinds(limits=[a_key(**lately, waiting=100)])
    assert [] == kinds(limits=[a_key(**paused)])


def test_unique_keys_held_by_children_of_failed_parents_are_reported():
    """The finding names the first key and its job.

    No other job can be stored with such a key until an operator acts.
    """
    (finding,) = all_of(
        "unique_in_vain", keys_in_vain=[("shop.report day:1", "j1"), ("shop.report day:2", "j2")]
    )

    words = (
        "Unique key day:1 of task shop.report is held by job j1, whose parent has failed; the same applies"
    )
    assert f"{words} to 1 other unique key." == finding.what
    assert finding.advice.endswith("firelock jobs delete j1")


def test_keys_in_different_partitions_are_reported_with_the_fix():
    """There is no such finding on a storage without partitions."""
    apart = [("send", "smtp", "tenant:{tenant}"), ("ask", "region:{region}", "tenant:{tenant}")]

    first, second = all_of("limit_apart", apart=apart)

    assert "Use smtp/tenant:{tenant} instead of tenant:{tenant}" in first.advice
    assert "Use the same beginning" in second.advice


# ---- the whole list --------------------------------------------------------------------------------------


def test_failed_jobs_cause_a_note_that_names_the_main_task():
    """A storage with failed jobs never has the result "No problems found"."""
    groups = [
        FailureGroup("f1", "builtins.ValueError", "no", "send", 19, at(minutes=-3), "j1"),
        FailureGroup("f2", "builtins.KeyError", "x", "pack", 3, at(minutes=-90), "j2"),
    ]

    (finding,) = list_findings(readings(by_state={State.FAILED: 22}, failures=groups))

    assert (Severity.NOTE, "jobs_failed", "failed jobs") == (finding.severity, finding.code, finding.subject)
    assert "22 jobs have failed, 19 of them of send." == finding.what
    assert "firelock jobs failures" in finding.advice


def test_many_failed_jobs_cause_a_warning_until_their_cause_is_muted():
    """The jobs failed hours ago, so no finding about a failure rate reports them."""
    group = FailureGroup("f1", "pay.ProviderDown", "503", "charge", 502, at(minutes=-390), "j1")
    other = FailureGroup("f2", "builtins.KeyError", "x", "pack", 40, at(minutes=-90), "j2")
    failed = {"by_state": {State.FAILED: 543}, "failures": [group, other], "has_failed_batch": True}

    (many,) = list_findings(readings(**failed))
    (muted,) = list_findings(readings(**failed, muted_causes=frozenset({"f1"})))
    (few,) = list_findings(readings(**{**failed, "failures": [other]}))

    assert (Severity.WARNING, "jobs_failed", "charge") == (many.severity, many.code, many.values["task"])
    assert "543 jobs and batches have failed, 502 of them of charge. Newest cause: ProviderDown." == many.what
    assert [Severity.NOTE, Severity.NOTE] == [muted.severity, few.severity]


def test_failed_jobs_of_a_failing_task_are_reported_once():
    """The finding about the failure rate already contains the number of failed jobs."""
    group = FailureGroup("f1", "pay.ProviderDown", "503", "charge", 502, at(), "j1")

    found = list_findings(
        readings(
            by_state={State.FAILED: 502}, failures=[group],
            lately={"charge": EndedRuns(754, 502, 502)}, usually={"charge": EndedRuns(754, 502, hours=1)},
        )
    )  # fmt: skip

    assert [("failing", Severity.ERROR), ("jobs_failed", Severity.NOTE)] == [
        (one.code, one.severity) for one in found
    ]


def test_failed_batches_are_named_among_the_failed_jobs():
    """The number includes batches, so the finding must not call all of them jobs."""
    (several,) = list_findings(readings(by_state={State.FAILED: 3}, has_failed_batch=True))
    (alone,) = list_findings(readings(by_state={State.FAILED: 1}, has_failed_batch=True))

    assert "3 jobs and batches have failed." == several.what
    assert "1 batch has failed." == alone.what


def test_failing_task_names_its_failed_jobs_and_the_newest_cause():
    """The finding contains the number of final failures, their cause, and the command that lists them."""
    group = FailureGroup("f1", "psycopg.errors.UndefinedColumn", "column gift", "send", 19, at(), "j1")

    trouble = only(
        lately={"send": EndedRuns(27, 19, 19)},
        usually={"send": EndedRuns(900, 19, hours=5)},
        failures=[group],
    )

    assert (
        "70 % of the attempts of send failed in the last 15 minutes (usually 0 %). 19 attempts were "
        "not retried, and their jobs failed. Newest cause: UndefinedColumn."
    ) == trouble.what
    assert "firelock jobs list --state failed --task send --since 15m" == trouble.advice


def test_failures_of_one_burst_are_not_called_usual():
    """An outage and the requeue after it affect at most three hours.

    These are too few to show the usual rate.
    """
    lately = {"send": EndedRuns(502, 502, 502, hours=1)}

    burst = only(lately=lately, usually={"send": EndedRuns(1_256, 1_004, 1_004, hours=3)})
    spread = only(lately=lately, usually={"send": EndedRuns(1_256, 1_004, 1_004, hours=4)})

    assert "usually" not in burst.what
    assert None is burst.values["usual"]
    assert "(usually 67 %)" in spread.what


@pytest.mark.parametrize(("hours", "is_reported"), [((1, 1, 1, 1), False), ((1, 2, 3), True)])
def test_hours_in_which_a_task_ran_are_counted(hours, is_reported):
    """The hours are derived from the per-minute statistics that are read for the failure rates."""

    class Still(FailingStorage):
        def clock(self):
            return at()

    def ended(place, hour, outcome):
        minute = at(hours=-hour, minutes=place if hour else 0)
        return Rollup(minute, "send", "mail", outcome, 20, 0, (20,) + (0,) * len(DURATION_BUCKETS))

    with closing(Firelock(Still())) as fire:
        fire.storage.record_metrics([ended(place, hour, "succeeded") for place, hour in enumerate(hours)])
        fire.storage.record_metrics([ended(0, 0, "failed")])

        findings = list_findings(take_readings(fire.runtime, knows_tasks=False, host_clock=at))

    (failing,) = [one for one in findings if one.code == "failing"]
    assert is_reported == ("usually 0 %" in failing.what)


def test_failing_task_whose_attempts_are_retried_names_the_scheduled_jobs():
    """No job has failed, so a list of failed jobs would be empty."""
    trouble = only(lately={"send": EndedRuns(20, 20)})

    assert "100 % of the attempts of send failed in the last 15 minutes." == trouble.what
    assert "firelock jobs list --state scheduled --task send" == trouble.advice


def running_for(task="send", job_id="j1", **span):
    started = at() - timedelta(**span) // timedelta(microseconds=1)
    return JobRecord(
        job_id, task, "[]", "json", State.PROCESSING, "mail", 0, 0, started_at=started, changed_at=started
    )


MINUTES = 60 * MICROS


def test_job_that_runs_much_longer_than_usual_is_reported_per_task():
    """The finding names the job that started first, and counts the others."""
    jobs = [running_for(hours=3), running_for(job_id="j2", hours=2), running_for("pack", "j3", hours=1)]
    usually = {"send": EndedRuns(1_200, 0, longest=5 * MINUTES), "pack": EndedRuns(50, 0, longest=MINUTES)}

    first, second = found(running=jobs, usually=usually)

    assert ("long_run", Severity.WARNING, "task send") == (first.code, first.severity, first.subject)
    assert (
        "Job j1 of send has been running for 3 h. None of the 1,200 attempts of the task that ended in the "
        "last 24 hours took more than 5 min. The same applies to 1 other job of the task."
    ) == first.what
    assert "firelock jobs delete j1" in first.advice
    assert (jobs[0].started_at, "j1", 2) == (first.since, first.values["job"], first.values["count"])
    assert ("task pack", "j3") == (second.subject, second.values["job"])


@pytest.mark.parametrize(
    ("minutes", "ended", "is_reported"),
    [
        (50, EndedRuns(10, 0, longest=5 * MINUTES), True),
        (49, EndedRuns(10, 0, longest=5 * MINUTES), False),
        (10, EndedRuns(10, 0, longest=MICROS), True),
        (9, EndedRuns(10, 0, longest=MICROS), False),
        (500, EndedRuns(9, 0, longest=MICROS), False),
        (500, EndedRuns(10, 0, longest=None), False),
        (500, None, False),
    ],
)
def test_run_is_too_long_compared_with_the_longest_run_of_the_day(minutes, ended, is_reported):
    """A run is too long if it takes at least ten minutes and ten times as long as the longest run of the day.

    The day must have had at least ten runs.
    """
    seen = {} if ended is None else {"send": ended}

    assert (["long_run"] if is_reported else []) == kinds(
        running=[running_for(minutes=minutes)], usually=seen
    )


def test_advice_for_failed_parents_names_the_command_that_works():
    """The command that requeues a batch differs from the command for a job.

    The advice names one batch and one job, and counts the others.
    """
    batch = all_of("in_vain", in_vain={"b1": 2}, batches_in_vain=["b1"])[0]
    both = all_of("in_vain", in_vain={"b1": 2, "j1": 1, "j2": 1}, batches_in_vain=["b1"])[0]

    assert "Requeue the parent (firelock batches requeue b1), or delete it" in batch.advice
    assert "(firelock batches requeue b1; firelock jobs requeue j1)" in both.advice
    assert both.advice.endswith("There is 1 more such parent.")
    assert ["b1", "b1"] == [one.values["parent"] for one in (batch, both)]


def test_server_is_named_once_after_several_restarts():
    """Servers that stopped normally do not cause a finding."""
    gone = [server("s1", is_alive=False, busy=1, expires_in=-60 * number) for number in range(1, 5)]
    ended = [server(f"e{number}", is_alive=False, state="stopping") for number in range(5)]

    findings = list_findings(readings(servers=[server(queues="mail"), *gone, *ended]))

    assert ["server s1"] == [one.subject for one in findings]


def test_findings_are_sorted_by_severity_and_merged_by_subject():
    """Errors come first, then warnings, then notes.

    Two findings with the same code and subject are merged.
    """
    findings = list_findings(
        readings(
            is_shared=False, queues=[queue("mail", 120, is_paused=True), queue("bulk", 3)],
            servers=[server(queues="mail")],
            storage=[Finding(Severity.ERROR, "schema_old", "Old.", "Migrate.")] * 2,
        )
    )  # fmt: skip

    assert [
        ("error", "schema_old"), ("error", "no_listener"), ("warning", "paused"), ("note", "not_shared")
    ] == [(one.severity, one.code) for one in findings]  # fmt: skip


def test_latency_thresholds_of_the_app_are_used():
    """A queue can have its own threshold or no threshold. The key "*" applies to all other queues."""
    oldest = {"mail": at(minutes=-5), "bulk": at(hours=-5), "night": at(hours=-5)}
    thresholds = Thresholds({"mail": timedelta(minutes=1), "*": timedelta(hours=6)}, timedelta(hours=1))
    seen = {
        "queues": [queue(name) for name in oldest], "servers": [server()], "oldest": oldest,
        "recurring": [recurring(next_in=-1_800)],
    }  # fmt: skip

    reported = found(**seen, thresholds=thresholds)
    without = found(**seen, thresholds=Thresholds({}, timedelta(minutes=5)))

    assert ["queue mail"] == [one.subject for one in reported]
    assert ["recurring nightly"] == [one.subject for one in without]
