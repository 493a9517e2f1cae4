"""The plugin: the receivers and their events, and the thread that checks for events.

Each check stores the next version of a record, so only one server checks at a time. The events that a check
finds become jobs in a separate queue. A job contains the name of the webhook; its URL and its secret are only
in the settings.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs

from firelock import ConfigurationError, Firelock, JsonValue, Retry, ServerInfo, StorageError, hookimpl
from firelock.control.findings import KeptReadings, list_findings, take_readings
from firelock.integrations.webhooks.alerts import Event, Memory, Rules, new_events
from firelock.integrations.webhooks.delivery import DeliveryRefused, Network, check_url, deliver
from firelock.model.report import Thresholds

if TYPE_CHECKING:
    from firelock import Task

log = logging.getLogger(__name__)

_TASK = "firelock.webhook"
_RECORD = ("webhooks", "alerts")
_SHORTEST_SECRET = 16
_SHORTEST_INTERVAL = timedelta(seconds=1)
_RETRY = Retry.exponential(
    timedelta(seconds=10), attempts=12, longest=timedelta(hours=1), except_on=[DeliveryRefused]
)
_ENVIRONMENT = "FIRELOCK_WEBHOOKS"
# Seconds for which expensive query results are cached.
_AGES = {"storage": 60.0, "samples": 300.0, "usually": 300.0, "muted": 60.0}


def _events(value: Collection[str]) -> frozenset[Event]:
    if isinstance(value, str):
        raise ConfigurationError(f"on must be a list of events, got {value!r}. Pass on=[{value!r}].")
    try:
        return frozenset(Event(each) for each in value)
    except ValueError as error:
        known = ", ".join(Event)
        raise ConfigurationError(f"on={sorted(value)!r}: {error}. Valid events: {known}.") from None


def _networks(value: Iterable[str]) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(each) for each in value)
    except ValueError as error:
        raise ConfigurationError(f"networks={value!r}: {error}. Use the form 10.1.0.0/16.") from None


@attrs.frozen
class Webhook:
    """A receiver and its events. Its URL and its secret do not appear in its repr, in jobs or in logs.

    Args:
        name: the webhook's name, which is shown in its jobs.
        url: an https URL; http is allowed only for this host itself.
        secret: the key of the signature, at least 16 characters; the receiver must also have it.
        on: the events that the receiver gets; by default all.
        chat_field: the field for the event's text in the body, if the receiver is a chat: "text" for Slack,
            Mattermost and Google Chat, "content" for Discord. In that case, only the text is sent.
        networks: networks with addresses that are not public, such as private or link-local ones, to which
            the webhook may connect.

    Raises:
        ConfigurationError: If one of the values is invalid.
    """

    name: str
    url: str = attrs.field(repr=False)
    secret: str = attrs.field(repr=False)
    on: frozenset[Event] = attrs.field(default=frozenset(Event), kw_only=True, converter=_events)
    chat_field: str | None = attrs.field(default=None, kw_only=True)
    networks: tuple[Network, ...] = attrs.field(default=(), kw_only=True, converter=_networks)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or not self.name.isprintable():
            raise ConfigurationError(
                f"A webhook's name must be a printable, non-empty string, got {self.name!r}."
            )
        check_url(self.url, self.name)
        if not isinstance(self.secret, str) or len(self.secret) < _SHORTEST_SECRET:
            raise ConfigurationError(
                f"The secret of webhook {self.name!r} must have at least {_SHORTEST_SECRET} characters. "
                'Create one: python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )


class Webhooks:
    """A plugin: `Firelock(url, plugins=[Webhooks([Webhook("ops", url, secret)])])`.

    Args:
        hooks: the receivers.
        latency: how long the first job of a queue may wait if no limit delays it. Pass one duration for all
            queues, or a mapping by queue with "*" for the other queues. The value is set on the app, so
            `firelock doctor`, the dashboard and metrics use it too.
        margin: how late a recurring job may be fired; this value is also set on the app.
        quiet: the minimum time between two reports about failures of the same task. The first failure is
            reported immediately; later failures are counted and reported together.
        interval: the time between two checks. One of the servers does each check, which takes about a dozen
            round trips.
        queue: the queue of the delivery jobs. A server must process it: `--queues default,webhooks`.
        source: the name of this system in events, for receivers that get events from several systems.

    Raises:
        ConfigurationError: If two hooks have the same name, no hook is given, or a duration is negative or
            too short.
    """

    def __init__(
        self,
        hooks: Sequence[Webhook],
        *,
        latency: timedelta | Mapping[str, timedelta] = timedelta(minutes=10),
        margin: timedelta = timedelta(minutes=5),
        quiet: timedelta = timedelta(minutes=5),
        interval: timedelta = timedelta(seconds=15),
        queue: str = "webhooks",
        source: str | None = None,
    ) -> None:
        self._hooks = _by_name(hooks)
        spans = {"*": latency} if isinstance(latency, timedelta) else dict(latency)
        for name, span in {"margin": margin, "quiet": quiet, **spans}.items():
            if not isinstance(span, timedelta) or span < timedelta(0):
                raise ConfigurationError(f"{name} must be a timedelta of zero or more, got {span!r}.")
        if not isinstance(interval, timedelta) or interval < _SHORTEST_INTERVAL:
            raise ConfigurationError(
                f"interval must be a timedelta of at least one second, got {interval!r}."
            )
        self._thresholds = Thresholds(spans, margin)
        self._rules = Rules(quiet, frozenset({queue}))
        self._readings = KeptReadings(_AGES)
        self._interval = interval
        self._queue = queue
        self._source = source
        self._app: Firelock | None = None
        self._deliver: Task[..., Any] | None = None
        self._threads: list[tuple[threading.Thread, threading.Event]] = []  # one per server in this process

    @classmethod
    def from_environment(cls, **options: Any) -> Webhooks:  # noqa: ANN401 - as `Webhooks` takes them
        """Return the plugin with the hooks that are defined by environment variables.

        `FIRELOCK_WEBHOOKS=ops,chat` contains the names. For each name, set `FIRELOCK_WEBHOOK_OPS_URL` and
        `…_SECRET`. You can also set `…_ON` and `…_NETWORKS`, comma-separated lists, and `…_CHAT_FIELD`.
        """
        names = [name.strip() for name in os.environ.get(_ENVIRONMENT, "").split(",") if name.strip()]
        return cls([_hook_of_environment(name) for name in names], **options)

    # ---- hooks of the app --------------------------------------------------------------------------------

    @hookimpl
    def configure_app(self, app: Firelock) -> None:
        """Register the task that delivers webhooks with the app."""
        if self._app is not None:
            raise ConfigurationError("This Webhooks object belongs to another app; create one for each app.")

        def webhook(hook: str, event: dict[str, JsonValue]) -> int:
            return self._send(hook, event)

        self._app = app
        app.thresholds = self._thresholds
        self._deliver = app.task(name=_TASK, queue=self._queue, retry=_RETRY)(webhook)

    @hookimpl
    def server_started(self, server: ServerInfo) -> None:
        """Start a thread in which this server takes turns with others to check for events."""
        stopping = threading.Event()
        thread = threading.Thread(
            target=self._check_repeatedly, args=[stopping], name="firelock-webhooks", daemon=True
        )
        self._threads.append((thread, stopping))
        thread.start()
        log.debug("Server %s checks for webhook events.", server.name)

    @hookimpl
    def server_stopped(self) -> None:
        """Stop the thread of one server; those of other servers in this process continue."""
        if self._threads:
            thread, stopping = self._threads.pop()
            stopping.set()
            thread.join(timeout=5.0)

    def _check_repeatedly(self, stopping: threading.Event) -> None:
        """Check for events immediately, then at every interval until `stopping` is set.

        Failures that happened before the first check by any server are not reported.
        """
        while not stopping.is_set():
            try:
                self.check()
            except StorageError as error:
                log.warning("Check for webhook events failed; retrying at the next interval: %s", error)
            except Exception:
                log.exception("Unexpected error in the webhook check; retrying at the next interval.")
            stopping.wait(self._interval.total_seconds())

    # ---- checks and deliveries ---------------------------------------------------------------------------

    def check(self) -> list[dict[str, JsonValue]]:
        """Check for events; enqueue a job for each new event and each webhook subscribed to it.

        Servers call this method themselves. Return the events, or an empty list if another server has checked
        less than half an interval ago.
        """
        app, task = self._app, self._deliver
        if app is None or task is None:
            raise ConfigurationError(
                "This Webhooks object does not belong to an app; pass it: Firelock(…, plugins=[webhooks])."
            )
        storage = app.storage
        record, now = storage.get_record(*_RECORD), storage.clock()
        memory = Memory.read(None if record is None else record.value)
        if memory.checked_at and now - memory.checked_at < self._interval.total_seconds() * 1_000_000 / 2:
            return []
        is_first, memory.checked_at = not memory.checked_at, now
        turn = storage.put_record(
            *_RECORD, memory.write(), expected_version=0 if record is None else record.version
        )
        if turn is None:  # another server is checking now
            return []
        readings = take_readings(app.runtime, knows_tasks=bool(app.tasks()), keep=self._readings)
        findings = list_findings(readings)
        events = new_events(app, memory, now, self._rules, task=_TASK, is_first=is_first, findings=findings)
        if self._source is not None:
            events = [{**event, "source": self._source} for event in events]
        calls = [
            task.call(hook.name, event)
            for event in events
            for hook in self._hooks.values()
            if event["event"] in hook.on and (event.get("of") != Event.FINDING or Event.FINDING in hook.on)
        ]
        if calls:  # before the memory is stored, so that an event might be sent twice but is never lost
            app.enqueue_many(calls)
        storage.put_record(*_RECORD, memory.write(), expected_version=turn)
        return events

    def _send(self, name: str, event: Mapping[str, JsonValue]) -> int:
        hook = self._hooks.get(name)
        if hook is None:
            raise DeliveryRefused(
                f"Webhook {name!r} is not defined on this server, which has {', '.join(sorted(self._hooks))}."
            )
        return deliver(hook.name, hook.url, hook.secret, event, hook.networks, chat_field=hook.chat_field)


def _by_name(hooks: Sequence[Webhook]) -> dict[str, Webhook]:
    if not isinstance(hooks, list | tuple) or not all(isinstance(each, Webhook) for each in hooks):
        raise ConfigurationError(
            "hooks must be a list of Webhook objects; pass Webhooks([Webhook(name, url, secret)])."
        )
    by_name = {hook.name: hook for hook in hooks}
    if not by_name or len(by_name) != len(hooks):
        names = [hook.name for hook in hooks]
        raise ConfigurationError(f"Webhooks must have different names, and at least one, got {names}.")
    return by_name


def _hook_of_environment(name: str) -> Webhook:
    prefix = f"FIRELOCK_WEBHOOK_{name.upper().replace('-', '_')}_"
    missing = [prefix + each for each in ("URL", "SECRET") if not os.environ.get(prefix + each)]
    if missing:
        raise ConfigurationError(
            f"{_ENVIRONMENT} contains {name!r}; set {' and '.join(missing)} for this webhook as well."
        )

    def listed(variable: str) -> list[str]:
        return [each.strip() for each in os.environ.get(prefix + variable, "").split(",") if each.strip()]

    return Webhook(
        name, os.environ[f"{prefix}URL"], os.environ[f"{prefix}SECRET"],
        on=listed("ON") or list(Event), networks=listed("NETWORKS"),
        chat_field=os.environ.get(f"{prefix}CHAT_FIELD") or None,
    )  # fmt: skip
