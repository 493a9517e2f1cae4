"""The options of a Django task beyond Django's own fields, and the places where they can be set.

The places are, in order of precedence: the task itself (`@task(max_attempts=5)`, if Django's decorator passes
the option on, as in 6.1 and the backport), `OPTIONS["tasks"]` by the task's path, `OPTIONS["queues"]` by its
queue, and `OPTIONS` itself. A new option needs a field in `TaskOptions` and in `FirelockTask`, and a line
where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any, Literal

import attrs
from django.utils.module_loading import import_string

from firelock.errors import ConfigurationError
from firelock.limits.keys import to_limits, to_start_before, to_unique
from firelock.limits.limit import Limit, Turns
from firelock.limits.unique import Debounce, Unique
from firelock.model.text import shown
from firelock.options import Executor, check_queue, to_choice, to_keep_seconds, to_tags, to_timeout_seconds
from firelock.retry import Retry

Backoff = Callable[[BaseException, Any], float | timedelta | None]
"""A function of the exception and the TaskResult that returns the delay of the next attempt, None to fail."""

_DEFAULT_ATTEMPTS = 1  # as in Django's own backends, because a task might not be safe to repeat
_MOST_ATTEMPTS = 1_001


def _to_max_attempts(value: int | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_ATTEMPTS:
        raise ConfigurationError(
            f"max_attempts must be an integer from 1 (no retries) to {_MOST_ATTEMPTS}, got {shown(value)}."
        )
    return value


def _to_backoff(value: object) -> Backoff | timedelta | str | None:
    if value is None or callable(value):
        return value
    if isinstance(value, str) and "." in value:
        return value  # imported at first use, because tasks can be in the same module
    try:
        return Retry.fixed(value).waits[0]  # type: ignore[arg-type]  # fixed() checks the type
    except ConfigurationError as error:
        raise ConfigurationError(
            "backoff must be a function of exception and task_result, its dotted path, a timedelta, or a "
            f"number of seconds from 0 to one year, got {shown(value)}."
        ) from error


def to_executor(value: str) -> Executor:
    """Return the executor of a task's jobs.

    Raises:
        ConfigurationError: If the executor is unknown. The message lists the choices.
    """
    return to_choice(Executor, "executor", value)


@attrs.frozen
class TaskOptions:
    """The options of a task that are set in one place. Options that are None come from the next place."""

    max_attempts: int | None = attrs.field(default=None, converter=_to_max_attempts)
    backoff: Backoff | timedelta | str | None = attrs.field(default=None, converter=_to_backoff)
    timeout: float | None = attrs.field(default=None, converter=to_timeout_seconds)  # seconds
    keep: float | None = attrs.field(default=None, converter=to_keep_seconds)  # seconds after success
    tags: tuple[str, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(to_tags))
    executor: Executor | None = attrs.field(default=None, converter=attrs.converters.optional(to_executor))
    limits: tuple[Limit | Turns, ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(to_limits)
    )
    unique: Unique | Debounce | Literal[False] | None = attrs.field(default=None, converter=to_unique)
    start_before: timedelta | datetime | None = attrs.field(default=None, converter=to_start_before)

    def over(self, other: TaskOptions) -> TaskOptions:
        """Return these options; options that are None have the values of `other`."""
        given = attrs.asdict(self, recurse=False).items()
        return attrs.evolve(other, **{name: value for name, value in given if value is not None})

    @property
    def attempts(self) -> int:
        """The maximum number of attempts; if only a backoff is set, that of Firelock's default policy."""
        if self.max_attempts is not None:
            return self.max_attempts
        return _DEFAULT_ATTEMPTS if self.backoff is None else Retry().attempts + 1

    def backoff_function(self) -> Backoff | None:
        """Return the backoff function, imported if its path was given; None for a fixed wait or no backoff.

        Raises:
            ConfigurationError: If the path does not lead to a function.
        """
        function = self.backoff
        if isinstance(function, str):
            try:
                function = import_string(function)
            except ImportError as error:
                raise ConfigurationError(f"backoff={shown(function)} cannot be imported: {error}") from error
            if not callable(function):
                raise ConfigurationError(f"backoff={shown(self.backoff)} is not a function.")
        return None if isinstance(function, timedelta) else function

    @property
    def retry(self) -> Retry:
        """The retry policy that is used without a backoff function."""
        retries, wait = self.attempts - 1, self.backoff
        return (
            Retry.fixed(wait, attempts=retries, jitter=0) if isinstance(wait, timedelta) else Retry(retries)
        )


FIELDS = tuple(field.name for field in attrs.fields(TaskOptions))


def own_options(task: object) -> tuple[Any, ...]:
    """Return the options of the task itself, in the order of `FIELDS`; None for another backend's task."""
    return tuple(getattr(task, name, None) for name in FIELDS)


@attrs.frozen
class BackendOptions:
    """The options of a backend. Invalid values are described in `mistakes`, and left out of other fields."""

    app: object = None  # a Firelock app or its path, "shop.jobs:fire"; None for the project's own app
    all_tasks: TaskOptions = TaskOptions()
    queues: Mapping[str, TaskOptions] = attrs.Factory(dict)
    tasks: Mapping[str, TaskOptions] = attrs.Factory(dict)
    mistakes: tuple[str, ...] = ()

    def of(self, path: str, queue: str, own: TaskOptions) -> TaskOptions:
        """Return the options of a task with this path in this queue; options of the task take precedence."""
        found = own
        for place in (self.tasks.get(path), self.queues.get(queue), self.all_tasks):
            found = found if place is None else found.over(place)
        return found


def check_paths(options: BackendOptions) -> list[str]:
    """Return the mistakes in paths of backoff functions; only this check and a failed attempt import them."""
    mistakes = []
    for each in (options.all_tasks, *options.queues.values(), *options.tasks.values()):
        try:
            each.backoff_function()
        except ConfigurationError as error:
            mistakes.append(str(error))
    return mistakes


def read_options(params: Mapping[str, Any]) -> BackendOptions:
    """Return the options in a backend's settings, from `OPTIONS` and the names in `QUEUES`."""
    mistakes: list[str] = []
    given = params.get("OPTIONS", {})
    if not isinstance(given, Mapping):
        return BackendOptions(mistakes=(f"OPTIONS must be a mapping, got {shown(given)}.",))
    rest = {key: value for key, value in given.items() if key not in {"app", "queues", "tasks"}}
    options = BackendOptions(
        app=given.get("app"),
        all_tasks=_read("OPTIONS", rest, mistakes, also=("app", "queues", "tasks")),
        queues=_read_each("queues", given.get("queues"), mistakes),
        tasks=_read_each("tasks", given.get("tasks"), mistakes),
    )
    names = {str(name) for name in params.get("QUEUES", ("default",))}
    mistakes += [
        f"OPTIONS['queues'] contains {name!r}, which is not in QUEUES."
        for name in options.queues
        if names and name not in names
    ]
    for name in sorted(names):
        try:
            check_queue(name)
        except ConfigurationError as error:
            mistakes.append(str(error))
    return attrs.evolve(options, mistakes=tuple(mistakes))


def _read_each(key: str, given: object, mistakes: list[str]) -> dict[str, TaskOptions]:
    place = f"OPTIONS[{key!r}]"
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        mistakes.append(f"{place} must be a mapping of names to options, got {shown(given)}.")
        return {}
    return {str(name): _read(f"{place}[{name!r}]", each, mistakes) for name, each in given.items()}


def _read(place: str, given: object, mistakes: list[str], also: tuple[str, ...] = ()) -> TaskOptions:
    if not isinstance(given, Mapping):
        mistakes.append(f"{place} must be a mapping of options, got {shown(given)}.")
        return TaskOptions()
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in FIELDS:
            mistakes.append(_unknown(place, key, (*FIELDS, *also)))
            continue
        try:
            TaskOptions(**{key: value})
        except ConfigurationError as error:
            mistakes.append(f"{place}: {error}")
        else:
            values[key] = value
    return TaskOptions(**values)


def _unknown(place: str, key: object, known: tuple[str, ...]) -> str:
    near = get_close_matches(str(key).lower(), known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Use one of {', '.join(known)}."
    return f"{place} has an unknown key {key!r}. {hint}"
