"""The Limits page, which shows limit keys with their jobs, settings and pauses, and unique keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs

from firelock import ConfigurationError, UnsupportedFeature, WaitingJob, WaitingLine
from firelock.control.limits import LimitName, LimitView
from firelock.limits import LINE_LENGTH, name_of
from firelock.storage import Feature, JobRecord
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.actions import NOTE, refusing
from firelock_dashboard.web.fields import Integer, Number, Text
from firelock_dashboard.web.formatting import instant
from firelock_dashboard.web.payloads import IN_LISTS, summary
from firelock_dashboard.web.request import Undo
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import KeyWait
    from firelock_dashboard.web.request import Visit

_SHOWN = 50  # the maximum number of keys on a page
_WAITING = 25  # the maximum number of waiting jobs on the page of a key
_CALL = 200  # the maximum number of characters of a call
_AFTER, _PREFIX = Text("after", limit=400, default=""), Text("prefix", default="")
_KEY = Text("key", is_required=True)
_LEFT_OUT = Integer("after", least=0, most=LINE_LENGTH, default=0)  # number of jobs ahead of the shown jobs
_HELD = Integer("held", least=0, most=LINE_LENGTH, default=0)  # number of jobs ahead that other limits delay
_CONCURRENT, _RATE, _BURST = (Integer(name, least=0, most=10**12) for name in ("concurrent", "rate", "burst"))
_PER = Number("per", most=10**9, default=1.0)  # seconds


@attrs.frozen
class _KeysPage:
    keys: Sequence[LimitView]
    names: Sequence[LimitName]  # the names with settings or a pause
    is_offered: bool
    after: str | None  # the key after which the next page begins


@attrs.frozen
class _UniqueKey:
    key: str
    task: str
    job: JobRecord | None  # None if the job is no longer stored
    job_id: str
    free_at: datetime | None  # the key cannot be used again before this time; None if not set


@attrs.frozen
class _UniquePage:
    keys: Sequence[_UniqueKey]
    is_offered: bool
    after: str | None


# ---- keys ------------------------------------------------------------------------------------------------


def show_limits(visit: Visit) -> Response:
    """Show every key that a job holds or waits for, and the names with settings."""
    after, prefix = visit.query.value(_AFTER), visit.query.value(_PREFIX)
    return visit.page(
        "limits.html", section="limits", after=after, prefix=prefix,
        page=lambda: _keys(visit, prefix, after),
    )  # fmt: skip


def _keys(visit: Visit, prefix: str, after: str) -> _KeysPage:
    if Feature.LIMITS not in visit.fire.storage.features:
        return _KeysPage((), (), is_offered=False, after=None)
    keys = visit.fire.limits.list(prefix, after, _SHOWN + 1)
    listed = {view.key for view in keys}
    names = [] if prefix or after else [one for one in visit.fire.limits.names() if not _is_key(one)]
    names = [one for one in names if one.name not in listed]
    following = keys[_SHOWN - 1].key if len(keys) > _SHOWN else None
    shown = sorted(keys[:_SHOWN], key=lambda view: -view.waiting)  # keys with equal numbers keep their order
    return _KeysPage(shown, names, is_offered=True, after=following)


def _is_key(one: LimitName) -> bool:
    """Return whether the settings belong to a single key, which the list of keys shows, not to a name."""
    return name_of(one.name) != one.name


def show_limit(visit: Visit) -> Response:
    """Show one key or name: its settings, its holders, and the possible actions."""
    key = visit.query.value(_KEY)
    page = _KeyPage(visit, key, visit.query.value(_LEFT_OUT), visit.query.value(_HELD))
    with refusing(ConfigurationError, UnsupportedFeature, field="key"):
        _ = page.limit
    title = visit.text("limits.title", name=key)
    return visit.page("limit.html", title=title, section="limits", key=key, page=page)


class _KeyPage:
    """The data of a key's page; each part is read once."""

    def __init__(self, visit: Visit, key: str, after: int, held_before: int) -> None:
        self.visit, self.key, self.after = visit, key, after
        self._held_before = min(held_before, after)

    @cached_property
    def limit(self) -> LimitView:
        """The key's current state."""
        return self.visit.fire.limits.get(self.key)

    @cached_property
    def holders(self) -> list[JobRecord]:
        """The shown jobs that hold the key."""
        found = self.visit.fire.storage.get(list(self.limit.holders))
        return [job for job in found if job is not None]

    @cached_property
    def line(self) -> WaitingLine:
        """The jobs of this page that wait for the key."""
        return self.visit.fire.limits.line(self.key, self.after, _WAITING)

    @property
    def coming(self) -> list[tuple[int, WaitingJob]]:
        """The waiting jobs that no other job overtakes, each with its position."""
        return [(one.turn - self._held_before + 1, one) for one in self.line.jobs if one.turn is not None]

    @property
    def passed(self) -> list[tuple[int | None, WaitingJob]]:
        """The jobs that this limit would allow but another limit delays, each with its position.

        The position is None if other jobs overtake the job.
        """
        found = [one for one in self.line.jobs if one.turn is None]
        is_all = len(found) == len(self.line.jobs) and self._held_before == self.after
        return [(one.place + 1 if is_all else None, one) for one in found]

    @property
    def others_of_first(self) -> list[str]:
        """The other limits that also delay the first job in line."""
        waits = self.line.jobs[0].waits if self.line.jobs and not self.after else ()
        return [wait.key for wait in waits if wait.key != self.key]

    @property
    def has_bound(self) -> bool:
        """Whether the latest start of a job can be computed from timeouts."""
        return any(one.starts_by is not None for one in self.line.jobs)

    @property
    def held(self) -> int:
        """The number of jobs up to the end of this page that another limit delays, used by the next page."""
        return self._held_before + len(self.passed)

    @property
    def has_unknown_start(self) -> bool:
        """Whether the start of a job cannot be computed from run times or timeouts."""
        return any(
            one.starts_at is None
            and one.starts_by is None
            and one.waits
            and not any(is_blocked(wait) for wait in one.waits)
            for one in self.line.jobs
        )

    def call(self, job: JobRecord) -> str:
        """Return the arguments of a job on one line."""
        given = self.visit.arguments(job, limit=IN_LISTS)
        text = (
            summary(given.value) if isinstance(given.value, dict) else "" if given.is_hidden else given.line
        )
        return text[:_CALL]


def is_blocked(wait: KeyWait) -> bool:
    """Return whether only a person can make the key available again."""
    return wait.is_paused or wait.concurrent == 0


# ---- unique keys -------------------------------------------------------------------------------------------


def show_unique(visit: Visit) -> Response:
    """Show every unique key with its job."""
    after, prefix = visit.query.value(_AFTER), visit.query.value(_PREFIX)
    return visit.page(
        "unique.html", title=visit.text("limits.unique_title"), section="limits", after=after, prefix=prefix,
        page=lambda: _unique(visit, prefix, after),
    )  # fmt: skip


def _unique(visit: Visit, prefix: str, after: str) -> _UniquePage:
    storage = visit.fire.storage
    if Feature.UNIQUE not in storage.features:
        return _UniquePage((), is_offered=False, after=None)
    found = storage.find_unique(prefix, after=after, limit=_SHOWN + 1)
    shown = found[:_SHOWN]
    jobs = storage.get([one.job_id for one in shown])
    keys = [
        _UniqueKey(
            state.key.partition(" ")[2], state.key.partition(" ")[0], job, state.job_id,
            instant(state.free_at) if state.free_at > visit.now_micros else None,
        )
        for state, job in zip(shown, jobs, strict=True)
    ]  # fmt: skip
    return _UniquePage(keys, is_offered=True, after=shown[-1].key if len(found) > _SHOWN else None)


# ---- actions on limits -----------------------------------------------------------------------------------


def pause_limit(visit: Visit) -> Response:
    """Pause the key, so that no more jobs with this key start."""
    key, note = visit.form.value(_KEY), visit.form.maybe(NOTE) or ""
    with refusing(ConfigurationError, UnsupportedFeature, field="key"):
        visit.fire.limits.pause(key, note, by=visit.who, origin="dashboard")
    undo = Undo("/limits/resume", {"key": [key]})
    return visit.done(visit.text("limits.paused", name=key), to="/limits", undo=undo)


def resume_limit(visit: Visit) -> Response:
    """Resume the key, so that jobs with this key start again."""
    key = visit.form.value(_KEY)
    with refusing(ConfigurationError, UnsupportedFeature, field="key"):
        before = visit.fire.limits.get(key)
        visit.fire.limits.resume(key, by=visit.who, origin="dashboard")
    undo = Undo("/limits/pause", {"key": [key], "note": [before.note]}) if before.is_paused else None
    return visit.done(visit.text("limits.resumed", name=key), to="/limits", undo=undo)


def set_limit(visit: Visit) -> Response:
    """Change the settings of the key or name."""
    key = visit.form.value(_KEY)
    rate = visit.form.maybe(_RATE)
    given: dict[str, Any] = {"concurrent": visit.form.maybe(_CONCURRENT), "rate": rate}
    if rate is not None:
        given |= {"per": visit.form.value(_PER), "burst": visit.form.maybe(_BURST)}
    with refusing(ConfigurationError, UnsupportedFeature):
        view = visit.fire.limits.set(key, **given, by=visit.who, origin="dashboard")
    return visit.done(visit.text("limits.set", name=key, settings=view.words), to="/limits")


def reset_limit(visit: Visit) -> Response:
    """Restore the settings of the key or name from the code."""
    key = visit.form.value(_KEY)
    with refusing(ConfigurationError, UnsupportedFeature, field="key"):
        view = visit.fire.limits.reset(key, by=visit.who, origin="dashboard")
    return visit.done(visit.text("limits.was_reset", name=key, settings=view.words), to="/limits")


ROUTES = (
    Route("GET", "/limits", Permission.READ, show_limits, (_AFTER, _PREFIX)),
    Route("GET", "/limits/key", Permission.READ, show_limit, (_KEY, _LEFT_OUT, _HELD)),
    Route("GET", "/limits/unique", Permission.READ, show_unique, (_AFTER, _PREFIX)),
    Route("POST", "/limits/pause", Permission.CHANGE_LIMIT, pause_limit, form=(_KEY, NOTE)),
    Route("POST", "/limits/resume", Permission.CHANGE_LIMIT, resume_limit, form=(_KEY,)),
    Route(
        "POST", "/limits/set", Permission.CHANGE_LIMIT, set_limit,
        form=(_KEY, _CONCURRENT, _RATE, _PER, _BURST),
    ),
    Route("POST", "/limits/reset", Permission.CHANGE_LIMIT, reset_limit, form=(_KEY,)),
)  # fmt: skip
