"""Data of a request, such as its id and its tenant, in the `meta` of the jobs that it creates."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from firelock import ConfigurationError, current_job, hookimpl

request_id: ContextVar[str | None] = ContextVar("firelock_request_id", default=None)
"""The id of the current request, set by the middleware of a web framework; None outside of a request."""

HEADER: Final = "X-Request-ID"

_KEY: Final = "request_id"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+/=-]{0,127}\Z")


class RequestMeta:
    """A plugin: `Firelock(url, plugins=[RequestMeta(tenant=current_tenant)])`.

    The `meta` of each job contains the request's id, as `request_id`, and the value that each additional
    source has when the job is enqueued. If a source returns None, its value is taken from the meta of the
    running job, so that a job passes the value on to the jobs that it creates. `using(meta=…)` takes
    precedence.

    Args:
        sources: for each key of the meta, a context variable or a function without parameters. The value None
            means that the value is unknown; any other value is stored as a string.

    Raises:
        ConfigurationError: If a source is neither a context variable nor callable.
    """

    def __init__(self, **sources: ContextVar[Any] | Callable[[], object]) -> None:
        self._sources = {key: _reader(key, source) for key, source in {_KEY: request_id, **sources}.items()}

    @hookimpl
    def job_options(self) -> dict[str, object]:
        """Return the meta of a job that is created here."""
        return {"meta": meta} if (meta := self.batch_meta()) else {}

    @hookimpl
    def batch_meta(self) -> dict[str, str]:
        """Return the meta of a batch that is created here."""
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
            f"RequestMeta({key}=…) must be a context variable or a function that returns the value, "
            f"got {source!r}."
        )
    return source


def _meta_of_running_job() -> Mapping[str, str]:
    try:
        return current_job().meta
    except LookupError:
        return {}


def to_request_id(given: str | None) -> str:
    """Return the id that the request contains, or a new id if it has none that is safe to log."""
    return given if given is not None and _ID.match(given) else uuid.uuid4().hex
