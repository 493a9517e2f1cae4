"""What the first connection tells: whether the server will do, and whether a pooler stands before it.

A pooler such as PgBouncer lends a client another connection for each transaction. What a session keeps is
lost there, or found by somebody else: prepared statements, LISTEN, settings. It is known by its process ids:
at its start a connection is told one, to cancel by, and a pooler tells a number of its own.
"""

from __future__ import annotations

import logging
from typing import Any

from firelock.storage import StorageError

__all__ = ["OLDEST", "Way", "require_usable"]

log = logging.getLogger(__name__)

OLDEST = 13
_ASK = "SELECT pg_backend_pid(), version()"
_MAJOR = 10_000  # of libpq's number of a version: 150004 is 15.4
_STRANGERS = {"-YB-": "YugabyteDB", "Redshift": "Redshift", "Greenplum": "Greenplum", "QuestDB": "QuestDB"}


class Way:
    """The way from here to a server, once a connection has gone it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.is_pooled: bool | None = None  # None: nobody has connected yet

    def meet(self, driver: Any) -> None:  # noqa: ANN401 - a psycopg connection, of whatever rows
        """A new connection, in autocommit mode, is fit for its way; the first one costs a round trip.

        Raises:
            StorageError: this is no server that Firelock can use.
        """
        if self.is_pooled is None:
            self._learn(driver)
        if self.is_pooled:
            driver.prepare_threshold = None

    def _learn(self, driver: Any) -> None:  # noqa: ANN401 - see above
        cursor = driver.execute(_ASK)
        pid, version = cursor.fetchone()
        require_usable(self._name, version, driver.info.server_version)
        is_pooled = pid != driver.info.backend_pid
        self.is_pooled = is_pooled
        if is_pooled:
            log.info(
                "There is a pooler before %s: nothing is prepared, work is found by polling.", self._name
            )


def require_usable(name: str, version: str, number: int) -> None:
    """The server is a PostgreSQL, and new enough.

    Raises:
        StorageError: it is another database that speaks its protocol, or too old.
    """
    stranger = next((product for mark, product in _STRANGERS.items() if mark in version), None)
    if stranger is None and not version.startswith("PostgreSQL "):
        stranger = version.partition(" ")[0] or "nothing known"
    if stranger is not None:
        message = (
            f"{name}: it is {stranger}, which speaks PostgreSQL's protocol but locks rows by its own rules. "
            "Jobs would not be safe there; use PostgreSQL."
        )
        raise StorageError(message)
    if number < OLDEST * _MAJOR:
        found = version.split(" ")[1].rstrip(",")
        message = f"{name}: it is PostgreSQL {found}; Firelock needs {OLDEST} or newer. Upgrade the server."
        raise StorageError(message)
