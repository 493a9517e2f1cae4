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
    """A snapshot of the parts of an app; the app can switch to another storage later."""

    storage: Storage
    clock: StorageClock
    tasks: Registry
    plugins: Plugins
    client: Client
    settings: Settings
    thresholds: Thresholds = attrs.Factory(Thresholds)  # used by `firelock doctor`


class ServedApp(abc.ABC):
    """The interface through which a server uses an app that it found by name; `Firelock` implements it."""

    no_server_reason: ClassVar[str | None] = None
    """The end of the error message of `fire.server()`: why no server can be started, and the fix.

    Set while a command imports an app, and in a job process.
    """

    module: str | None
    unusable: str | None = None  # the reason why commands and servers cannot use the imported app
    holder: tuple[object, str] | None = (
        None  # an object in a module, and the name of its attribute that contains this app
    )
    imports: Sequence[str]
    recurring: Recurring
    limits: Limits

    @property
    @abc.abstractmethod
    def runtime(self) -> Runtime:
        """The parts of the app."""

    @abc.abstractmethod
    def use_storage(self, storage: str | Storage) -> None:
        """Store new jobs in another storage from now on."""

    @abc.abstractmethod
    def load_imports(self) -> None:
        """Import the modules of `imports`."""

    @abc.abstractmethod
    def close(self) -> None:
        """End the threads and close the connections."""
