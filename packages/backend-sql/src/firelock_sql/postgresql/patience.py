"""Connections that give up a server which says nothing.

The kernel notices a host that vanished. It does not notice a server that stands still, or a proxy whose way
to the server is cut: there psycopg waits for ever.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, ClassVar

import psycopg
from typing_extensions import override

__all__ = ["PatientConnection", "patient_for"]


class PatientConnection(psycopg.Connection[Any]):
    """It is closed when an answer takes too long."""

    most_seconds: ClassVar[float]

    @override
    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **named: Any) -> Any:
        return super().wait(self._limited(gen), *args, **named)

    def _limited(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """The same generator, asked for its next step until the time is over.

        Raises:
            OperationalError: it is over; psycopg looks in now and then also where nothing comes.
        """
        deadline = time.monotonic() + self.most_seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > deadline:
                    self.pgconn.finish()
                    message = f"connection timeout: no answer within {self.most_seconds:g} s"
                    raise psycopg.OperationalError(message)
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value


def patient_for(seconds: float) -> type[PatientConnection]:
    """Return the connections that wait so long."""
    return type("PatientConnection", (PatientConnection,), {"most_seconds": seconds})
