"""All settings, with their defaults, environment variables and meanings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import attrs

from firelock.errors import ConfigurationError
from firelock.model.lifecycle import Retention

_DAY = 86_400.0
_MICROS = 1_000_000


def _seconds(value: object) -> object:
    return value.total_seconds() if isinstance(value, timedelta) else value


def _number(default: float, *, least: float, most: float, doc: str) -> Any:  # noqa: ANN401 - attrs' own field
    """Declare a numeric setting with its bounds, from which the table in the documentation is generated."""
    return attrs.field(
        default=default, converter=_seconds, metadata={"least": least, "most": most, "doc": doc}
    )


def _switch(default: bool, *, doc: str) -> Any:  # noqa: ANN401 - attrs' own field; as `_number`
    """Declare a setting that is true or false."""
    return attrs.field(default=default, metadata={"least": False, "most": True, "doc": doc})


@attrs.frozen(kw_only=True)
class Settings:
    """The settings of an app's servers and clients. Durations are in seconds or a `timedelta`.

    The value of a setting comes from the first of these sources that contains it: the constructor, the
    environment variable `FIRELOCK_<NAME>`, the `[tool.firelock]` table in the working directory of the
    command line, and the default.
    """

    session_timeout: float = _number(
        30,
        least=0.5,
        most=3600,
        doc="time after which a server that does not renew its session loses its jobs",
    )
    heartbeat: float = _number(
        10, least=0.1, most=1200, doc="interval between two renewals of a server's sessions"
    )
    sweep: float = _number(
        5,
        least=0.05,
        most=300,
        doc="interval between searches for expired sessions; "
        "six times as long for expired jobs if no job has expired",
    )
    poll: float = _number(
        1, least=0.01, most=60, doc="interval between two checks for work without a wake-up"
    )
    grace: float = _number(
        25, least=0, most=86_400, doc="time that running jobs have to end when a server stops"
    )
    workers: int = _number(0, least=0, most=10_000, doc="threads of a server; 0 means five per core")
    async_workers: int = _number(
        100, least=1, most=100_000, doc="async jobs that run at the same time, per worker process"
    )
    claim_ahead: int = _number(
        500, least=0, most=500, doc="maximum number of jobs that are claimed ahead of free workers"
    )
    hang_timeout: float = _number(
        300,
        least=1,
        most=86_400,
        doc="time after which a hanging worker process, or a job process that is not ready, is killed",
    )
    max_jobs_per_process: int = _number(
        0,
        least=0,
        most=10**9,
        doc="number of jobs after which a worker process is replaced; 0 means never",
    )
    max_memory_per_process: int = _number(
        0, least=0, most=10**6, doc="memory in MB above which a worker process is replaced; 0 means never"
    )
    probe_port: int = _number(
        0, least=0, most=65_535, doc="port for the probes of `firelock server`; 0 means none"
    )
    keep_succeeded: float = _number(_DAY, least=0, most=3650 * _DAY, doc="retention of succeeded jobs")
    keep_deleted: float = _number(_DAY, least=0, most=3650 * _DAY, doc="retention of deleted jobs")
    keep_failed: float = _number(30 * _DAY, least=0, most=3650 * _DAY, doc="retention of failed jobs")
    argument_limit: int = _number(
        32 * 1024, least=64, most=16 << 20, doc="maximum size of a job's arguments, in bytes"
    )
    argument_warning: int = _number(
        4 * 1024, least=64, most=16 << 20, doc="size in bytes from which arguments cause a warning"
    )
    result_limit: int = _number(
        256 * 1024, least=64, most=16 << 20, doc="maximum size of a job's result, in bytes"
    )
    log_failures: bool = _switch(True, doc="whether each failed attempt is logged")

    @classmethod
    def from_environment(
        cls, table: Mapping[str, object] | None = None, environment: Mapping[str, str] | None = None
    ) -> Settings:
        """Return settings from the environment, a `[tool.firelock]` table or the defaults, in this order."""
        environment = os.environ if environment is None else environment
        values: dict[str, object] = {}
        for field in attrs.fields(cls):
            name = f"FIRELOCK_{field.name.upper()}"
            if name in environment:
                read = _read_switch if str(field.type) == "bool" else _read
                values[field.name] = read(name, environment[name])
            elif table and field.name in table:
                values[field.name] = table[field.name]
        return cls(**values)  # type: ignore[arg-type]

    @property
    def retention(self) -> Retention:
        """The retention of ended jobs, in microseconds."""
        return Retention(
            succeeded=int(self.keep_succeeded * _MICROS),
            failed=int(self.keep_failed * _MICROS),
            deleted=int(self.keep_deleted * _MICROS),
        )

    def to_json(self) -> str:
        """Return the settings as a JSON string, for the processes of a server."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Return the settings that `to_json` wrote; settings that a newer release added are ignored."""
        stored = json.loads(text)
        return cls(**{name: stored[name] for name in attrs.fields_dict(cls) if name in stored})

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(Settings):
            _check(field, getattr(self, field.name))
        if self.session_timeout < 3 * self.heartbeat:
            raise ConfigurationError(
                f"session_timeout must be at least three times heartbeat ({self.heartbeat:g} s), got "
                f"{self.session_timeout:g} s: a running server could lose its jobs. Increase session_timeout "
                "or reduce heartbeat."
            )


def _check(field: attrs.Attribute[object], value: object) -> None:
    if str(field.type) == "bool":
        if not isinstance(value, bool):
            raise ConfigurationError(f"Setting {field.name} must be true or false, got {value!r}.")
        return
    least, most = field.metadata["least"], field.metadata["most"]
    is_whole = str(field.type) == "int"  # annotations are strings in this module
    kinds = int if is_whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        noun = "an integer" if is_whole else "a number"
        raise ConfigurationError(
            f"Setting {field.name} must be {noun} from {least:g} to {most:g}, got {value!r}."
        )


def _read(name: str, text: str) -> float:
    try:
        return int(text) if text.strip().isdigit() else float(text)
    except ValueError as error:
        raise ConfigurationError(f"{name} must be a number, got {text!r}.") from error


_SWITCHES = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(
    ("0", "false", "no", "off"), False
)


def _read_switch(name: str, text: str) -> bool:
    value = _SWITCHES.get(text.strip().lower())
    if value is None:
        raise ConfigurationError(f"{name} must be true or false, got {text!r}. Use 1 or 0.")
    return value
