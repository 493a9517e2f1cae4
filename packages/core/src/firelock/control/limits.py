"""`fire.limits`: limit keys, the jobs that hold or await them, and the settings of limits.

The settings come from the code or from operators.
"""

from __future__ import annotations

import builtins
import heapq
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from itertools import islice
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import attrs

from firelock.control.audit import Audit
from firelock.control.catalogue import stored_timeout
from firelock.errors import ConfigurationError, JobNotFound, UnsupportedFeature
from firelock.jobs.job import as_datetime
from firelock.jobs.limit_line import KeyPlace, WaitingLine, read_line, read_places
from firelock.jobs.pagination import check_limit
from firelock.limits.limit import MAX_CONCURRENT, Limit, to_span
from firelock.limits.line import LINE_LENGTH
from firelock.limits.settings import LimitSettings, name_of, read_settings
from firelock.model.aio import twin
from firelock.model.clock import SECOND, from_micros, span_micros
from firelock.model.limit import KeyState
from firelock.model.text import shown
from firelock.storage import Feature
from firelock.storage.derived import every_record

if TYPE_CHECKING:
    from firelock.arguments.serializer import JsonValue
    from firelock.jobs.blocked_by import TimeoutOf
    from firelock.jobs.client import Client
    from firelock.options import TaskInfo

log = logging.getLogger(__name__)

_KIND = "limit"
_KEY_LIMIT, _NOTE_LIMIT = 200, 500
_HIGHEST_RATE = 1_000_000_000
_SETTINGS = ("concurrent", "rate", "per", "burst")
_PAGE, _ALL = 500, 10**12
_OTHERS_READ = 5  # maximum number of other keys that are read to find those that block the jobs of open keys
_PLACEHOLDER = re.compile(r"\{[^\W\d]\w*\}")


class LimitSource(StrEnum):
    """The origin of a limit's settings."""

    CODE = "code"
    OPERATOR = "operator"
    NONE = "none"  # the limit has no settings, so its jobs take turns


class LimitState(StrEnum):
    """Whether a key allows jobs to start and, if it does not, the reason."""

    PAUSED = "paused"  # the key is paused until an operator resumes it
    CLOSED = "closed"  # the concurrency or the rate of the key is 0
    BLOCKED = "blocked"  # the key is blocked until a time that `RateLimited` has set
    RATE = "rate"  # the rate of the key is used up
    FULL = "full"  # the maximum number of jobs holds the key
    HELD = "held"  # the key allows jobs, but another key that its waiting jobs need does not
    WAITING = "waiting"  # the key allows jobs, but they wait for a worker or for a key that was not read
    OPEN = "open"  # the key allows jobs, and no job waits


@attrs.frozen(kw_only=True)
class LimitName:
    """A limit name, or one key that has its own record, with its current settings."""

    name: str  # "tenant/openai" for the template "tenant:{tenant_id}/openai"
    template: str | None  # the template in the code; None if no server has stored it
    settings: LimitSettings  # settings with times in microseconds; the properties below have readable values
    code: LimitSettings | None  # the settings that the code last declared; None if it never declared any
    source: LimitSource
    set_by: str | None = None  # the operator who set the settings; None if they come from the code
    is_paused: bool
    note: str  # reason for the pause; empty if no reason was given
    paused_by: str | None
    paused_at: datetime | None

    @property
    def concurrent(self) -> int | None:
        """The number of jobs that may hold a key at the same time; None means unlimited."""
        return self.settings.concurrent

    @property
    def rate(self) -> int | None:
        """The cost that may start in each period `per`; None means unlimited."""
        return self.settings.rate

    @property
    def per(self) -> timedelta:
        """The period of the rate."""
        return timedelta(microseconds=self.settings.per)

    @property
    def burst(self) -> int | None:
        """The cost that may start immediately after a pause; None for one second of the rate."""
        return self.settings.burst

    @property
    def words(self) -> str:
        """The settings as a readable string: "4 at once, 90 per 60 s"."""
        return describe_settings(self.settings)

    @property
    def words_in_code(self) -> str | None:
        """The settings in the code as a readable string; None if the code never had any."""
        return None if self.code is None else describe_settings(self.code)


@attrs.frozen(kw_only=True)
class LimitView(LimitName):
    """The current state of a limit's key; a key without its own settings uses those of `name`."""

    key: str
    running: int  # number of jobs that hold the key
    holders: tuple[str, ...]  # ids of these jobs, at most 100
    waiting: int  # enqueued jobs with this key, at most 10,000
    opens_at: datetime | None  # when the rate allows another start, or when the block ends; None if open
    is_own: bool  # whether the settings belong to this key alone
    others: tuple[str, ...] = ()  # other keys of the jobs that wait for this key, at most 10
    held_by: tuple[str, ...] = ()  # keys in `others` that do not allow a job, if this key would

    @property
    def state(self) -> LimitState:
        """Whether the key allows jobs to start, or why not; never OPEN while jobs wait for it."""
        state = self.own_state
        if state is LimitState.OPEN and self.waiting:
            return LimitState.HELD if self.held_by else LimitState.WAITING
        return state

    @property
    def own_state(self) -> LimitState:
        """The state of the key itself, regardless of waiting jobs."""
        if self.is_paused:
            return LimitState.PAUSED
        if self.concurrent == 0 or self.rate == 0:
            return LimitState.CLOSED
        if self.opens_at is not None:
            return LimitState.BLOCKED if self.rate is None else LimitState.RATE
        return LimitState.FULL if self.is_full else LimitState.OPEN

    @property
    def is_name(self) -> bool:
        """Whether this is a limit name that only supplies settings for other keys, and not a job's key."""
        is_made = self.template is not None and self.template != self.name
        return self.key == self.name and is_made and not (self.running or self.waiting)

    @property
    def is_full(self) -> bool:
        """Whether as many jobs hold the key as it allows."""
        return self.concurrent is not None and self.running >= self.concurrent


@attrs.frozen
class DeclaredLimit:
    """The declaration of one limit name in the code."""

    name: str
    template: str
    settings: LimitSettings  # if no settings are declared, the keys take turns


def declared_limits(tasks: Iterable[TaskInfo]) -> dict[str, DeclaredLimit]:
    """Return the limits that all tasks declare, by name; a `Limit` has precedence over `Turns`."""
    declared: dict[str, DeclaredLimit] = {}
    for limit in (limit for info in tasks if not info.is_published for limit in info.limits):
        if isinstance(limit, Limit):
            declared[limit.name] = DeclaredLimit(limit.name, limit.key, limit.settings)
        else:
            declared.setdefault(limit.name, DeclaredLimit(limit.name, limit.key, LimitSettings()))
    return declared


class Limits:
    """The limits of an app: `fire.limits`.

    Its methods show keys, set and reset their settings, pause and resume them, and spend units of a rate.
    Changes act immediately and do not join the caller's transaction.
    """

    def __init__(self, client: Client, declared: Callable[[], Mapping[str, DeclaredLimit]]) -> None:
        self._client = client
        self._declared = declared
        self._audit = Audit(client)

    # ---- limits in the code ------------------------------------------------------------------------------

    def sync(self) -> list[str]:
        """Store the settings from the code, and return the names that were written.

        A server calls this method when it starts. Settings that an operator has set stay until the settings
        in the code change; a pause stays even then. If an operator set the settings before the code declared
        the name, the first declaration does not replace them.
        """
        written = [one.name for one in self._declared().values() if self._write_code(one)]
        if written:
            log.info("Stored the settings of limits from the code: %s.", ", ".join(written))
        return written

    async_ = twin(sync)

    def _write_code(self, declared: DeclaredLimit) -> bool:
        if Feature.LIMITS not in self._client.storage.features:
            return False  # the storage cannot store jobs with limits
        code = {"template": declared.template, **_settings_json(declared.settings)}

        def change(stored: _Stored) -> _Stored:
            if stored.code == code or (not stored.value and not declared.settings.has_any):
                return stored
            if stored.code is None and stored.settings.has_any:
                return stored.with_(code=code)  # the operator's settings are older than the declaration
            return stored.with_(**_settings_json(declared.settings), code=code, by=LimitSource.CODE)

        return self._change(declared.name, change)

    # ---- queries -----------------------------------------------------------------------------------------

    def names(self) -> list[LimitName]:
        """Return every name with stored settings or a pause, including names that have no keys yet."""
        return [_name(key, record, [record]) for key, record in sorted(self._records().items())]

    anames = twin(names)

    def list(self, prefix: str = "", after: str = "", limit: int = 100) -> list[LimitView]:
        """Return a page of keys that start with `prefix` and are greater than `after`, in order.

        The result includes keys that jobs hold or wait for, keys whose rate is in use, and keys with their
        own settings or pause. Names, such as `tenant` for the keys `tenant:7`, are returned by `names`.

        Raises:
            ConfigurationError: If `limit` is not from 1 to 500.
            UnsupportedFeature: If the storage has no limits.
        """
        check_limit(limit, "keys")
        storage, records = self._client.storage, self._records()
        states = storage.find_keys(prefix, after=after, limit=limit)
        alone = (
            _idle(key)
            for key in sorted(records)
            if key.startswith(prefix) and key > after and records[key].is_key
        )
        views = {
            state.key: state
            # an active key has precedence
            for state in heapq.merge(alone, states, key=lambda state: state.key)
        }
        now = self._client.clock.now()
        return self._with_holders([_view(views[key], records, now) for key in sorted(views)[:limit]], records)

    alist = twin(list)  # noqa: A003 - the method above

    def get(self, key: str) -> LimitView:
        """Return the current state of a key; for a key that no job has used, return its settings.

        Raises:
            ConfigurationError: If the string cannot be a key.
            UnsupportedFeature: If the storage has no limits.
        """
        found = self._client.storage.find_keys(_check_key(key), limit=1)
        state = found[0] if found and found[0].key == key else _idle(key)
        records = {one: self._stored(one) for one in (key, name_of(key))}
        view = _view(state, records, self._client.clock.now())
        if view.state is LimitState.WAITING:
            names = {one for other in view.others[:_OTHERS_READ] for one in (other, name_of(other))}
            records |= {one: self._stored(one) for one in names - records.keys()}
        return self._with_holders([view], records)[0]

    aget = twin(get)

    def _with_holders(
        self, views: Sequence[LimitView], records: Mapping[str, _Stored]
    ) -> builtins.list[LimitView]:
        """Return the views; for each open key with waiting jobs, add the keys that block these jobs.

        At most five keys that are not among the views are read.
        """
        now = self._client.clock.now()
        known = {view.key: view for view in views}
        missing = (
            other
            for view in views
            if view.state is LimitState.WAITING
            for other in view.others
            if other not in known
        )
        for key in islice(dict.fromkeys(missing), _OTHERS_READ):
            found = self._client.storage.find_keys(key, limit=1)
            state = found[0] if found and found[0].key == key else _idle(key)
            known[key] = _view(state, records, now)
        closed = {key for key, view in known.items() if view.own_state is not LimitState.OPEN}
        return [
            attrs.evolve(view, held_by=tuple(key for key in view.others if key in closed))
            if view.state is LimitState.WAITING
            else view
            for view in views
        ]

    def line(self, key: str, after: int = 0, limit: int = 50) -> WaitingLine:
        """Return a page of the jobs that wait for a key, in the order of their turns.

        For each job, the page contains the keys that block it and an estimate of its start. The estimate is
        computed from the rates, the number of jobs before the job, and the mean run time of the last hour. If
        no such run has ended, the page instead contains the time at which the job starts if all jobs before
        it run until their timeouts. Only the first 10,000 waiting jobs are included.

        Args:
            key: for example "tenant:7".
            after: the number of jobs to skip: `after` of the previous page.
            limit: the size of the page, from 1 to 500.

        Raises:
            ConfigurationError: If the string cannot be a key, or `after` or `limit` is out of bounds.
            UnsupportedFeature: If the storage has no limits.
        """
        check_limit(limit, "jobs")
        if isinstance(after, bool) or not isinstance(after, int) or not 0 <= after <= LINE_LENGTH:
            raise ConfigurationError(
                f"after must be an integer from 0 to {LINE_LENGTH:,}, got {shown(after)}."
            )
        now = self._client.clock.now()
        return read_line(
            self._client.storage,
            self._known_key(key),
            now,
            after=after,
            limit=limit,
            timeout=self._timeouts(),
        )

    aline = twin(line)

    def places(self, job_id: str) -> builtins.list[KeyPlace]:
        """Return the position of an enqueued job for each of its keys; an empty list for other jobs.

        Raises:
            JobNotFound: If no such job is stored.
        """
        (record,) = self._client.storage.get([job_id])
        if record is None:
            raise JobNotFound(f"Job {shown(job_id)} was not found: the id is wrong, or the job was pruned.")
        return read_places(self._client.storage, record, self._client.clock.now(), self._timeouts())

    aplaces = twin(places)

    def _timeouts(self) -> TimeoutOf:
        """Return a function that returns the timeout of a job; it reads each task once."""
        storage, registry = self._client.storage, self._client.registry

        @cache
        def of_task(name: str) -> float | None:
            task = registry.get(name)
            is_here = task is not None and not task.is_remote
            return task.timeout_seconds if task is not None and is_here else stored_timeout(storage, name)

        return lambda job: of_task(job.task) if job.timeout_seconds is None else job.timeout_seconds

    def _records(self) -> dict[str, _Stored]:
        records = every_record(self._client.storage, _KIND)
        return {record.key: _Stored.read(record.key, record.value) for record in records}

    def _stored(self, key: str) -> _Stored:
        record = self._client.storage.get_record(_KIND, key)
        return _Stored.read(key, record.value if record else "{}")

    # ---- changes -----------------------------------------------------------------------------------------

    def set(
        self,
        name_or_key: str,
        *,
        concurrent: int | EllipsisType | None = ...,
        rate: int | EllipsisType | None = ...,
        per: timedelta | float | EllipsisType = ...,
        burst: int | EllipsisType | None = ...,
        by: str = "operator",
        origin: str = "code",
    ) -> LimitView:
        """Change settings of a limit on every server; omitted settings stay unchanged.

        The settings of a name apply to all its keys; a key's own settings have precedence over those of its
        name. The settings apply until `reset`, or until the settings in the code change. Running jobs are not
        stopped.

        Args:
            name_or_key: for example "tenant", or "tenant:7" for one key.
            concurrent: how many jobs may run at the same time, from 0 to 1,000; None removes the setting.
            rate: the cost that may start per period; None removes the setting.
            per: the period of the rate, as a timedelta or in seconds.
            burst: the cost that may start immediately after a pause; None for one second of the rate.
            by: the operator's name, for the audit.
            origin: where the change was made, for the audit.

        Raises:
            ConfigurationError: If a setting is out of bounds, or `per` or `burst` is given without a rate.
            UnsupportedFeature: If the storage has no limits.
        """
        given = {"concurrent": concurrent, "rate": rate, "per": per, "burst": burst}
        changes = {name: value for name, value in given.items() if value is not ...}
        if not changes:
            raise ConfigurationError(
                f"No settings are given for limit {shown(name_or_key)}; pass concurrent=, or rate= and per=."
            )
        key = self._known_key(name_or_key)
        name = self._stored(name_of(key))
        detail: dict[str, JsonValue] = {}

        def change(stored: _Stored) -> _Stored:
            base = stored if stored.settings.has_any or stored.code is not None else name
            previous = _settings_arguments(base.settings)
            if rate is None:  # the period and the burst are removed along with the rate
                previous |= {"per": None, "burst": None}
            settings = checked_settings(key, {**previous, **changes})
            if not settings.has_any and key != name_of(key):
                raise ConfigurationError(
                    f"Key {key!r} without settings of its own uses those of {name_of(key)!r}. Use reset to "
                    "remove them, or set a very high number."
                )
            detail.update(
                _settings_json(settings),
                before=describe_settings(base.settings),
                after=describe_settings(settings),
            )
            return stored.with_(**_settings_json(settings), by=LimitSource.OPERATOR, set_by=by)

        self._change(key, change)
        self._record("limit.set", key, by, origin, detail)
        return self.get(key)

    aset = twin(set)  # noqa: A003 - the method above

    def reset(self, name_or_key: str, *, by: str = "operator", origin: str = "code") -> LimitView:
        """Restore the settings that the code last declared; if it never declared any, remove the settings.

        Raises:
            ConfigurationError: If the string cannot be a key.
            UnsupportedFeature: If the storage has no limits.
        """
        key = self._known_key(name_or_key)
        detail: dict[str, JsonValue] = {}

        def change(stored: _Stored) -> _Stored:
            settings = LimitSettings() if stored.code is None else _settings_in(stored.code)
            detail.update(before=describe_settings(stored.settings), after=describe_settings(settings))
            return stored.with_(**_settings_json(settings), by=LimitSource.CODE)

        if self._change(key, change):
            self._record("limit.reset", key, by, origin, detail)
        return self.get(key)

    areset = twin(reset)

    def pause(
        self, name_or_key: str, note: str = "", *, by: str = "operator", origin: str = "code"
    ) -> LimitView:
        """Stop starting jobs that use the key, or any key of the name; running jobs continue.

        Args:
            name_or_key: as in `set`.
            note: the reason, which is shown to users; at most 500 characters.
            by: the operator's name, which is shown to users and stored in the audit.
            origin: where the change was made, for the audit.

        Raises:
            ConfigurationError: If the string cannot be a key, or the note is not a string of this length.
            UnsupportedFeature: If the storage has no limits.
        """
        if not isinstance(note, str) or len(note) > _NOTE_LIMIT:
            raise ConfigurationError(
                f"note must be a string of at most {_NOTE_LIMIT} characters, got {shown(note)}."
            )
        key, at = self._known_key(name_or_key), self._client.clock.now()
        self._change(key, lambda stored: stored.with_(paused=True, note=note, paused_by=by, paused_at=at))
        self._record("limit.pause", key, by, origin, {"note": note} if note else None)
        return self.get(key)

    apause = twin(pause)

    def resume(self, name_or_key: str, *, by: str = "operator", origin: str = "code") -> LimitView:
        """Start jobs that use the key again, unless its name is paused.

        Raises:
            ConfigurationError: If the string cannot be a key.
            UnsupportedFeature: If the storage has no limits.
        """
        key = self._known_key(name_or_key)
        if self._change(
            key, lambda stored: stored.with_(paused=False, note="", paused_by=None, paused_at=None)
        ):
            self._record("limit.resume", key, by, origin)
        return self.get(key)

    aresume = twin(resume)

    def spend(self, key: str, cost: int) -> float:
        """Use this many units of the key's rate, and return the seconds until the key allows another start.

        Use this method for a cost that becomes known only while a job runs, such as the tokens of a response.
        A negative cost gives units back, for example if an estimate was too high. A key without a rate is not
        changed.

        Raises:
            ConfigurationError: If the string cannot be a key, or the cost is not an integer.
            UnsupportedFeature: If the storage has no limits.
        """
        if isinstance(cost, bool) or not isinstance(cost, int) or abs(cost) > _HIGHEST_RATE:
            raise ConfigurationError(
                f"cost must be an integer of at most {_HIGHEST_RATE:,}, or negative to give units back, got "
                f"{shown(cost)}."
            )
        opens_at = self._client.storage.spend(_check_key(key), cost=cost)
        return max(0, opens_at - self._client.clock.now()) / SECOND

    aspend = twin(spend)

    # ---- records -----------------------------------------------------------------------------------------

    def _known_key(self, name_or_key: str) -> str:
        storage = self._client.storage
        if Feature.LIMITS not in storage.features:
            raise UnsupportedFeature(
                f"Storage {storage.url} does not support limits, needed for {shown(name_or_key)}; use "
                "another storage."
            )
        return _check_key(name_or_key)

    def _change(self, key: str, change: Callable[[_Stored], _Stored]) -> bool:
        """Apply the change to the key's record, and return whether the record is different.

        A record without content is deleted.
        """
        storage = self._client.storage
        while True:
            record = storage.get_record(_KIND, key)
            stored = _Stored.read(key, record.value if record else "{}")
            changed = change(stored)
            if changed == stored or (record is None and changed.is_empty):
                return False
            version = record.version if record else 0
            if changed.is_empty:
                is_changed = storage.delete_record(_KIND, key, expected_version=version)
            else:
                written = changed.written()
                is_changed = storage.put_record(_KIND, key, written, expected_version=version) is not None
            if is_changed:
                if attrs.evolve(changed.settings, is_paused=stored.is_paused) != stored.settings:
                    self._give_back(key)
                return True

    def _give_back(self, key: str) -> None:
        """Reset the used part of the previous rate for the key, or for each key of the name.

        Afterwards, the previous rate no longer blocks any key.
        """
        storage, after = self._client.storage, ""
        begin = key.partition("/")[0]
        while page := storage.find_keys(begin, after=after, limit=_PAGE):
            for state in page:
                if state.next_arrival_at and key in (state.key, name_of(state.key)):
                    storage.spend(state.key, cost=-_ALL)
            after = page[-1].key

    def _record(
        self, action: str, key: str, by: str, origin: str, detail: Mapping[str, JsonValue] | None = None
    ) -> None:
        self._audit.record(action, key, by=by, origin=origin, detail=detail)


@attrs.frozen
class _Stored:
    """The record of a name or a key; its value is empty if there is no record."""

    key: str
    value: Mapping[str, Any]

    @classmethod
    def read(cls, key: str, text: str) -> _Stored:
        return cls(key, json.loads(text))

    def with_(self, **changes: object) -> _Stored:
        return _Stored(self.key, {**self.value, **changes})

    def written(self) -> str:
        return json.dumps(self.value, ensure_ascii=False)

    @property
    def settings(self) -> LimitSettings:
        return read_settings(self.written())

    @property
    def code(self) -> Mapping[str, Any] | None:
        return self.value.get("code")

    @property
    def is_paused(self) -> bool:
        return bool(self.value.get("paused"))

    @property
    def is_empty(self) -> bool:
        return self.code is None and not self.is_paused and not self.settings.has_any

    @property
    def is_key(self) -> bool:
        """Whether the record belongs to a single key, not to a name that many keys share."""
        template = (self.code or {}).get("template")
        return self.key != name_of(self.key) if template is None else template == self.key


def _idle(key: str) -> KeyState:
    return KeyState(key=key, holders=(), running=0, waiting=0, next_arrival_at=0)


def _view(state: KeyState, records: Mapping[str, _Stored], now: int) -> LimitView:
    nothing = _Stored(state.key, {})
    own, name = records.get(state.key, nothing), records.get(name_of(state.key), nothing)
    chosen = own if own.settings.has_any else name
    known = _name(name_of(state.key), chosen, [own, name])
    opens_at = math.ceil(known.settings.opens_at(state.next_arrival_at))
    return LimitView(
        **attrs.asdict(known, recurse=False), key=state.key, running=state.running, holders=state.holders,
        waiting=state.waiting, others=state.others, is_own=own.settings.has_any,
        opens_at=from_micros(opens_at) if opens_at > now else None,
    )  # fmt: skip


def _name(name: str, chosen: _Stored, records: Sequence[_Stored]) -> LimitName:
    """Return the values of the chosen record; the name is paused if any of the records is paused."""
    paused = next((stored.value for stored in records if stored.is_paused), None)
    settings = chosen.settings
    code = next((found for stored in (chosen, *records) if (found := stored.code) is not None), None)
    template = next(
        (found["template"] for stored in records if (found := stored.code) and "template" in found), None
    )
    source = LimitSource(chosen.value.get("by", "operator")) if settings.has_any else LimitSource.NONE
    return LimitName(
        name=name, template=template, settings=settings,
        code=None if code is None else _settings_in(code), source=source,
        set_by=chosen.value.get("set_by") if source is LimitSource.OPERATOR else None,
        is_paused=paused is not None,
        note=(paused or {}).get("note") or "", paused_by=(paused or {}).get("paused_by"),
        paused_at=as_datetime((paused or {}).get("paused_at")),
    )  # fmt: skip


# ---- settings --------------------------------------------------------------------------------------------


def describe_settings(settings: LimitSettings) -> str:
    """Return a limit's settings as a readable string: "4 at once, 90 per 60 s"; "turns" if it has none."""
    words: list[str] = []
    if settings.concurrent is not None:
        words.append(f"{settings.concurrent:,} at once")
    if settings.rate is not None:
        words.append(f"{settings.rate:,} per {settings.per / SECOND:,g} s")
        if settings.burst is not None:
            words.append(f"{settings.burst:,} in a burst")
    return ", ".join(words) or "turns"


def checked_settings(key: str, given: Mapping[str, Any]) -> LimitSettings:
    """Return the settings of a limit; `per` can be a timedelta or seconds.

    Raises:
        ConfigurationError: If a setting is out of bounds, or `per` or `burst` is given without a rate.
    """
    rate, per, burst = given["rate"], given["per"], given["burst"]
    micros = SECOND if per is None else span_micros(to_span(f"Limit {key!r}: per", per))
    for name, value, least, most in (
        ("concurrent", given["concurrent"], 0, MAX_CONCURRENT),
        ("rate", rate, 0, _HIGHEST_RATE),
        ("burst", burst, 1, _HIGHEST_RATE),
    ):
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (is_number and least <= value <= most):
            raise ConfigurationError(
                f"Limit {key!r}: {name} must be an integer from {least} to {most:,}, got {shown(value)}."
            )
    if rate is None and (burst is not None or per is not None):
        which = "per" if burst is None else "burst"
        raise ConfigurationError(f"Limit {key!r} has {which}= but no rate; pass rate= as well.")
    return LimitSettings(concurrent=given["concurrent"], rate=rate, per=micros, burst=burst)


def _settings_arguments(settings: LimitSettings) -> dict[str, Any]:
    """Return the settings as `set` accepts them; without a rate, the period is None."""
    per = None if settings.rate is None else timedelta(microseconds=settings.per)
    return {"concurrent": settings.concurrent, "rate": settings.rate, "per": per, "burst": settings.burst}


def _settings_json(settings: LimitSettings) -> dict[str, JsonValue]:
    return {name: getattr(settings, name) for name in _SETTINGS}


def _settings_in(stored: Mapping[str, Any]) -> LimitSettings:
    return LimitSettings(
        concurrent=stored.get("concurrent"),
        rate=stored.get("rate"),
        per=stored.get("per") or SECOND,
        burst=stored.get("burst"),
    )


def _check_key(key: object) -> str:
    if not isinstance(key, str) or not 0 < len(key) <= _KEY_LIMIT or not key.isprintable():
        raise ConfigurationError(
            f"A limit key must have 1 to {_KEY_LIMIT} printable characters, for example 'tenant:7', got "
            f"{shown(key)}."
        )
    if _PLACEHOLDER.search(key):
        raise ConfigurationError(
            f"Limit key {key!r} is a template for many keys; pass {name_of(key)!r} for all of them, or one "
            f"key such as {_PLACEHOLDER.sub('7', key)!r}."
        )
    return key
