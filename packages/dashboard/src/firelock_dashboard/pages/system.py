"""The System page, which shows the storage and its problems, plugins, and settings with their sources."""

from __future__ import annotations

import json
import os
import platform
import time
from typing import TYPE_CHECKING

import attrs
from starlette.responses import Response

from firelock import ConfigurationError, Settings
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from firelock.storage import Finding, SchemaState
    from firelock_dashboard.web.request import Visit

_MICROS = 1_000_000


@attrs.frozen
class _Setting:
    name: str
    value: float
    default: float
    source: str  # default, environment or app
    doc: str


@attrs.frozen
class _Storage:
    facts: dict[str, str]
    features: list[str]
    schema: SchemaState
    round_trip_seconds: float  # the duration of reading one record
    skew_seconds: float  # how far the storage's clock is ahead of this host's


def show_system(visit: Visit) -> Response:
    """Show the storage, the plugins and the settings."""
    return visit.page(
        "system.html",
        storage=lambda: _storage(visit), findings=lambda: _findings(visit),
        plugins=visit.fire.plugins.listing, settings=lambda: _settings(visit),
        counts=visit.state_counts, python=platform.python_version(), host=platform.node(),
    )  # fmt: skip


def _storage(visit: Visit) -> _Storage:
    storage = visit.fire.storage
    before = time.time()
    there = storage.clock() / _MICROS  # some storages use this host's clock, without a round trip
    skew = there - (before + time.time()) / 2
    started = time.perf_counter()
    storage.get_record("queue", "default")
    took = time.perf_counter() - started
    return _Storage(dict(storage.describe()), sorted(storage.features), storage.schema(), took, skew)


def _findings(visit: Visit) -> list[Finding]:
    return [*visit.dashboard.watch.diagnosis().findings]


def _settings(visit: Visit) -> list[_Setting]:
    return [
        _Setting(
            field.name, value := getattr(visit.fire.settings, field.name), field.default or 0,
            _source(field.name, value, field.default or 0), field.metadata["doc"],
        )
        for field in attrs.fields(Settings)
    ]  # fmt: skip


def _source(name: str, value: float, default: float) -> str:
    variable = f"FIRELOCK_{name.upper()}"
    given = os.environ.get(variable, "")
    try:
        is_given = (
            getattr(Settings.from_environment({}, {variable: given}), name)
            if isinstance(value, bool)
            else float(given)
        ) == value
    except (ValueError, ConfigurationError):
        is_given = False  # the variable is not set, or was set after the app was created
    if is_given:
        return "environment"
    return "default" if value == default else "app"


def send_bundle(visit: Visit) -> Response:
    """Return the data of this page as a file for support; it contains no jobs and no arguments."""
    storage = _storage(visit)
    bundle = {
        "firelock": visit.dashboard.version,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "storage": attrs.asdict(storage),
        "findings": [finding.answer() for finding in _findings(visit)],
        "plugins": [attrs.asdict(plugin) for plugin in visit.fire.plugins.listing()],
        "settings": {one.name: [one.value, one.source] for one in _settings(visit)},
        "jobs": visit.state_counts(),
        "servers": [
            {"name": one.name, "version": one.sessions[0].session.version, "is_alive": one.is_alive,
             "workers": one.workers, "queues": one.queues}
            for one in visit.fire.servers.list()
        ],
    }  # fmt: skip
    headers = {"Content-Disposition": 'attachment; filename="firelock-system.json"'}
    return Response(json.dumps(bundle, indent=2, default=str), 200, headers, "application/json")


ROUTES = (
    Route("GET", "/system", Permission.READ, show_system),
    Route("GET", "/system/bundle", Permission.READ, send_bundle),
)
