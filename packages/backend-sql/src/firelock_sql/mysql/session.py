"""What a session has to be set to, and what is asked of one that is a caller's."""

from __future__ import annotations

from typing import Any

from firelock.storage import StorageError
from firelock_sql.mysql.product import Product, read_product

__all__ = ["meet", "runs_several"]

_SEVERAL = 1 << 16  # CLIENT_MULTI_STATEMENTS
_ASKED = "SELECT VERSION(), @@version_comment, @@SESSION.sql_mode, @@SESSION.character_set_client"
_LOCK_SECONDS = 2
_SESSION = (
    "SET SESSION time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'"
    f", innodb_lock_wait_timeout = {_LOCK_SECONDS}"
)
# A statement of its own: the variable's name is not the same everywhere.
_LEVEL = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
# Ends what a process leaves that stands still or is cut off: others need what it has locked. MySQL
# knows no limit for transactions alone: connections that nobody uses end as well, and are made anew.
_IDLE = {"MariaDB": "idle_transaction_timeout = 10", "MySQL": "wait_timeout = 60"}


def meet(driver: Any, *, is_own: bool) -> Product:  # noqa: ANN401 - any driver's connection
    """A new connection is set as ours are, a caller's has been looked at; return which server it leads to.

    Raises:
        StorageError: the server does not do, or texts would be cut or garbled in a session of this kind.
    """
    cursor = driver.cursor()
    cursor.execute(_ASKED)
    version, comment, mode, charset = map(str, cursor.fetchone())
    product = read_product(version, comment)
    if is_own:
        cursor.execute(f"{_SESSION}, {_IDLE[product.name]}")
        cursor.execute(_LEVEL)
    else:
        _require(mode, charset)
    cursor.close()
    return product


def _require(mode: str, charset: str) -> None:
    if "STRICT_TRANS_TABLES" not in mode and "STRICT_ALL_TABLES" not in mode:
        message = (
            f"The engine's sessions have sql_mode={mode!r}, in which a text too long for its column is cut "
            "without an error. Add STRICT_TRANS_TABLES on the server or in the engine's connections, or pass "
            "a URL."
        )
        raise StorageError(message)
    if charset != "utf8mb4":
        message = (
            f"The engine's sessions use the character set {charset!r}; add ?charset=utf8mb4 to its URL, or "
            "pass the URL to firelock."
        )
        raise StorageError(message)


def runs_several(driver: Any) -> bool:  # noqa: ANN401 - any driver's connection
    """Tell whether the connection takes several statements at once; mysqlclient does not say."""
    return bool(getattr(driver, "client_flag", 0) & _SEVERAL)
