"""The objects that all pages of a dashboard share: texts, templates, statistics and background work."""

from __future__ import annotations

import time
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from firelock import State
from firelock.server.embedded import locate_app
from firelock_dashboard.security.links import Links
from firelock_dashboard.security.permissions import LEVELS, Access, Permission
from firelock_dashboard.security.redaction import Redactions, Redactor
from firelock_dashboard.stats.gauges import Gauges
from firelock_dashboard.stats.history import History
from firelock_dashboard.stats.live import Live
from firelock_dashboard.stats.operations import OperationRunner
from firelock_dashboard.stats.retries import RetryCount, Retrying
from firelock_dashboard.stats.scale import Scale
from firelock_dashboard.stats.watch import Watch
from firelock_dashboard.web.assets import Assets
from firelock_dashboard.web.payloads import PayloadReader
from firelock_dashboard.web.rendering import Templates
from firelock_dashboard.web.texts import Texts

if TYPE_CHECKING:
    from collections.abc import Collection

    from firelock import Firelock
    from firelock.storage import Counts
    from firelock_dashboard.security.csrf import Gate

_COUNTS_AGE = 1.0  # seconds


class Site:
    """The part of a dashboard that its pages use; the subclass `Dashboard` also serves requests."""

    def __init__(
        self,
        fire: Firelock,
        gate: Gate,
        *,
        is_read_only: bool,
        title: str,
        back_url: str | None,
        environment: str | None,
        redact: Redactions,
        has_sessions: bool,
    ) -> None:
        self.fire = fire
        self.gate = gate
        self.has_sessions = has_sessions  # whether visitors use links and can end their sessions
        self.links = Links(fire)
        self.is_read_only = is_read_only
        self.title = title
        self.back_url = back_url
        self.environment = environment
        self.version = _installed_version()
        self.texts = Texts()
        self.templates = Templates(self.texts)
        self.assets = Assets()
        self.redactor = Redactor(redact)
        self.payloads = PayloadReader(fire.client.serializers, self.redactor)
        self.history = History(fire)
        self.watch = Watch(fire, self.history, is_read_only=is_read_only)
        self.gauges = Gauges(fire, self.watch, self.counts)
        self.scale = Scale(fire, self.watch)
        # An operation can change all failed jobs with the same cause, so cached hourly counts are read again.
        on_ended = partial(self.invalidate, keeps_days=False)
        self.runner = OperationRunner(fire, self.payloads, is_allowed=not is_read_only, on_ended=on_ended)
        self.live = Live(
            fire, self._count, masked=self.redactor.text, on_changed=self.watch.invalidate,
            on_moved=self._expire,
        )  # fmt: skip
        self._counted: tuple[float, Counts] | None = None
        self._retries = RetryCount(fire)

    @cached_property
    def server_command(self) -> str:
        """The command that starts a server for the app, with a placeholder if no module contains the app."""
        return f"firelock server {locate_app(self.fire) or 'app:fire'}"

    def may(self, access: Access, permission: Permission) -> bool:
        """Return whether the access includes this permission on this dashboard."""
        if self.is_read_only and permission not in LEVELS["read"]:
            return False
        return access.may(permission)

    def counts(self) -> Counts:
        """Return the number of jobs by state and queue, at most a second old; every page shows it."""
        counted, now = self._counted, time.monotonic()
        if counted is None or now - counted[0] > _COUNTS_AGE:
            return self._count()
        return counted[1]

    def _count(self) -> Counts:
        counts = self.fire.jobs.counts()
        self._counted = (time.monotonic(), counts)
        self.history.note_depths(counts)
        return counts

    def _expire(self, moved: Collection[str]) -> None:
        """Discard cached readings before open pages request the topics that changed."""
        self.watch.expire()
        self._retries.invalidate()
        if "ended" in moved:
            self.history.expire()

    def retrying(self) -> Retrying:
        """Return the number of jobs that wait for a retry, counted up to 100 and at most five seconds old."""
        return self._retries.get(self.counts().by_state.get(State.SCHEDULED, 0))

    def invalidate(self, *, keeps_days: bool = True) -> None:
        """Discard all cached readings, so that a visitor sees a change immediately.

        `Watch.invalidate` describes `keeps_days`.
        """
        self._counted = None
        self._retries.invalidate()
        self.watch.invalidate(keeps_days=keeps_days)

    def close(self) -> None:
        """Stop the streams and threads, but not the app, which must be closed by the code that created it."""
        self.live.close()
        self.runner.close()
        self.history.close()


def _installed_version() -> str:
    """Return the installed version, or "" if there is none, as in an archive or a frozen program."""
    try:
        return version("firelock-dashboard")
    except PackageNotFoundError:
        return ""
