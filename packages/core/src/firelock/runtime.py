"""What a server and the doctor take of an app: `Runtime`, a value that they read and never change."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import attrs

from firelock.jobs.client import Client
from firelock.model.clock import StorageClock
from firelock.model.report import Thresholds
from firelock.plugins.loader import Plugins
from firelock.settings import Settings
from firelock.storage import Storage
from firelock.task import Registry

if TYPE_CHECKING:
    from firelock.control.limits import Limits
    from firelock.control.recurring import Recurring


@attrs.frozen
class Runtime:
    """The parts of an app, as they are at one moment: its storage may be another one later."""

    storage: Storage
    clock: StorageClock
    tasks: Registry
    plugins: Plugins
    client: Client
    settings: Settings
    thresholds: Thresholds = attrs.Factory(Thresholds)  # of the findings


class ServedApp(abc.ABC):
    """What a server asks of an app that it finds by name; `Firelock` is one."""

    serves_not: ClassVar[str | None] = None
    """When no server may be started, and what to do; set while an app is imported, and in a job's process."""

    module: str | None
    unusable: str | None = None  # why no command and no server can use it, although it can be imported
    holder: tuple[object, str] | None = None  # an object in a module, and its attribute that is this app
    imports: Sequence[str]
    recurring: Recurring
    limits: Limits

    @property
    @abc.abstractmethod
    def runtime(self) -> Runtime:
        """Return the parts of the app."""

    @abc.abstractmethod
    def use_storage(self, storage: str | Storage) -> None:
        """Jobs live in another storage from now on."""

    @abc.abstractmethod
    def load_imports(self) -> None:
        """The modules of `imports` are imported."""

    @abc.abstractmethod
    def close(self) -> None:
        """Threads have ended and connections are closed."""
