"""The servers that are accepted as MySQL or MariaDB, and the products that are refused by name."""

from __future__ import annotations

import pytest

from firelock.storage import StorageError
from firelock_sql.mysql.connect import read_product


@pytest.mark.parametrize(
    ("version", "comment", "described"),
    [
        ("11.8.9-MariaDB-0+deb13u1 from Debian", "-- more about MariaDB", "MariaDB 11.8.9"),
        ("5.5.5-10.6.22-MariaDB-log", "MariaDB Server", "MariaDB 10.6.22"),
        ("10.6.0-MariaDB", "mariadb.org binary distribution", "MariaDB 10.6.0"),
        ("8.0.1", "MySQL Community Server - GPL", "MySQL 8.0.1"),
        ("8.4.6-6", "Percona Server (GPL), Release 6", "MySQL 8.4.6"),
        ("9.4.0", "MySQL Community Server - GPL", "MySQL 9.4.0"),
    ],
)
def test_server_with_skip_locked_is_accepted(version, comment, described):
    """MySQL from 8.0.1 and MariaDB from 10.6 are accepted, whatever else their version strings contain."""
    product = read_product(version, comment)

    assert str(product) == described


@pytest.mark.parametrize(
    ("version", "comment", "described"),
    [
        (
            "10.5.9-MariaDB",
            "MariaDB Server",
            "MariaDB must be version 10.6 or newer, because Firelock requires SKIP LOCKED; got 10.5.9.",
        ),
        (
            "5.5.5-10.5.29-MariaDB",
            "",
            "MariaDB must be version 10.6 or newer, because Firelock requires SKIP LOCKED; got 10.5.29.",
        ),
        (
            "5.7.44-log",
            "MySQL Community Server",
            "MySQL must be version 8.0.1 or newer, because Firelock requires SKIP LOCKED; got 5.7.44.",
        ),
        (
            "8.0.0",
            "MySQL Community Server",
            "MySQL must be version 8.0.1 or newer, because Firelock requires SKIP LOCKED; got 8.0.0.",
        ),
    ],
)
def test_server_without_skip_locked_is_refused_with_its_version(version, comment, described):
    """Without SKIP LOCKED, claims would wait for each other.

    The message names the first version that supports it.
    """
    with pytest.raises(StorageError) as refused:
        read_product(version, comment)

    assert str(refused.value).startswith(described)


@pytest.mark.parametrize(
    ("version", "comment", "name"),
    [
        ("8.0.11-TiDB-v8.5.1", "TiDB Server (Apache License 2.0)", "TiDB"),
        ("8.0.30-Vitess", "Version: 21.0.0", "Vitess"),
        ("5.7.32", "SingleStoreDB source distribution", "SingleStore"),
        ("8.0.33", "Dolt", "Dolt"),
        ("5.7.25-OceanBase-v4.2.1", "OceanBase 4.2.1", "OceanBase"),
    ],
)
def test_other_product_is_refused_with_its_name(version, comment, name):
    """A product that supports only the protocol locks rows in a different way or not at all."""
    with pytest.raises(StorageError, match=f"must be MySQL or MariaDB, got {name} "):
        read_product(version, comment)


def test_version_without_a_number_is_refused():
    """The message contains the version string of the server."""
    with pytest.raises(StorageError, match="Unknown server version 'unknown'"):
        read_product("unknown", "")


@pytest.mark.parametrize(
    ("version", "sorts_down"), [("10.7.8-MariaDB", False), ("10.8.1-MariaDB", True), ("8.0.36", True)]
)
def test_mariadb_without_descending_indexes_is_detected(version, sorts_down):
    """Before MariaDB 10.8, a claim reads its whole queue, and `firelock doctor` reports this."""
    assert read_product(version, "").sorts_down is sorts_down
