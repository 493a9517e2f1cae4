"""Webhooks: allowed addresses, and events, each of which is reported only once by all servers together."""

from __future__ import annotations

import ipaddress
import json
import socket
import ssl
import threading
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from firelock import ConfigurationError, Firelock, JobFailed, Limit, Retry, State
from firelock.integrations.webhooks import Webhook, Webhooks, verify
from firelock.integrations.webhooks.delivery import DeliveryFailed, DeliveryRefused, deliver, may_be_reached
from firelock.storage import ClaimRequest, NewSession
from firelock.storage.memory import MemoryStorage
from tests.core.fakes import until
from tests.redis.certificates import write_certificates

SECRET = "a-secret-of-the-receiver"
TEN = timedelta(minutes=10)


class Receiver(HTTPServer):
    """A loopback server that returns the next status for each request, and repeats the last status."""

    def __init__(self, *statuses):
        super().__init__(("127.0.0.1", 0), Answering)
        self.statuses, self.requests = list(statuses or [204]), []
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/hooks/token?to=ops"

    @property
    def events(self):
        return [json.loads(body) for _, _, body in self.requests]

    def close(self):
        self.shutdown()
        self.thread.join()
        self.server_close()


class Answering(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, dict(self.headers), body))
        statuses = self.server.statuses
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *words):
        """Discard log messages."""


@pytest.fixture
def receive():
    """Return a function that starts a receiver; all receivers stop at the end of the test."""
    started = []

    def receive(*statuses):
        started.append(Receiver(*statuses))
        return started[-1]

    yield receive
    for receiver in started:
        receiver.close()


@pytest.fixture
def shop():
    """Return a function that creates an app with webhooks; all apps of the test share a storage."""
    storage, apps = MemoryStorage(), []

    def shop(url="http://localhost:9/", *, hook=(), **options):
        app = Shop(storage, Webhook("ops", url, SECRET, **{"on": OTHERS, **dict(hook)}), options)
        apps.append(app.fire)
        return app

    yield shop
    for fire in apps:
        fire.close()


OTHERS = ("failed", "queue_latency", "recurring_missed", "server_lost", "recovered")


def is_of_finding(event):
    """Return whether this event is about a finding that has no event type of its own, or about its end."""
    return "finding" in (event["event"], event.get("of"))


class Shop:
    """An app with tasks and webhooks, and a storage whose clock can be set forward."""

    def __init__(self, storage, hook, options):
        self.webhooks = Webhooks([hook], **options)
        self.wants_findings = "finding" in hook.on
        self.fire = Firelock(storage, plugins=[self.webhooks])
        self.storage = storage
        self.fails = True

        @self.fire.task(name="charge", retry=Retry.never())
        def charge(card: str) -> None:
            if self.fails:
                raise ValueError(f"card {card}")

        self.charge = charge

    def later(self, seconds=60):
        self.storage.clock_offset += seconds * 1_000_000

    def check(self, seconds=60):
        """Wait this number of seconds, and return the types and texts of new events."""
        return [(event["event"], event["text"]) for event in self.webhooks_after(seconds)]

    def webhooks_after(self, seconds):
        """Wait this number of seconds, and return the new events."""
        self.later(seconds)
        events = self.webhooks.check()
        return events if self.wants_findings else [one for one in events if not is_of_finding(one)]

    def run(self, *jobs, queues="default"):
        with self.fire.server(workers=1, queues=queues):
            for job in jobs:
                with suppress(JobFailed):
                    job.result(timeout=20)


# ---- events ----------------------------------------------------------------------------------------------


def test_failure_is_reported_in_a_signed_request(shop, receive):
    """The body of the request contains the task, the jobs and the error types.

    It does not contain arguments, messages, tracebacks or metadata.
    """
    receiver = receive()
    app = shop(receiver.url, source="shop")
    app.webhooks.check()
    job = app.charge.using(meta={"tenant": "acme"}).enqueue("4111 1111")
    app.run(job)

    (event,) = app.webhooks_after(60)
    (delivery,) = app.fire.jobs.find(task="firelock.webhook").jobs
    app.run(delivery, queues="webhooks")

    ((path, headers, body),) = receiver.requests
    assert "/hooks/token?to=ops" == path
    assert event == json.loads(body)
    assert {
        "event": "failed", "task": "charge", "count": 1, "jobs": [job.id], "error_types": ["ValueError"],
        "text": "A job of charge failed (ValueError).", "source": "shop",
        "id": event["id"], "at": event["at"],
    } == event  # fmt: skip
    assert (event["id"], "failed") == (headers["Firelock-Event-Id"], headers["Firelock-Event"])
    assert verify(headers, body, SECRET)
    assert not verify(headers, body + b" ", SECRET)
    assert not verify(headers, body, "another-secret-of-16")
    assert not verify(headers, body, SECRET, now=int(headers["Firelock-Timestamp"]) + 301)
    assert not verify({}, body, SECRET)
    for secret in ("4111 1111", "acme", "Traceback"):
        assert secret not in body.decode()
    printed = repr([delivery.record(), app.fire.jobs.find().jobs, Webhook("a", receiver.url, SECRET)])
    assert SECRET not in printed
    assert "token" not in printed


def test_failures_of_a_task_are_grouped_and_recovery_is_reported_once(shop):
    """The first failures are reported immediately, and later ones once per quiet period.

    When a job of the task has succeeded, `recovered` is sent.
    """
    app = shop(quiet=TEN)
    assert [] == app.check()
    app.run(*app.charge.enqueue_many([("1",), ("2",)]))

    assert [("failed", "2 jobs of charge failed (ValueError).")] == app.check()
    app.run(app.charge.enqueue("3"))
    assert [] == app.check()
    assert [("failed", "A job of charge failed (ValueError).")] == app.check(600)
    assert [] == app.check()
    app.fails = False
    app.run(app.charge.enqueue("4"))
    assert [("recovered", "charge: a job of this task has succeeded since the failure.")] == app.check()
    assert [] == app.check()


def test_failed_batch_is_reported_with_its_name(shop):
    """The event contains the number of failed members.

    Only the outermost of several nested batches is reported.
    """
    app = shop(quiet=TEN)
    app.check()
    app.fire.task(name="pack")(lambda: None)
    with app.fire.batch("nightly") as batch:
        batch.add_many([app.fire.task_named("pack").call()] * 2)
        with batch.batch("cards") as inner:
            card = inner.add(app.charge, "1")
    app.run(card, batch)
    app.later()
    (event,) = [each for each in app.webhooks.check() if "batch" in each]

    assert {
        "event": "failed", "batch": "nightly", "count": 1, "jobs": [batch.id], "failed": 1, "total": 3,
        "text": "Batch 'nightly' failed: 1 of 3.", "id": event["id"], "at": event["at"],
    } == event  # fmt: skip
    assert [] == app.check()
    app.fails = False
    app.run(batch.requeue())
    assert {
        ("recovered", "charge: a job of this task has succeeded since the failure."),
        ("recovered", "Batch 'nightly': a batch with this name has succeeded since the failure."),
    } == set(app.check())
    assert [] == app.check()


def test_failed_batches_with_the_same_name_are_grouped(shop):
    """Batches are grouped by name, as failures of jobs are grouped by task."""
    app = shop()
    app.check()
    for name in ("hourly", "hourly", "nightly"):
        with app.fire.batch(name) as batch:
            batch.add(app.charge, "1")
        app.run(batch)

    assert {"2 batches named 'hourly' failed.", "Batch 'nightly' failed: 1 of 1."} < {
        text for _, text in app.check()
    }


def test_event_is_reported_by_only_one_server(shop):
    """A check immediately after a check by another server does nothing."""
    first, second = shop(), shop()
    first.check()
    first.run(first.charge.enqueue("1"))

    assert 1 == len(second.check())
    assert [] == first.check(0)
    assert [] == first.check()
    assert 1 == first.fire.jobs.counts().by_queue["webhooks"][State.ENQUEUED]


def test_failed_delivery_is_not_reported(shop, receive):
    """Otherwise, an unreachable receiver would create more and more jobs."""
    app = shop(receive(410).url)
    app.check()
    app.run(app.charge.enqueue("1"))
    assert 1 == len(app.check())
    (delivery,) = app.fire.jobs.find(task="firelock.webhook").jobs
    app.run(delivery, queues="webhooks")

    assert State.FAILED is delivery.refresh().state
    assert (
        "The receiver of webhook 'ops' returned status 410; redirects are not followed."
        == delivery.error.message
    )
    assert [] == app.check()


def test_queue_latency_above_the_limit_is_reported(shop):
    """The limit can be set for one queue or for all queues.

    Paused queues and the webhooks' own queue are ignored.
    """
    app = shop(latency={"*": TEN, "slow": timedelta(hours=1)})
    begin_session(app.storage, "serves", timeout=1e9)
    app.check()
    for queue in ("default", "slow", "paused", "webhooks"):
        app.charge.using(queue=queue).enqueue("1")
    app.fire.queues.pause("paused")

    assert [] == app.check(590)
    assert [("queue_latency", "The first job of queue default has waited for 12 min.")] == app.check(100)
    assert [] == app.check()
    app.fails = False
    app.run(*app.fire.jobs.find(queue="default").jobs)
    assert [("recovered", "default: jobs of this queue start in time again.")] == app.check()
    assert ["queue_latency"] == [event for event, _ in app.check(3_600)]


def hold(app, key, *, concurrent=1):
    """Create jobs that share a limit key, and run one of them; return the task and the running job."""
    limit = Limit(key, concurrent=concurrent)
    task = app.fire.task(name="limited", limits=[limit], retry=Retry.never())(charge_card)
    app.fire.limits.sync()
    running = task.enqueue("0")
    begin_session(app.storage, "holder")
    app.storage.claim(ClaimRequest(None, 1, "s-holder", app.storage.clock()))
    return task, running


def charge_card(card: str) -> None:
    """Charge the card."""


def test_jobs_blocked_by_a_limit_are_not_a_delay(shop):
    """The first job without a limit is reported, together with the number of blocked jobs before it."""
    app = shop(latency=TEN)
    begin_session(app.storage, "serves", timeout=1e9)
    app.check()
    task, _ = hold(app, "tenant")
    task.enqueue_many([("1",), ("2",)])

    assert "queue_latency" not in dict(app.check(7_200))
    app.charge.enqueue("1")
    assert [] == app.check()
    (event,) = app.webhooks_after(600)

    assert "queue_latency" == event["event"]
    assert (660, 2) == (event["seconds"], event["held"])
    assert (
        "The first job of queue default that no limit delays has waited for 11 min; limits delay 2 before it."
        == event["text"]
    )


def test_search_for_a_delayed_job_stops_after_100_blocked_jobs(shop):
    """Later jobs are not read, so nothing is reported."""
    app = shop(latency=TEN)
    app.check()
    task, _ = hold(app, "tenant")
    task.enqueue_many([(str(number),) for number in range(100)])
    app.charge.enqueue("1")

    assert "queue_latency" not in dict(app.check(7_200))


def test_job_with_a_limit_is_reported_if_two_checks_find_it_unblocked(shop):
    """Between two jobs, a limit key is always below its limit for a moment, which is not a delay."""
    app = shop(latency=TEN)
    begin_session(app.storage, "serves", timeout=1e9)
    app.check()
    task, running = hold(app, "tenant")
    first, _ = task.enqueue("1"), task.enqueue("2")
    app.later(7_200)
    app.fire.jobs.delete([running.id])
    app.storage.end_session("s-holder", [], reason="it stopped")

    assert "queue_latency" not in dict(app.check(0))
    app.fire.jobs.delete([first.id])
    assert "queue_latency" not in dict(app.check())
    assert "The first job of queue default has waited for 2 h." == dict(app.check())["queue_latency"]


def test_late_recurring_job_is_reported(shop):
    """A definition is reported if it is late by more than the margin.

    The definition recovers when its next job is created.
    """
    app = shop()
    app.charge.recur("nightly", "0 2 * * *", "1")
    app.charge.recur("paused", "* * * * *", "1")
    app.fire.recurring.pause("paused")
    app.check()

    (missed,) = app.check(24 * 3_600 + 301)
    with app.fire.server(workers=1):
        until(lambda: app.fire.recurring.get("nightly").last_at is not None)
        until(lambda: app.fire.jobs.counts().by_state.get(State.FAILED))
    reported = dict(app.check())

    assert "recurring_missed" == missed[0]
    assert missed[1].startswith("Recurring job nightly was due at ")
    assert "nightly: the recurring job has been fired again." == reported["recovered"]


def test_chat_webhook_contains_only_the_text(shop, receive):
    """The text is in the configured field, and the request is signed like any other request."""
    receiver = receive()
    app = shop(receiver.url, hook={"chat_field": "content"}, source="shop")
    app.check()
    app.run(app.charge.enqueue("1"))
    app.check()
    app.run(*app.fire.jobs.find(task="firelock.webhook").jobs, queues="webhooks")

    assert [{"content": "shop: A job of charge failed (ValueError)."}] == receiver.events
    assert verify(receiver.requests[0][1], receiver.requests[0][2], SECRET)


def begin_session(storage, name, timeout=30.0):
    storage.begin_session(
        NewSession(f"s-{name}", f"id-{name}", name, "vm", 1, storage.clock(), timeout, 4, "*")
    )


def test_lost_server_is_reported_once(shop):
    """Live servers, and servers that were lost before the first check, are not reported."""
    app = shop()
    begin_session(app.storage, "old")
    app.later()
    app.check(0)
    begin_session(app.storage, "vm:1")

    assert [] == app.check(10)
    assert [
        ("server_lost", "Server vm:1 has not sent a heartbeat for 1 min; its limit is 30 s.")
    ] == app.check()
    assert [] == app.check()


def test_start_and_end_of_other_findings_are_each_reported_once(shop):
    """A finding that persists for two checks is reported with its code and advice.

    When the finding ends, this is reported as well.
    """
    app = shop(hook={"on": ["finding", "recovered"]})
    app.webhooks_after(0)
    app.charge.enqueue("1")

    at_first = [one for one in app.webhooks_after(60) if one.get("code") == "no_server"]
    (event,) = [one for one in app.webhooks_after(60) if one.get("code") == "no_server"]
    again = [one for one in app.webhooks_after(60) if one.get("code") == "no_server"]
    app.fire.jobs.delete([job.id for job in app.fire.jobs.find(state="enqueued")])
    (over,) = [one for one in app.webhooks_after(60) if one.get("code") == "no_server"]

    assert ("finding", "error", "servers", "1 job is enqueued, but no server is alive.") == (
        event["event"], event["severity"], event["subject"], event["text"],
    )  # fmt: skip
    assert event["advice"].startswith("Start one: firelock server")
    assert [] == at_first == again
    assert ("recovered", "finding", "servers") == (over["event"], over["of"], over["subject"])


def test_webhooks_set_the_thresholds_of_the_app(shop):
    """The doctor uses the same thresholds for its warnings."""
    app = shop(latency={"default": timedelta(minutes=1)}, margin=timedelta(minutes=3))
    begin_session(app.storage, "serves", timeout=1e9)
    app.charge.enqueue("1")
    app.later(90)

    assert timedelta(minutes=3) == app.fire.thresholds.late
    assert "long_wait" in [finding.code for finding in app.fire.diagnose().findings]


def test_webhook_receives_only_the_selected_events(shop):
    """Delivery jobs are not created for other events."""
    app = shop(hook={"on": ["server_lost"]})
    app.check()
    app.run(app.charge.enqueue("1"))

    assert 1 == len(app.check())
    assert [] == app.fire.jobs.find(task="firelock.webhook").jobs


def test_server_checks_periodically_and_delivers_events(shop, receive):
    """The thread for these checks ends with the server."""
    receiver = receive()
    app = shop(receiver.url, interval=timedelta(seconds=1))
    app.check()

    with app.fire.server(workers=1):
        with suppress(JobFailed):
            app.charge.enqueue("1").result(timeout=20)
        app.later(6)
        until(lambda: receiver.requests)

    assert ["failed"] == [event["event"] for event in receiver.events]
    assert all(thread.name != "firelock-webhooks" for thread in threading.enumerate())


def test_server_checks_when_it_starts(shop):
    """Therefore, a failure soon after the start of the storage's first server is reported."""
    app = shop(interval=timedelta(hours=1))

    with app.fire.server(workers=1, queues="default"):
        until(lambda: app.storage.get_record("webhooks", "alerts") is not None)


def test_stopped_server_does_not_stop_the_checks_of_another(shop):
    """Two servers of one process share the plugin."""
    app = shop(interval=timedelta(seconds=1))
    first = app.fire.server(workers=1, queues="default").start()
    with app.fire.server(workers=1, queues="default"):
        first.stop()
        assert 1 == sum(each.name == "firelock-webhooks" for each in threading.enumerate())
    assert all(each.name != "firelock-webhooks" for each in threading.enumerate())


# ---- allowed addresses -----------------------------------------------------------------------------------


def send(url, *networks):
    networks = [ipaddress.ip_network(each) for each in networks]
    return deliver("ops", url, SECRET, {"id": "1", "event": "failed"}, networks)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_delivery_is_retried_after_a_temporary_error(receive, status):
    """The attempt fails, and the retry signs the request again."""
    receiver = receive(status, 200)

    with pytest.raises(DeliveryFailed, match=f"returned status {status}"):
        send(receiver.url)

    assert 200 == send(receiver.url)


@pytest.mark.parametrize("status", [301, 307, 400, 404])
def test_redirect_or_rejection_is_not_retried(receive, status):
    """A redirect is not followed either."""
    receiver = receive(status)

    with pytest.raises(DeliveryRefused, match=f"returned status {status}; redirects are not followed"):
        send(receiver.url)

    assert 1 == len(receiver.requests)


def test_delivery_is_retried_if_the_receiver_is_unreachable(receive):
    """The error message does not contain the URL."""
    receiver = receive()
    url = receiver.url
    receiver.server_close()
    receiver.shutdown()

    with pytest.raises(DeliveryFailed) as failed:
        send(url)

    assert "Webhook 'ops' could not be delivered: ConnectionRefusedError." == str(failed.value)


@pytest.mark.parametrize(
    ("address", "is_allowed"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("2002:a00:1::", False),
        ("64:ff9b::a9fe:a9fe", False),
    ],
)
def test_only_public_addresses_are_allowed(address, is_allowed):
    """The host name does not matter. An IPv6 address that contains an IPv4 address is checked as IPv4."""
    assert is_allowed is may_be_reached(ipaddress.ip_address(address), "hooks.example.com", [])


def test_private_network_can_be_allowed():
    """Other private networks remain forbidden."""
    networks = [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/64")]

    def may(address):
        return may_be_reached(ipaddress.ip_address(address), "hooks.example.com", networks)

    assert [True, False, True, True, False] == [
        may(each) for each in ("10.1.9.9", "10.2.0.1", "::ffff:10.1.0.1", "fd00::7", "fd01::7")
    ]


def test_resolved_address_is_checked_before_connecting(receive, monkeypatch):
    """A host name that resolves to a loopback or private address is refused before any data is sent."""
    receiver = receive()
    port = receiver.server_address[1]
    monkeypatch.setattr(
        socket, "getaddrinfo",
        lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))],
    )  # fmt: skip

    with pytest.raises(DeliveryRefused, match="has an address that is not public"):
        send(f"https://hooks.example.com:{port}/")

    assert [] == receiver.requests


def test_certificate_is_verified(receive, tmp_path, monkeypatch):
    """The certificate must be trusted and must match the host in the URL."""
    write_certificates(tmp_path)
    receiver = receive()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    receiver.socket = context.wrap_socket(receiver.socket, server_side=True)
    url = f"https://127.0.0.1:{receiver.server_address[1]}/"

    with pytest.raises(DeliveryFailed, match="SSLCertVerificationError"):
        send(url)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    assert 204 == send(url)


# ---- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://hooks.example.com/token", "must use https"),
        ("ftp://hooks.example.com/token", "must be an https URL"),
        ("hooks.example.com/token", "must be an https URL"),
        ("https://ann:token@hooks.example.com/", "must not contain a user name, a password or a fragment"),
        ("https://hooks.example.com/#token", "must not contain a user name, a password or a fragment"),
        ("https://hooks.example.com/to ken", "characters that a URL must not contain"),
        ("https://hooks.example.com:port/token", "cannot be parsed"),
        (None, "must be an https URL|cannot be parsed"),
    ],
)
def test_invalid_url_raises_without_showing_the_url(url, words):
    """The URL can contain a token, as URLs of chat services do."""
    with pytest.raises(ConfigurationError, match=words) as refused:
        Webhook("ops", url, SECRET)

    assert "ann:" not in str(refused.value)
    assert "example" not in str(refused.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Webhook("", "https://hooks.example.com/", SECRET), "name must be a printable"),
        (lambda: Webhook("ops", "https://hooks.example.com/", "short"), "at least 16 characters"),
        (
            lambda: Webhook("ops", "https://hooks.example.com/", SECRET, on=["fail"]),
            "Valid events: failed, queue",
        ),
        (
            lambda: Webhook("ops", "https://hooks.example.com/", SECRET, on="failed"),
            "must be a list of events",
        ),
        (lambda: Webhook("ops", "https://hooks.example.com/", SECRET, networks=["10.1/8"]), "10.1.0.0/16"),
        (lambda: Webhooks([]), "and at least one, got"),
        (lambda: Webhooks("https://hooks.example.com/"), "must be a list of Webhook"),
        (lambda: Webhooks([hook(), hook()]), "must have different names"),
        (lambda: Webhooks([hook()], margin=5), "margin must be a timedelta of zero or more, got 5"),
        (lambda: Webhooks([hook()], latency={"slow": timedelta(-1)}), "slow must be"),
        (lambda: Webhooks([hook()], interval=timedelta(0)), "interval must be"),
        (lambda: Webhooks([hook()]).check(), "does not belong to an app"),
        (
            lambda: [Firelock("memory://", plugins=[both]) for both in [Webhooks([hook()])] * 2],
            "belongs to another app",
        ),
    ],
)
def test_invalid_settings_raise(make, words):
    """The message contains the value, except for secrets, and the fix."""
    with pytest.raises(ConfigurationError, match=words):
        make()


def hook():
    return Webhook("ops", "https://hooks.example.com/", SECRET)


def test_webhooks_are_read_from_the_environment(monkeypatch):
    """A container can be configured in this way. The error contains the name of a missing variable."""
    monkeypatch.setenv("FIRELOCK_WEBHOOKS", "ops, on-call")
    monkeypatch.setenv("FIRELOCK_WEBHOOK_OPS_URL", "https://hooks.example.com/a")
    monkeypatch.setenv("FIRELOCK_WEBHOOK_OPS_SECRET", SECRET)
    monkeypatch.setenv("FIRELOCK_WEBHOOK_ON_CALL_URL", "https://inside.example.net/b")

    with pytest.raises(ConfigurationError, match="'on-call'; set FIRELOCK_WEBHOOK_ON_CALL_SECRET for this"):
        Webhooks.from_environment()
    monkeypatch.setenv("FIRELOCK_WEBHOOK_ON_CALL_SECRET", SECRET)
    monkeypatch.setenv("FIRELOCK_WEBHOOK_ON_CALL_ON", "failed,server_lost")
    monkeypatch.setenv("FIRELOCK_WEBHOOK_ON_CALL_NETWORKS", "10.1.0.0/16")
    with Firelock("memory://", plugins=[Webhooks.from_environment(source="shop")]) as app:
        assert ["firelock.webhook"] == [task.name for task in app.registry.runnable()]
