"""The options of tasks and calls, with their validation: `TaskInfo`, `CallOptions`, `Call`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, Generic, Literal, TypeVar

import attrs

from firelock.errors import ConfigurationError
from firelock.limits.keys import KeyMaker, key_maker, to_limits, to_start_before, to_unique
from firelock.limits.limit import Limit, Turns
from firelock.limits.unique import Debounce, Unique
from firelock.model.dependencies import On
from firelock.model.lifecycle import MAX_HOST_LOSSES
from firelock.model.meta import check_meta
from firelock.model.text import shown
from firelock.resource import Resource
from firelock.retry import Retry, RetryPolicy

Choice = TypeVar("Choice", bound=StrEnum)
R = TypeVar("R", covariant=True)

_QUEUE = re.compile(r"[a-z0-9_.-]{1,64}\Z")
_PRIORITY = 100
_TIMEOUT_LIMIT = 366 * 86_400.0
_MOST_HOST_LOSSES = 1_000
_KEEP_LIMIT = 3_650 * 86_400.0  # the same limit as in the settings
MOST_SOURCES = 100  # maximum number of jobs that one job can wait for; a batch can group more jobs


# Options of tasks in other job libraries, and their replacements.
_FOREIGN_OPTIONS = {
    "acks_late": "nothing: a job is always acknowledged after it has ended",
    "actor_name": "name=",
    "autoretry_for": "retry=Retry(only_on=…)",
    "base": "a function that the tasks call, or a plugin",
    "bind": "a first parameter annotated JobContext, or current_job()",
    "default_retry_delay": "retry=Retry.fixed(seconds, attempts=…)",
    "dont_autoretry_for": "retry=Retry(except_on=…)",
    "expires": "start_before=timedelta(…)",
    "ignore_result": "nothing: a task that returns None stores no result",
    "max_retries": "retry=Retry(attempts=…)",
    "queue_name": "queue=",
    "rate_limit": 'limits=[Limit("name", rate=…, per=…)]',
    "reject_on_worker_lost": "nothing: a job whose process was lost always runs again",
    "result_ttl": "keep=",
    "retries": "retry=Retry(attempts=…)",
    "retry_backoff": "retry=Retry.exponential(…)",
    "retry_delay": "retry=Retry.fixed(seconds, attempts=…)",
    "serializer": "Firelock(…, serializer=…), which is the same for all tasks",
    "soft_time_limit": "timeout=, and raise_if_cancelled() of the JobContext",
    "time_limit": 'timeout=; with executor="process" it also ends a task that does not stop',
}


def unknown_option(option: str, known: Sequence[str]) -> ConfigurationError:
    """Return the error for an unknown option of a task, with the option to use instead."""
    if (instead := _FOREIGN_OPTIONS.get(option)) is not None:
        return ConfigurationError(f"A Firelock task has no option {option!r}; use {instead}.")
    from difflib import get_close_matches  # noqa: PLC0415 - only for a message

    near = get_close_matches(option, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}."
    return ConfigurationError(f"Task option {option!r} is unknown; {hint}")


def check_queue(name: str) -> str:
    """Return the name of a queue if it is valid.

    Raises:
        ConfigurationError: The name is empty, has more than 64 characters, or contains characters other than
            `a-z 0-9 _ . -`.
    """
    if not isinstance(name, str) or not _QUEUE.match(name):
        raise ConfigurationError(
            f"Queue name must be 1 to 64 characters from a-z, 0-9, '_', '.', '-', got {shown(name)}."
        )
    return name


def check_priority(value: int) -> int:
    """Return a priority; raise ConfigurationError unless it is from -100 to 100."""
    if isinstance(value, bool) or not isinstance(value, int) or not -_PRIORITY <= value <= _PRIORITY:
        raise ConfigurationError(
            f"Priority must be an integer from -{_PRIORITY} to {_PRIORITY}, got {shown(value)}."
        )
    return value


def to_timeout_seconds(value: timedelta | float | None) -> float | None:
    """Return a timeout in seconds; raise ConfigurationError unless it is above zero and at most 366 days."""
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= _TIMEOUT_LIMIT:
        raise ConfigurationError(
            f"timeout must be a timedelta or seconds, above zero and at most 366 days, got {shown(value)}."
        )
    return float(seconds)


def to_keep_seconds(value: timedelta | float | None) -> float | None:
    """Return the retention in seconds; raise ConfigurationError unless it is from 0 to 3,650 days."""
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _KEEP_LIMIT:
        raise ConfigurationError(
            f"keep must be a timedelta or seconds, from zero to 3,650 days, got {shown(value)}."
        )
    return float(seconds)


def check_host_losses(value: int) -> int:
    """Return the number of host losses that a task allows.

    Raises:
        ConfigurationError: The value is not an integer from 1 to 1,000.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_HOST_LOSSES:
        raise ConfigurationError(
            f"max_host_losses must be an integer from 1 to {_MOST_HOST_LOSSES:,}, got {shown(value)}."
        )
    return value


def check_retry(value: object) -> RetryPolicy:
    """Return a retry policy; raise ConfigurationError if it has no `decide` method."""
    if isinstance(value, bool | int):
        raise ConfigurationError(
            f"retry must be a policy, got {value!r}. Use retry=Retry(attempts={int(value)})."
        )
    if isinstance(value, type):
        raise ConfigurationError(
            f"retry must be an instance, got the class {value!r}. Use retry={value.__name__}()."
        )
    if not callable(getattr(value, "decide", None)):
        raise ConfigurationError(
            f"retry must be a Retry or an object with decide(job, error), got {value!r}."
        )
    return value  # type: ignore[return-value]


def to_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return tags as a tuple; raise ConfigurationError for a single string, which would be split."""
    return _to_texts("tags", "tag", tags)


def to_aliases(names: Iterable[str]) -> tuple[str, ...]:
    """Return old names of a task as a tuple; raise ConfigurationError for a single string."""
    return _to_texts("aliases", "name", names)


def _to_texts(option: str, noun: str, values: object) -> tuple[str, ...]:
    if isinstance(values, str):
        raise ConfigurationError(
            f"{option} must be a list of strings, got the string {values!r}. Use {option}=[{values!r}]."
        )
    if not isinstance(values, Iterable):
        raise ConfigurationError(f"{option} must be a list of strings, got {values!r}.")
    texts = tuple(values)
    for text in texts:
        if not isinstance(text, str):
            raise ConfigurationError(
                f"Each {noun} in {option}={list(texts)!r} must be a string, got {text!r}."
            )
    return texts


def to_choice(kind: type[Choice], option: str, value: str) -> Choice:
    """Return the member of an enumeration; raise ConfigurationError, with all members, if it is unknown."""
    try:
        return kind(value)
    except ValueError as error:
        raise ConfigurationError(f"{option} must be one of {', '.join(kind)}, got {value!r}.") from error


def to_sources(jobs: object) -> tuple[Any, ...]:
    """Return the handles of jobs to wait for; raise ConfigurationError if one is not a handle."""
    given = tuple(jobs) if isinstance(jobs, list | tuple) else (jobs,)
    for each in given:
        if not callable(getattr(type(each), "as_source", None)):
            raise ConfigurationError(
                f"after={shown(jobs)} must contain only handles of jobs, got {shown(each)}. Pass the return "
                "value of add() or enqueue(), or fire.jobs.get(id)."
            )
    return given


def _optional_on(value: str | None) -> On | None:
    return None if value is None else to_choice(On, "on", value)


@attrs.frozen
class CallOptions:
    """The options that `using(...)` sets for one call; None keeps the task's own value."""

    queue: str | None = attrs.field(default=None, converter=attrs.converters.optional(check_queue))
    priority: int | None = attrs.field(default=None, converter=attrs.converters.optional(check_priority))
    delay: timedelta | float | None = None
    at: datetime | None = None
    tags: tuple[str, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(to_tags))
    on: On | None = attrs.field(default=None, converter=_optional_on)
    within: object | None = None
    timeout: float | None = attrs.field(default=None, converter=to_timeout_seconds)
    retry: Retry | None = attrs.field(default=None)
    meta: Mapping[str, str] | None = attrs.field(
        default=None, converter=attrs.converters.optional(check_meta)
    )
    limits: tuple[Limit | Turns, ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(to_limits)
    )
    unique: Unique | Debounce | Literal[False] | None = attrs.field(default=None, converter=to_unique)
    start_before: timedelta | datetime | None = attrs.field(default=None, converter=to_start_before)
    after: tuple[Any, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(to_sources))
    # Whether the options set limits, unique or start_before.
    has_admission: bool = attrs.field(init=False, eq=False, repr=False)

    @has_admission.default
    def _sets_admission(self) -> bool:
        return (self.limits, self.unique, self.start_before) != (None, None, None)

    @retry.validator
    def _is_storable(self, _: object, value: object) -> None:
        if value is not None and not isinstance(value, Retry):
            raise ConfigurationError(
                f"The retry of using() must be a Retry because it is stored with the job, got {value!r}. Set "
                "a policy of your own on the task: @fire.task(retry=…)."
            )

    def __attrs_post_init__(self) -> None:
        if self.delay is not None and self.at is not None:
            raise ConfigurationError(
                f"using() accepts either delay or at, got delay={self.delay!r} and at={self.at!r}. Pass one "
                "of them."
            )

    def given(self) -> dict[str, Any]:
        """Return the options that were set, by name."""
        options = attrs.asdict(self, recurse=False)
        del options["has_admission"]
        return {name: value for name, value in options.items() if value is not None}


NO_OPTIONS = CallOptions()
OPTION_NAMES = frozenset(field.name for field in attrs.fields(CallOptions) if field.init)


class Executor(StrEnum):
    """Where a task's jobs run."""

    AUTO = "auto"  # `def` in a thread, `async def` on the event loop of the worker process
    PROCESS = "process"  # in a separate process, for CPU-bound work and work that must be killable


class OnRisk(StrEnum):
    """The behavior of a running job if its server cannot be sure that it still holds the job."""

    CONTINUE = "continue"
    CANCEL = "cancel"


def _to_executor(value: Executor | str) -> Executor:
    return to_choice(Executor, "executor", value)


def _to_task_unique(value: Unique | Debounce | Literal[False] | None) -> Unique | Debounce | None:
    return to_unique(value) or None


def _to_on_risk(value: OnRisk | str) -> OnRisk:
    return to_choice(OnRisk, "on_risk", value)


@lru_cache(maxsize=1024)
def _named(function: Callable[..., Any], takes_context: bool, resources: tuple[str, ...]) -> tuple[str, ...]:
    parameters = list(inspect.signature(function).parameters.values())[takes_context:]
    left_over = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(
        each.name for each in parameters if each.name not in resources and each.kind not in left_over
    )


@attrs.frozen
class TaskInfo:
    """A registered task."""

    name: str
    function: Callable[..., Any]
    queue: str = attrs.field(default="default", converter=check_queue)
    priority: int = attrs.field(default=0, converter=check_priority)
    retry: RetryPolicy = attrs.field(factory=Retry, converter=check_retry)
    timeout_seconds: float | None = attrs.field(default=None, converter=to_timeout_seconds)
    keep_seconds: float | None = attrs.field(default=None, converter=to_keep_seconds)  # for succeeded jobs
    tags: tuple[str, ...] = attrs.field(default=(), converter=to_tags)  # tags that may contain {parameter}
    aliases: tuple[str, ...] = attrs.field(default=(), converter=to_aliases)
    executor: Executor = attrs.field(default=Executor.AUTO, converter=_to_executor)
    on_risk: OnRisk = attrs.field(default=OnRisk.CONTINUE, converter=_to_on_risk)
    max_host_losses: int = attrs.field(default=MAX_HOST_LOSSES, converter=check_host_losses)
    is_remote: bool = False  # whether it is a stub, which can be enqueued but never runs here
    is_async: bool = False
    takes_context: bool = False
    resources: Mapping[str, Resource] = attrs.field(
        factory=dict, hash=False
    )  # keyed by parameter; calls do not pass them
    limits: tuple[Limit | Turns, ...] = attrs.field(default=(), converter=to_limits)
    unique: Unique | Debounce | None = attrs.field(default=None, converter=_to_task_unique)
    start_before: timedelta | datetime | None = attrs.field(default=None, converter=to_start_before)
    is_published: bool = (
        False  # whether it is a stub from a server's description, with the limits of that server
    )
    # Whether the task has limits, unique or start_before.
    has_admission: bool = attrs.field(init=False, eq=False, repr=False)

    @has_admission.default
    def _uses_admission(self) -> bool:
        return bool(self.limits) or self.unique is not None or self.start_before is not None

    @property
    def owner(self) -> str:
        """The name to which the task's unique keys belong; it does not change when the task is renamed."""
        return self.aliases[0] if self.aliases else self.name

    def keys(self, options: CallOptions = NO_OPTIONS) -> KeyMaker:
        """Return the object that builds the keys of calls with these options.

        Raises:
            TaskError: A template contains a name that is not a parameter.
        """
        limits = self.limits if options.limits is None else options.limits
        unique = self.unique if options.unique is None else options.unique
        return key_maker(self.owner, limits, unique or None, self.named)

    @property
    def named(self) -> tuple[str, ...]:
        """The parameters that a key may contain: not the context, resources, `*args` or `**kwargs`."""
        return _named(self.function, self.takes_context, tuple(self.resources))

    @property
    def place(self) -> str:
        """The file and line of the function, for messages."""
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(self.function)


@attrs.frozen
class Call(Generic[R]):
    """A task with its arguments and options, for `fire.enqueue_many` and `batch.add_many`."""

    info: TaskInfo
    options: CallOptions
    args: tuple[object, ...]
    kwargs: Mapping[str, object]


def makes_calls(value: object) -> bool:
    """Return whether the value's `call` method returns a `Call`, as the method of a task does.

    A `call` method of another object might have effects: for example, a Django task's method runs the task.
    """
    return isinstance(getattr(value, "info", None), TaskInfo) and callable(getattr(value, "call", None))
