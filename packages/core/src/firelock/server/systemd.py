"""Notifications to a service manager that the server is ready, alive or stopping: see sd_notify(3)."""

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
    """The service manager that started this process. If there is none, notifications do nothing."""

    _address: str | None = None
    _every: float | None = None  # seconds between two watchdog notifications
    _notified_at: float = 0.0  # monotonic

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Self:
        """Return the manager that the environment names, and hide its address from worker processes.

        Watchdog notifications are sent three times within the interval after which the manager would consider
        this process dead.
        """
        address = environment.pop("NOTIFY_SOCKET", None)
        limit, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        is_watched = limit.isdigit() and int(limit) > 0 and pid in {"", str(os.getpid())}
        return cls(address, int(limit) / _MICROS / 3 if is_watched else None)

    def is_due(self, now: float) -> bool:
        """Return whether a watchdog notification is due at this monotonic time; if so, schedule the next."""
        if self._every is None or now - self._notified_at < self._every:
            return False
        self._notified_at = now
        return True

    def notify(self, state: str) -> None:
        """Notify the manager of a state such as READY=1; errors are ignored."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.settimeout(1.0)
                # Names in Linux's abstract namespace, which is outside the file system, begin with a zero
                # byte, which is written as @.
                connection.connect(
                    "\0" + self._address[1:] if self._address.startswith("@") else self._address
                )
                connection.sendall(state.encode())
        except OSError as error:
            log.debug("The service manager could not be notified of %s: %s", state, error)
