"""`Runtime`: the parts of an app that a server and the doctor use. They read it and never change it."""

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
    """The parts of an app at one moment. The app can use another storage later."""

    storage: Storage
    clock: StorageClock
    tasks: Registry
    plugins: Plugins
    client: Client
    settings: Settings
    thresholds: Thresholds = attrs.Factory(Thresholds)  # for the findings


class ServedApp(abc.ABC):
    """An app as a server uses it: the server finds it by name. `Firelock` is the implementation."""

    serves_not: ClassVar[str | None] = None
    """When no server may be started, and what to do; set while an app is imported, and in a job process."""

    module: str | None
    unusable: str | None = None  # why no command and no server can use the app, although it can be imported
    holder: tuple[object, str] | None = None  # an object in a module, and its attribute that is this app
    imports: Sequence[str]
    recurring: Recurring
    limits: Limits

    @property
    @abc.abstractmethod
    def runtime(self) -> Runtime:
        """The parts of the app."""

    @abc.abstractmethod
    def use_storage(self, storage: str | Storage) -> None:
        """Store jobs in another storage from now on."""

    @abc.abstractmethod
    def load_imports(self) -> None:
        """Import the modules of `imports`."""

    @abc.abstractmethod
    def close(self) -> None:
        """End the threads and close the connections."""
