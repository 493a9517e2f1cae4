"""The interfaces for programs: metrics, the number of workers for an autoscaler, and probes."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from firelock import Cron, Firelock, Limit, StorageUnavailable
from firelock.server.recurring import fire_due
from firelock.storage import NewSession, Renewal
from firelock.testing.movable_clock import movable
from firelock_dashboard import Dashboard, Permission, any_of, basic_auth, bearer_tokens, hash_password
from firelock_dashboard.stats.scale import wanted_workers
from tests.core.fakes import FailingStorage
from tests.dashboard.browser import Browser
from tests.dashboard.worker import Worker

SECOND = 1_000_000
DAY = 86_400 * SECOND


@pytest.fixture
def send(fire):
    return fire.task(name="shop.send", queue="mail", tags=["user:{user_id}"])(send_mail)


def send_mail(user_id: int) -> None:
    """Send."""


def samples(client):
    """Return the value of every sample of /metrics by its name and labels."""
    answer = client.get("/metrics")
    assert answer.status == 200
    assert answer.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    families = list(text_string_to_metric_families(answer.text))
    found = [(one.name, *sorted(one.labels.items())) for each in families for one in each.samples]
    assert len(found) == len(set(found))
    return {
        (one.name.removeprefix("firelock_"), *one.labels.values()): one.value
        for each in families
        for one in each.samples
    }


def begin(fire, server, *, queues="*", workers=4, busy=0, server_id=None, **reported):
    """Start a server's session, which reports this number of busy workers."""
    server_id = server_id or f"id of {server}"
    now = fire.storage.clock()
    session = NewSession(f"s of {server_id}", server_id, server, "vm", 1, now, 30.0, workers, queues)
    fire.storage.begin_session(session)
    fire.storage.renew([Renewal(session.id, busy, "running", **reported)])


# ---- metrics ---------------------------------------------------------------------------------------------


def test_queues_have_metrics(client, fire, send):
    """A queue has metrics for its depth by state, the age of its oldest job, its pause and its listeners."""
    send.enqueue(1)
    send.schedule(timedelta(hours=1), 2)
    send.using(queue="bulk").enqueue(3)
    fire.queues.pause("bulk")
    begin(fire, "web:1", queues="mail")
    movable(fire.storage).clock_offset += 20 * SECOND

    found = samples(client)

    assert found["queue_depth", "mail", "enqueued"] == 1.0
    assert found["queue_depth", "mail", "scheduled"] == 1.0
    assert found["queue_depth", "mail", "awaiting"] == 0.0
    assert found["queue_latency_seconds", "mail"] >= 20.0
    assert (found["queue_listeners", "mail"], found["queue_listeners", "bulk"]) == (1.0, 0.0)
    assert (found["queue_paused", "mail"], found["queue_paused", "bulk"]) == (0.0, 1.0)
    assert (found["jobs", "enqueued"], found["jobs", "failed"]) == (2.0, 0.0)


def test_servers_have_metrics(client, fire):
    """Servers and their workers are counted by state.

    The numbers of two servers with the same name are added.
    """
    begin(fire, "web:1", workers=4, busy=3)
    begin(fire, "web:2", workers=10, busy=2)
    begin(
        fire,
        "web:2",
        workers=10,
        busy=1,
        server_id="its successor",
        stuck_threads=2,
        stuck_coroutines=5,
        parked=7,
    )

    found = samples(client)

    assert (found["servers", "running"], found["servers", "lost"]) == (3.0, 0.0)
    assert (found["worker_slots", "web:1", "busy"], found["worker_slots", "web:1", "idle"]) == (3.0, 1.0)
    assert (found["worker_slots", "web:2", "busy"], found["worker_slots", "web:2", "idle"]) == (3.0, 17.0)
    assert [0.0, 2.0, 5.0] == [
        found["stuck_workers", name, kind]
        for name, kind in (("web:1", "thread"), ("web:2", "thread"), ("web:2", "coroutine"))
    ]
    assert (found["parked_ends", "web:1"], found["parked_ends", "web:2"]) == (0.0, 7.0)


def test_recurring_jobs_have_metrics(client, fire, send):
    """The last success is reported even if a later job has failed; the next due time is a separate metric."""
    send.recur("nightly", Cron("0 2 * * *"), 1)
    send.recur("never-ran", Cron("0 2 * * *"), 1)
    fire.recurring.pause("never-ran")
    movable(fire.storage).clock_offset += DAY
    fire_due(fire.client)
    worker = Worker(fire)
    job = worker.claim()
    worker.succeed(job)
    succeeded_at = fire.jobs.get(job.id).record().ended_at
    movable(fire.storage).clock_offset += DAY
    fire_due(fire.client)
    worker = Worker(fire)
    worker.fail(worker.claim())
    movable(fire.storage).clock_offset += DAY

    found = samples(client)

    assert found["recurring_last_success_timestamp_seconds", "nightly"] == pytest.approx(
        succeeded_at / SECOND
    )
    assert ("recurring_last_success_timestamp_seconds", "never-ran") not in found
    assert found["recurring_next_timestamp_seconds", "nightly"] > succeeded_at / SECOND
    assert ("recurring_next_timestamp_seconds", "never-ran") not in found
    assert found["recurring_overdue_seconds", "nightly"] > 0.0
    assert found["recurring_overdue_seconds", "never-ran"] == 0.0
    assert found["recurring_missed_total", "nightly"] == 0.0


def test_findings_are_counted_by_code(client, send):
    """Each finding is counted by the code that `firelock doctor` uses."""
    send.enqueue(1)

    assert samples(client)["findings", "no_server", "error"] == 1.0


def test_limit_metrics_are_summed_by_name(client, fire):
    """A key might identify a customer, so it is not a label; a name that no task uses is included too."""
    limit = Limit("tenant:{user_id}", concurrent=1)
    task = fire.task(name="limited", limits=[limit])(send_mail)
    fire.limits.sync()
    fire.limits.pause("api")
    task.enqueue_many([(471108154711,), (471108154711,), (8,)])
    Worker(fire).claim()

    found, text = samples(client), client.get("/metrics").text

    assert (1.0, 2.0) == (found["limit_running", "tenant"], found["limit_waiting", "tenant"])
    assert (1.0, 0.0, 1.0) == (
        found["limit_full_keys", "tenant"], found["limit_paused", "tenant"], found["limit_paused", "api"],
    )  # fmt: skip
    assert "471108154711" not in text


def test_queue_latency_ignores_jobs_blocked_by_limits(client, fire, send):
    """Jobs that are blocked by limits need no worker, so they are counted separately.

    If no other job waits, the latency is 0.
    """
    task = fire.task(name="limited", queue="mail", limits=[Limit("tenant:{user_id}", concurrent=1)])(
        send_mail
    )
    task.using(queue="bulk", limits=[Limit("tenant:9", concurrent=1)]).enqueue_many([(9,), (9,)])
    task.enqueue_many([(1,), (1,), (1,)])
    fire.limits.sync()
    worker = Worker(fire)
    worker.claim(), worker.claim()
    movable(fire.storage).clock_offset += 7_200 * SECOND
    begin(fire, "web:1")
    send.enqueue(1)
    movable(fire.storage).clock_offset += 20 * SECOND

    found = samples(client)

    assert 20.0 <= found["queue_latency_seconds", "mail"] < 7_200.0
    assert 0.0 == found["queue_latency_seconds", "bulk"]
    assert (2.0, 1.0) == (found["queue_held", "mail"], found["queue_held", "bulk"])
    assert not any(code == "long_wait" for _, code, *_ in (name for name in found if len(name) == 3))


def test_metrics_contain_no_data_of_individual_jobs(client, send):
    """Metrics contain no id, tag or argument."""
    job = send.enqueue(471108154711)

    text = client.get("/metrics").text

    assert job.id not in text
    assert "471108154711" not in text


def test_scrapes_within_five_seconds_share_a_reading(send, tick, monkeypatch):
    from firelock_dashboard.stats.gauges import Gauges

    reads = []

    class Watch:
        def readings(self):
            from firelock.control.findings import Readings

            reads.append(tick.at)
            return Readings(0)

    gauges = Gauges(None, Watch(), lambda: None, monotonic=tick)
    monkeypatch.setattr("firelock_dashboard.stats.gauges._queue_families", lambda *_: [])
    monkeypatch.setattr(gauges, "_recurring_families", lambda _: [])
    for _ in range(10):
        gauges.families()
    tick.at += 6
    gauges.families()

    assert len(reads) == 2


# ---- scale -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("processing", "backlog", "mean", "most", "wanted"),
    [
        (0, 0, 1.0, 100, 0),
        (0, 1, 0.001, 100, 1),  # at least one worker if there is a job
        (0, 600, 1.0, 100, 10),
        (5, 600, 1.0, 100, 15),  # running jobs keep their workers
        (0, 3, 3_600.0, 100, 3),  # no more workers than jobs
        (0, 10_000, 10.0, 100, 100),
        (7, 0, 1.0, 100, 7),
    ],
)
def test_wanted_workers_follow_the_formula(processing, backlog, mean, most, wanted):
    """The result is the number of running jobs plus the backlog's work divided by the time allowed for it."""
    assert wanted == wanted_workers(
        processing=processing, backlog=backlog, mean_seconds=mean, clear_within=60, most=most
    )


def test_wanted_workers_of_a_queue_include_its_backlog(client, fire, send):
    """The backlog includes waiting jobs and jobs that are due soon, but no jobs of other queues.

    Retries and recurring jobs that are due soon count too.
    """
    begin(fire, "web:1", queues="mail", workers=4)
    send.enqueue_many([(number,) for number in range(3)])
    send.schedule(timedelta(seconds=20), 1)
    send.schedule(timedelta(hours=1), 1)
    send.using(queue="bulk").enqueue(1)
    send.recur("soon", Cron("* * * * *"), 1)

    scale = client.get("/api/scale?queue=mail&within=60&clear_within=1").json()
    other = client.get("/api/scale?queue=bulk").json()
    every = client.get("/api/scale").json()

    assert scale["oldest_wait_seconds"] >= 0
    assert {name: scale[name] for name in scale if name != "oldest_wait_seconds"} == {
        "queue": "mail", "backlog": 5, "enqueued": 3, "due_soon": 1, "recurring_soon": 1, "processing": 0,
        "held_by_limits": 0, "mean_seconds": 1.0, "workers": 4, "wanted_workers": 5, "is_paused": False,
    }  # fmt: skip
    assert (other["backlog"], other["workers"], other["wanted_workers"]) == (1, 0, 1)
    assert (every["queue"], every["backlog"]) == (None, 6)


def limited(fire, queue="mail", *, concurrent=1):
    """Return a task whose limit allows this number of concurrent jobs per user."""
    limit = Limit("tenant:{user_id}", concurrent=concurrent)
    task = fire.task(name=f"limited.{queue}", queue=queue, limits=[limit])(send_mail)
    fire.limits.sync()
    return task


def test_limits_bound_the_wanted_workers(client, fire):
    """A key that is one job below its limit allows one more job, and a key at its limit none.

    Running jobs keep their workers.
    """
    limited(fire).enqueue_many([(user,) for user in (1, 2) for _ in range(300)])
    Worker(fire).claim()

    scale = client.get("/api/scale?queue=mail&clear_within=1").json()
    every = client.get("/api/scale?clear_within=1").json()

    assert (599, 598, 1) == (scale["backlog"], scale["held_by_limits"], scale["processing"])
    assert (2, 2) == (scale["wanted_workers"], every["wanted_workers"])


@pytest.mark.parametrize("stop", ["pause", "none at once"])
def test_no_workers_are_wanted_if_a_limit_allows_no_start(client, fire, stop):
    """A paused limit or a limit of 0 allows no job to start."""
    limited(fire, concurrent=10).enqueue_many([(1,)] * 300)
    _ = fire.limits.pause("tenant") if stop == "pause" else fire.limits.set("tenant", concurrent=0)

    scale = client.get("/api/scale?queue=mail").json()

    assert (300, 300, 0) == (scale["backlog"], scale["held_by_limits"], scale["wanted_workers"])


def test_wanted_workers_never_exceed_the_jobs_that_may_run(client, fire):
    limited(fire, concurrent=10).enqueue_many([(1,)] * 300)

    scale = client.get("/api/scale?queue=mail&clear_within=1").json()

    assert (300, 290, 10) == (scale["backlog"], scale["held_by_limits"], scale["wanted_workers"])


def test_long_backlog_needs_fewer_workers_than_its_limit_allows(client, fire):
    """Each worker runs several jobs, so 300 jobs of one second within 60 seconds need five workers."""
    limited(fire, concurrent=10).enqueue_many([(1,)] * 300)

    assert 5 == client.get("/api/scale?queue=mail").json()["wanted_workers"]


def test_blocked_jobs_are_assumed_to_be_of_other_queues(client, fire, send):
    """Limits apply across all queues, so the blocked jobs are assumed to be in other queues.

    The number for one of several queues may therefore be too high, but is never too low.
    """
    limited(fire, "bulk").enqueue_many([(1,)] * 300)
    send.enqueue_many([(number,) for number in range(200)])

    mail = client.get("/api/scale?queue=mail&clear_within=1&most=1000").json()
    bulk = client.get("/api/scale?queue=bulk&clear_within=1&most=1000").json()

    assert (200, 0, 200) == (mail["backlog"], mail["held_by_limits"], mail["wanted_workers"])
    assert (300, 99, 201) == (bulk["backlog"], bulk["held_by_limits"], bulk["wanted_workers"])


def test_job_with_two_limits_is_counted_once(client, fire):
    """The job is counted only for the limit name that blocks the most jobs."""
    limits = [Limit("tenant:{user_id}", concurrent=1), Limit("smtp", concurrent=3)]
    fire.task(name="limited", queue="mail", limits=limits)(send_mail).enqueue_many([(1,)] * 10)
    fire.limits.sync()

    scale = client.get("/api/scale?queue=mail&clear_within=1").json()

    assert (9, 1) == (scale["held_by_limits"], scale["wanted_workers"])


def test_no_workers_are_wanted_for_a_paused_or_unknown_queue(client, fire, send):
    """No worker could run a job in such a queue."""
    send.enqueue(1)
    fire.queues.pause("mail")

    paused, unknown = (client.get(f"/api/scale?queue={name}").json() for name in ("mail", "never-heard-of"))

    assert (paused["is_paused"], paused["backlog"], paused["wanted_workers"]) == (True, 0, 0)
    assert (unknown["is_paused"], unknown["backlog"], unknown["wanted_workers"]) == (False, 0, 0)


@pytest.mark.parametrize("query", ["within=-1", "clear_within=0", "most=many", "queues=mail"])
def test_invalid_autoscaler_query_is_refused(client, query):
    """The error names the field."""
    answer = client.get(f"/api/scale?{query}")

    assert answer.status == 400
    assert query.partition("=")[0] in answer.json()["error"]


# ---- access ----------------------------------------------------------------------------------------------


def test_metrics_token_grants_only_metrics(fire, send):
    """Without a token the response is a 401.

    The token permits reading metrics, but not changing anything or seeing arguments.
    """
    job = send.enqueue(1)
    people = basic_auth({"ada": hash_password("only-for-this-test")})
    auth = any_of(people, bearer_tokens({"a-token-of-a-scraper": [Permission.READ]}))
    scraper = {"authorization": "Bearer a-token-of-a-scraper"}
    peer = ("10.0.0.7", 50_000)
    with closing(Dashboard(fire, auth=auth)) as dashboard, closing(Browser(dashboard, peer=peer)) as browser:
        for path in ("/metrics", "/api/scale?queue=mail"):
            assert browser.get(path).status == 401
            assert browser.get(path, headers=scraper).status == 200
        details = browser.get(f"/api/jobs/{job.id}", headers=scraper).json()
        refused = browser.post("/jobs/delete", {"id": job.id}, headers=scraper)

    assert details["arguments"] is None
    assert refused.status == 403


def test_metrics_without_auth_are_local_only(fire):
    """Without `auth=`, the metrics follow the same rule as every page."""
    with closing(Dashboard(fire)) as dashboard, closing(Browser(dashboard, peer=("10.0.0.7", 1))) as browser:
        assert browser.get("/metrics").status == 403


# ---- probes ----------------------------------------------------------------------------------------------


def test_probes_respond_without_a_login(fire):
    """The probes respond to any address without a login, and reveal nothing else."""
    with closing(Dashboard(fire)) as dashboard, closing(Browser(dashboard, peer=("10.0.0.7", 1))) as browser:
        answers = [browser.get(path) for path in ("/-/livez", "/-/readyz")]

    assert [(200, "ok\n"), (200, "ok\n")] == [(answer.status, answer.text) for answer in answers]


def test_dashboard_is_alive_but_not_ready_during_an_outage():
    """The dashboard is ready again when the storage responds again."""
    with (
        closing(Firelock(FailingStorage())) as fire,
        closing(Dashboard(fire)) as dashboard,
        closing(Browser(dashboard, is_in=False)) as browser,
    ):
        fire.storage.fail_always("counts", StorageUnavailable("no route to 10.0.0.9"))
        away = browser.get("/-/readyz")
        alive = browser.get("/-/livez")
        fire.storage.recover()
        back = browser.get("/-/readyz")

    assert (away.status, away.text) == (503, "failed storage: it is unreachable\n")
    assert [alive.status, back.status] == [200, 200]
