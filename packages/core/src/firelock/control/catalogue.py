"""`fire.catalogue`: the tasks that servers have stored, for programs without the code of these tasks."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import attrs

from firelock.arguments.outline import ParameterOutline, outline_of
from firelock.errors import UnknownTask
from firelock.limits.keys import declared_of, facts_of
from firelock.limits.limit import Limit, Turns
from firelock.limits.unique import Debounce, Unique
from firelock.model.aio import twin
from firelock.model.clock import SECOND, from_micros, micros
from firelock.model.text import number_of, shown, span
from firelock.plugins.loader import installed_version
from firelock.retry import OnExceeded, Retry, RetryPolicy
from firelock.storage import Record
from firelock.storage.derived import every_record
from firelock.task import main_module_name

if TYPE_CHECKING:
    from firelock.arguments.serializer import JsonValue
    from firelock.arguments.signature import Binder
    from firelock.jobs.client import Client
    from firelock.options import TaskInfo
    from firelock.storage import Storage

_KIND = "task"
_REFRESH_AFTER = 12 * 3_600 * SECOND  # age at which an entry is written again, even if it has not changed
_EXPIRES_AFTER = 30 * 86_400 * SECOND  # time after which an entry is deleted if no server has stored it again
_SUMMARY = 500
_WAITS_SHOWN = 4
_MICRO = timedelta(microseconds=1)


@attrs.frozen
class TaskEntry:
    """A task, as stored by the last server that started with it, or as registered in this app."""

    name: str
    queue: str
    priority: int
    retry: str  # a readable description of the retry policy
    timeout_seconds: float | None
    executor: str  # "auto" or "process"
    is_async: bool
    aliases: tuple[str, ...]
    tags: tuple[str, ...]  # templates of tags, which can contain {parameter}
    signature: str  # "create_report(day: str)"; long defaults are shortened
    summary: str  # the first paragraph of the docstring, shortened
    place: str  # the place of the function, as module:line
    version: str  # version of Firelock on that server
    seen_at: datetime | None  # when a server last stored the task; None if no server has done so
    is_registered_here: bool  # whether this app can enqueue the task
    # None if the server did not store the parameters
    parameters: tuple[ParameterOutline, ...] | None = None
    keep_seconds: float | None = None  # retention of succeeded jobs; None if the settings determine it
    limits: tuple[Limit | Turns, ...] = ()
    unique: Unique | Debounce | None = None
    start_before: timedelta | datetime | None = None
    # defaults, stored only if keys can be created from them
    defaults: Mapping[str, JsonValue] = attrs.Factory(dict)


class Catalogue:
    """The tasks that servers have stored, and those of this app: `fire.catalogue`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def get(self, name: str) -> TaskEntry:
        """Return the task with this name; an alias is found if its task is registered here.

        Raises:
            UnknownTask: If no server has stored it within the last 30 days, and this app does not have it.
        """
        info = self._client.registry.get(name)
        record = self._client.storage.get_record(_KIND, name if info is None else info.name)
        if record is not None:
            return _entry(record, is_registered_here=info is not None)
        if info is not None:
            return _entry_here(self._client, info)
        raise UnknownTask(
            f"Task {shown(name)} is unknown: no server has stored it, and this app does not have it."
        )

    aget = twin(get)

    def unknown(self, names: Iterable[str]) -> Sequence[str]:
        """Return, in order, the names that do not belong to a task or alias on any server or in this app."""
        known = {name for entry in self.list() for name in (entry.name, *entry.aliases)}
        return [name for name in dict.fromkeys(names) if name not in known]

    aunknown = twin(unknown)

    def list(self) -> list[TaskEntry]:
        """Return all tasks in order of name; this takes one round trip per 500 tasks."""
        registry = self._client.registry
        entries = {
            record.key: _entry(record, is_registered_here=registry.get(record.key) is not None)
            for record in every_record(self._client.storage, _KIND)
        }
        here = [_entry_here(self._client, info) for info in registry if info.name not in entries]
        return sorted([*entries.values(), *here], key=lambda entry: entry.name)

    alist = twin(list)  # noqa: A003 - the method above


def _entry(record: Record, *, is_registered_here: bool) -> TaskEntry:
    value = json.loads(record.value)
    fields = {field.name: value[field.name] for field in attrs.fields(TaskEntry) if field.name in value} | {
        "retry": value["retry"] if isinstance(value["retry"], str) else _retry_words(value["retry"]),
        "aliases": tuple(value["aliases"]),
        "tags": tuple(value["tags"]),
        "seen_at": from_micros(value["seen_at"]),
        "parameters": _outlines(value.get("parameters")),
        **_admission_fields(value.get("admission")),
    }
    return TaskEntry(name=record.key, is_registered_here=is_registered_here, **fields)


def _admission_fields(stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields of a task's limits, unique key and start deadline.

    Limits of kinds that only a newer version supports are omitted.
    """
    if stored is None:
        return {}
    unique, within, before = stored["unique"], stored["within"], stored["before"]
    return {
        "limits": tuple(one for one in map(declared_of, stored["limits"]) if isinstance(one, Limit | Turns)),
        "unique": None if unique is None else declared_of(unique),
        "start_before": timedelta(microseconds=within) if within else before and from_micros(before),
        "defaults": stored["defaults"],
    }


def _outlines(stored: Sequence[dict[str, Any]] | None) -> tuple[ParameterOutline, ...] | None:
    if stored is None:
        return None
    known = attrs.fields_dict(ParameterOutline)
    return tuple(
        ParameterOutline(
            **{name: value for name, value in each.items() if name in known}
            | {"choices": tuple(each["choices"])}
        )
        for each in stored
    )


def _entry_here(client: Client, info: TaskInfo) -> TaskEntry:
    value = cast("Mapping[str, JsonValue]", {**_value(client, info), "seen_at": 0})
    record = Record(kind=_KIND, key=info.name, value=json.dumps(value), version=0)
    return attrs.evolve(_entry(record, is_registered_here=True), seen_at=None)


def stored_timeout(storage: Storage, name: str) -> float | None:
    """Return the timeout of a task as a server last stored it, in seconds; None without a timeout."""
    record = storage.get_record(_KIND, name)
    return None if record is None else json.loads(record.value)["timeout_seconds"]


# ---- storing the tasks -----------------------------------------------------------------------------------


def publish_tasks(client: Client) -> None:
    """Store the tasks that this server can run; delete entries that no server has stored for 30 days.

    Only entries that are new, changed or older than twelve hours are written. If nothing has changed, a
    server start costs one read per 500 tasks.
    """
    storage, now = client.storage, client.clock.now()
    stored = {record.key: record for record in every_record(storage, _KIND)}
    runnable = {info.name: info for info in client.registry.runnable()}
    for name, info in runnable.items():
        value = _value(client, info)
        if not _is_current(stored.get(name), value, now):
            storage.put_record(_KIND, name, json.dumps({**value, "seen_at": now}))
    for name, record in stored.items():
        if name not in runnable and _seen_at(record) < now - _EXPIRES_AFTER:
            storage.delete_record(_KIND, name, expected_version=record.version)


def _is_current(record: Record | None, value: Mapping[str, JsonValue], now: int) -> bool:
    if record is None or _seen_at(record) < now - _REFRESH_AFTER:
        return False
    stored = json.loads(record.value)
    return {**stored, "seen_at": 0} == {**value, "seen_at": 0}


def _seen_at(record: Record) -> int:
    """Return when the entry was stored.

    For an unreadable entry, return a time long ago, so that it is written again or deleted.
    """
    try:
        return int(json.loads(record.value)["seen_at"])
    except (ValueError, TypeError, KeyError):
        return -_EXPIRES_AFTER


def _value(client: Client, info: TaskInfo) -> Mapping[str, JsonValue]:
    function = inspect.unwrap(info.function)
    binder = client.registry.binder(info)
    module = main_module_name() if function.__module__ == "__main__" else function.__module__
    code = getattr(function, "__code__", None)
    return {
        "queue": info.queue,
        "priority": info.priority,
        "retry": _retry_facts(info.retry),
        "timeout_seconds": info.timeout_seconds,
        "keep_seconds": info.keep_seconds,
        "executor": str(info.executor),
        "is_async": info.is_async,
        "aliases": list(info.aliases),
        "tags": list(info.tags),
        "signature": binder.signature.shown,
        "parameters": [{**attrs.asdict(each), "choices": list(each.choices)} for each in outline_of(binder)],
        "summary": _summary(function),
        "place": f"{module}:{code.co_firstlineno}" if code else module,
        "version": installed_version(),
        **({"admission": _admission_facts(info, binder)} if info.has_admission else {}),
    }


def _admission_facts(info: TaskInfo, binder: Binder) -> JsonValue:
    deadline = info.start_before
    return {
        "limits": [facts_of(one) for one in info.limits],
        "unique": None if info.unique is None else facts_of(info.unique),
        "within": deadline // _MICRO if isinstance(deadline, timedelta) else None,
        "before": micros(deadline) if isinstance(deadline, datetime) else None,
        "defaults": dict(binder.defaults),
    }


def _retry_facts(policy: RetryPolicy) -> JsonValue:
    """Return the values that `_retry_words` formats; for a custom policy, return its name."""
    if not isinstance(policy, Retry):
        return f"by {type(policy).__name__}"
    waits = policy.waits[: policy.attempts] if isinstance(policy.waits, tuple) else ()
    return {
        "attempts": policy.attempts,
        "waits": [wait // _MICRO for wait in waits[: _WAITS_SHOWN + 1]],
        "then": ", then deleted" * (policy.on_exceeded is OnExceeded.DELETE),
    }


def _retry_words(facts: Mapping[str, Any]) -> str:
    """Return a readable description of a policy: "10 retries, after 1 min, 5 min, 15 min …"."""
    attempts, waits, then = facts["attempts"], facts["waits"], facts["then"]
    if not attempts:
        return f"no retries{then}"
    durations = ", ".join(map(span, waits[:_WAITS_SHOWN])) + " …" * (len(waits) > _WAITS_SHOWN)
    delays = f"after {durations}" if durations else "with growing waits"
    return f"{number_of(attempts, 'retry', 'retries')}, {delays}{then}"


def _summary(function: object) -> str:
    paragraph = (inspect.getdoc(function) or "").strip().partition("\n\n")[0]
    return textwrap.shorten(paragraph, _SUMMARY, placeholder=" …")
