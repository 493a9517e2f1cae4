"""What a request says of itself travels with the jobs that it makes: its id, its tenant, in their `meta`."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from firelock import ConfigurationError, current_job, hookimpl

request_id: ContextVar[str | None] = ContextVar("firelock_request_id", default=None)
"""The id of the request that runs here, set by the middleware of a web framework; None outside of one."""

HEADER: Final = "X-Request-ID"

_KEY: Final = "request_id"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+/=-]{0,127}\Z")


class RequestMeta:
    """A plugin: `Firelock(url, plugins=[RequestMeta(tenant=current_tenant)])`.

    Each job gets the request's id into its `meta`, as `request_id`, and of each further name what its source
    says at the enqueue. What a source does not know is taken from the meta of the job that runs here, so that
    the jobs of a job have them as well. `using(meta=…)` wins.

    Args:
        sources: by key of the meta, a context variable or a function without parameters. None is unknown;
            anything else is stored as its text.

    Raises:
        ConfigurationError: a source is neither.
    """

    def __init__(self, **sources: ContextVar[Any] | Callable[[], object]) -> None:
        self._sources = {key: _reader(key, source) for key, source in {_KEY: request_id, **sources}.items()}

    @hookimpl
    def job_options(self) -> dict[str, object]:
        """Return the meta of a job that is made here."""
        return {"meta": meta} if (meta := self.batch_meta()) else {}

    @hookimpl
    def batch_meta(self) -> dict[str, str]:
        """Return the meta of a batch that is made here."""
        inherited = _meta_of_running_job()
        meta: dict[str, str] = {}
        for key, read in self._sources.items():
            value = read()
            value = inherited.get(key) if value is None else value
            if value is not None:
                meta[key] = str(value)
        return meta


def _reader(key: str, source: object) -> Callable[[], object]:
    if isinstance(source, ContextVar):
        return lambda: source.get(None)
    if not callable(source):
        raise ConfigurationError(
            f"RequestMeta({key}={source!r}): pass a context variable, or a function that returns the text."
        )
    return source


def _meta_of_running_job() -> Mapping[str, str]:
    try:
        return current_job().meta
    except LookupError:
        return {}


def to_request_id(given: str | None) -> str:
    """Return the id that a request came with, or a new one where it has none that could stand in a log."""
    return given if given is not None and _ID.match(given) else uuid.uuid4().hex
