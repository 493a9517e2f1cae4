"""Tells a service manager such as systemd that the server is ready, alive, stopping: sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping
from typing import Self

import attrs

log = logging.getLogger(__name__)

_MICROS = 1_000_000


@attrs.define(eq=False)
class SystemdNotifier:
    """Who started this process and wants to hear of it; where nobody does, nothing is told."""

    _address: str | None = None
    _every: float | None = None  # seconds between two signs of life
    _told_at: float = 0.0  # monotonic

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Self:
        """Return the manager that the environment names, and remove its address for worker processes.

        A sign of life is due in a third of the time after which the manager would take us for dead.
        """
        address = environment.pop("NOTIFY_SOCKET", None)
        limit, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        is_watched = limit.isdigit() and int(limit) > 0 and pid in {"", str(os.getpid())}
        return cls(address, int(limit) / _MICROS / 3 if is_watched else None)

    def is_due(self, now: float) -> bool:
        """Tell whether a sign of life is due at this monotonic instant; from then on the next one is."""
        if self._every is None or now - self._told_at < self._every:
            return False
        self._told_at = now
        return True

    def tell(self, state: str) -> None:
        """The manager knows this, such as READY=1; that it cannot be told does no harm."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
                door.settimeout(1.0)
                # A name of Linux's own, in no folder, begins with a zero byte that is written as @.
                door.connect("\0" + self._address[1:] if self._address.startswith("@") else self._address)
                door.sendall(state.encode())
        except OSError as error:
            log.debug("The service manager could not be told %s: %s", state, error)
