"""Which server answers: MySQL, MariaDB, or something that only speaks like them."""

from __future__ import annotations

import re

import attrs

from firelock.storage import StorageError

__all__ = ["Product", "read_product"]

# SKIP LOCKED, without which two claims stand in each other's way.
_OLDEST = {"MySQL": (8, 0, 1), "MariaDB": (10, 6, 0)}
_SINCE = {"MySQL": "8.0.1", "MariaDB": "10.6"}
# They speak MySQL's protocol, but lock rows in another way or not at all; a claim relies on how.
_STRANGERS = (
    "TiDB", "Vitess", "SingleStore", "MemSQL", "OceanBase", "Dolt", "StarRocks", "Doris", "ClickHouse",
    "Databend", "GreptimeDB", "Manticore", "PlanetScale",
)  # fmt: skip
_SORTED_DOWN = (10, 8, 0)
_NUMBERS = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


@attrs.frozen
class Product:
    """A server that Firelock can work with."""

    name: str  # "MySQL" or "MariaDB"
    version: tuple[int, ...]
    text: str  # the version in the server's own words, without its build

    @property
    def dialect(self) -> str:
        """Return what SQLAlchemy calls it."""
        return self.name.lower()

    @property
    def sorts_down(self) -> bool:
        """Tell whether an index can be kept in descending order, as the one that serves claims is."""
        return self.name == "MySQL" or self.version >= _SORTED_DOWN

    def __str__(self) -> str:
        """Return the name and the version."""
        return f"{self.name} {self.text}"


def read_product(version: str, comment: str) -> Product:
    """Return the server that says so of itself, by VERSION() and @@version_comment.

    Raises:
        StorageError: it is too old, or another product.
    """
    said = f"{version} {comment}"
    for stranger in _STRANGERS:
        if stranger.lower() in said.lower():
            message = f"The server is {stranger} ({version}); firelock-sql works with MySQL and MariaDB."
            raise StorageError(message)
    name = "MariaDB" if "mariadb" in said.lower() else "MySQL"
    # A MariaDB before 11 tells old clients that it is MySQL 5.5.5, and its own version behind that.
    found = _NUMBERS.search(version.removeprefix("5.5.5-") if name == "MariaDB" else version)
    if found is None:
        message = (
            f"The server's version {version!r} cannot be read; firelock-sql works with MySQL and MariaDB."
        )
        raise StorageError(message)
    numbers = tuple(int(number or 0) for number in found.groups())
    if numbers < _OLDEST[name]:
        message = (
            f"{name} {found[0]} is too old: SKIP LOCKED came with {_SINCE[name]}. Upgrade the server, or use "
            "another storage."
        )
        raise StorageError(message)
    return Product(name, numbers, found[0])
