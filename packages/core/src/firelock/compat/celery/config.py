"""The settings of a program written for Celery: supported, ignored and refused settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from difflib import get_close_matches
from typing import Any, Final

from firelock.compat.celery.errors import NotMapped
from firelock.errors import ConfigurationError
from firelock.model.text import shown

_MEANT: Final[Mapping[str, object]] = {
    "accept_content": None,
    "beat_schedule": {},
    "broker_url": None,
    "enable_utc": True,
    "imports": (),
    "include": (),
    "result_serializer": "json",
    "task_acks_late": False,
    "task_default_priority": None,
    "task_default_queue": None,
    "task_ignore_result": False,
    "task_routes": None,
    "task_serializer": "json",
    "task_time_limit": None,
    "timezone": None,
}
# Settings that tune Celery's own worker, broker and result backend, which do not exist here.
_WITHOUT_EFFECT: Final = (
    "beat_", "broker_", "cache_", "control_", "database_", "event_", "redis_", "result_", "security_",
    "worker_", "task_acks_on_", "task_compression", "task_create_missing_", "task_default_delivery_mode",
    "task_default_exchange", "task_default_routing_key", "task_inherit_parent_priority", "task_protocol",
    "task_publish_retry", "task_queue_max_priority", "task_reject_on_worker_lost", "task_remote_tracebacks",
    "task_send_sent_event", "task_store_errors_even_if_ignored", "task_track_started",
)  # fmt: skip
_REFUSED: Final = {
    "task_always_eager": "in tests, run jobs with firelock.testing (see docs/testing.md)",
    "task_eager_propagates": "in tests, run jobs with firelock.testing (see docs/testing.md)",
    "task_annotations": "pass the options to each task where it is declared",
    "task_cls": "use a plugin (see docs/plugins.md)",
    "task_default_rate_limit": "pass limits=[firelock.Limit('NAME', rate=10, per=60)] to the tasks",
    "task_queues": "set queues on tasks or in task_routes, and start servers with firelock server --queues",
    "task_soft_time_limit": (
        'use task_time_limit, pass executor="auto" to the tasks, so that they are not killed, and call '
        "current_job().raise_if_cancelled() in them"
    ),
}
_JSON: Final = ("task_serializer", "result_serializer")


class CeleryConfig(MutableMapping[str, Any]):
    """The value of `app.conf`: settings by attribute or by key, which are checked when they are set."""

    def __init__(self) -> None:
        self.__dict__["_given"] = {}

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - a setting can have any type
        if name in self._given:
            return self._given[name]
        if name in _MEANT:
            return _MEANT[name]
        raise KeyError(name)

    def __setitem__(self, name: str, value: object) -> None:
        self._check(name, value)
        self._given[name] = value

    def __delitem__(self, name: str) -> None:
        del self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**_MEANT, **self._given})

    def __len__(self) -> int:
        return len({**_MEANT, **self._given})

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a setting can have any type
        try:
            return self[name]
        except KeyError:
            if name.startswith(_WITHOUT_EFFECT):
                return None
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: object) -> None:
        self[name] = value

    def read(self, source: object, namespace: str | None) -> None:
        """Read the settings from an object, such as a module, a class or Django's settings.

        With a namespace, only the settings with this prefix are read.

        Raises:
            NotMapped: If a setting has no counterpart.
            ConfigurationError: If a setting is unknown or invalid.
        """
        prefix = f"{namespace}_" if namespace else ""
        given = source if isinstance(source, Mapping) else vars_of(source)
        for name, value in given.items():
            setting = name.removeprefix(prefix).lower()
            if name.startswith(prefix) and (prefix or _is_known(setting)):
                self[setting] = value
            elif not prefix and name.startswith("CELERY"):
                self._check(name, value)  # otherwise a setting with an old name would be ignored silently

    @staticmethod
    def _check(name: str, value: object) -> None:
        if name in _REFUSED and value:
            raise NotMapped(f"The setting {name}={shown(value)} has no counterpart: {_REFUSED[name]}.")
        if name in _JSON and value != "json":
            raise NotMapped(
                f"The setting {name}={shown(value)} has no counterpart, because arguments and results are "
                "JSON and are never pickled. To pass dates and dataclasses, annotate the parameters."
            )
        if name == "enable_utc" and not value:
            raise NotMapped("enable_utc must be True, because times are stored in UTC.")
        if not _is_known(name):
            near = get_close_matches(_to_new_spelling(name), [*_MEANT, *_REFUSED], n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigurationError(f"Setting {name!r} is unknown in Firelock's interface for Celery.{hint}")


def _to_new_spelling(name: str) -> str:
    """Return the current name of a setting from before Celery 4, such as CELERY_TASK_SERIALIZER."""
    old, new = name.lower(), {"celerybeat_": "beat_", "celeryd_": "worker_", "celery_": ""}
    prefix = next((each for each in new if old.startswith(each)), "")
    return new.get(prefix, "") + old.removeprefix(prefix)


def _is_known(name: str) -> bool:
    return name in _MEANT or name in _REFUSED or name.startswith(_WITHOUT_EFFECT)


def vars_of(source: object) -> Mapping[str, object]:
    """Return the public attributes of an object; for Django's settings, only those that are set."""
    return {name: getattr(source, name) for name in dir(source) if not name.startswith("_")}
